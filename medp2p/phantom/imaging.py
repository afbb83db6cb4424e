"""From painted tissues to images: blur, texture, noise, and the receive coil's shading."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from medp2p.phantom.shapes import Array, Points

CT_BLUR_MM = 1.1
"""Full width at half maximum of the CT's point spread function."""
CT_NOISE_GRAIN_MM = 1.2
"""Full width at half maximum of the blur that correlates the CT's noise."""
CT_RANGE_HU = (-1024, 3071)
TEXTURE_GRAIN_MM = 5.0
FWHM_TO_SIGMA = 1 / 2.3548


def block_mean(channels: Array, factor: tuple[int, int, int]) -> Array:
    """Average blocks of voxels; (channel, i, j, k) to (channel, i/fi, j/fj, k/fk)."""
    c, i, j, k = channels.shape
    fi, fj, fk = factor
    blocks = channels.reshape(c, i // fi, fi, j // fj, fj, k // fk, fk)
    return np.asarray(blocks.mean(axis=(2, 4, 6)), np.float32)


def correlated_noise(
    shape: tuple[int, ...],
    spacing_mm: NDArray[np.float64],
    grain_mm: float,
    rng: np.random.Generator,
) -> Array:
    """Noise with mean 0 and standard deviation 1, blurred to a grain in millimetres."""
    white = rng.standard_normal(shape, dtype=np.float32)
    smooth = gaussian_filter(white, grain_mm * FWHM_TO_SIGMA / spacing_mm, mode="wrap")
    return np.asarray(smooth / smooth.std(), np.float32)


def ct_image(
    hu: Array, spacing_mm: NDArray[np.float64], noise_hu: float, rng: np.random.Generator
) -> tuple[Array, NDArray[np.int16]]:
    """Blur and noise of a CT scanner.

    Returns:
        CT numbers without noise (float32) and with noise (int16), both in `CT_RANGE_HU`.
    """
    blurred = gaussian_filter(hu, CT_BLUR_MM * FWHM_TO_SIGMA / spacing_mm, mode="nearest")
    noise = correlated_noise(hu.shape, spacing_mm, CT_NOISE_GRAIN_MM, rng)
    noisy = np.rint(blurred + np.float32(noise_hu) * noise).clip(*CT_RANGE_HU)
    return blurred.clip(*CT_RANGE_HU), noisy.astype(np.int16)


def shading(world: Points, strength: float, rng: np.random.Generator) -> Array:
    """Smooth multiplicative field of the receive coil, mean about 1.

    Args:
        world: World coordinates in mm, arrays that broadcast to the image.
        strength: Spread of the field's logarithm.
        rng: Draws the field.
    """
    waves = 4
    field = np.zeros(np.broadcast_shapes(*(axis.shape for axis in world)), np.float32)
    for _ in range(waves):
        direction = rng.standard_normal(3)
        direction *= 2 * np.pi / (rng.uniform(250, 450) * np.linalg.norm(direction))
        phase = sum(np.float32(d) * axis for d, axis in zip(direction, world, strict=True))
        field += np.cos(phase + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.asarray(np.exp(np.float32(strength * np.sqrt(2 / waves)) * field), np.float32)


def mr_image(
    signal: Array, noise: float, scale: float, rng: np.random.Generator
) -> NDArray[np.int16]:
    """Magnitude image of a noisy complex signal (Rician noise), in scanner units.

    Args:
        signal: Noise-free signal, at least 0.
        noise: Standard deviation in the real and in the imaginary channel.
        scale: Scanner units per unit of signal.
        rng: Draws the noise.
    """
    real = signal + np.float32(noise) * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = np.float32(noise) * rng.standard_normal(signal.shape, dtype=np.float32)
    magnitude = np.hypot(real, imaginary) * np.float32(scale)
    return np.asarray(np.rint(magnitude).clip(0, 32767), np.int16)
