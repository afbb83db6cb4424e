"""medp2p's reading and preprocessing as MONAI parts, for this pipeline and for anyone's.

`VolumeReader` gives `monai.transforms.LoadImaged` medp2p's geometry. The dictionary
transforms work on ``MetaTensor`` images of shape (1, I, J, K) with an RAS+ affine.

Example:
    >>> load = LoadImaged(["mr", "ct"], reader=VolumeReader(), ensure_channel_first=True)
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, PathLike
from monai.data import ImageReader, MetaTensor
from monai.transforms import Compose, MapTransform
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys
from numpy.typing import NDArray

from medp2p.config import PreprocessingSettings
from medp2p.errors import GeometryError
from medp2p.io import is_dicom_file, is_image, read_volume
from medp2p.preprocessing import body_mask, check_mask, prepare_images
from medp2p.volume import Volume


class VolumeReader(ImageReader):
    """Reads images for MONAI's ``LoadImage`` with `medp2p.io.read_volume`.

    The array is (I, J, K) with its dtype on disk, the affine RAS+ millimetres. What medp2p
    refuses (conflicting frames, NaN, truncated files) is refused here too.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Tell whether medp2p reads this file, or this folder of DICOM files."""
        return all(
            is_image(path) or (path.is_file() and is_dicom_file(path)) for path in _paths(filename)
        )

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> list[Volume]:
        """Read one image or several; a DICOM series is one, named by its folder."""
        return [read_volume(path, **kwargs) for path in _paths(data)]

    def get_data(self, img: Sequence[Volume] | Volume) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return the voxels and MONAI's metadata; several volumes become channels.

        Raises:
            GeometryError: If several volumes do not share a grid.
        """
        volumes = [img] if isinstance(img, Volume) else list(img)
        first = volumes[0]
        for other in volumes[1:]:
            difference = first.grid.difference(other.grid)
            if difference:
                raise GeometryError(
                    f"{other.name}: not on the grid of {first.name}: {difference}; "
                    "load them one by one"
                )
        stacked = len(volumes) > 1
        array = np.stack([v.array for v in volumes]) if stacked else first.array
        return array, {
            MetaKeys.AFFINE: first.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: first.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(first.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if stacked else float("nan"),
            "modality": first.modality or "",
        }


class LoadVolumed(MapTransform):
    """Read the file under each key into a ``MetaTensor`` of shape (1, I, J, K).

    The same as ``LoadImaged`` with a `VolumeReader`, but a refusal keeps its own words.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with images in place of paths.

        Raises:
            ImageReadError: If a file cannot be read.
            GeometryError: If its voxels cannot be placed.
        """
        return {
            key: to_tensor(read_volume(Path(value))) if key in self.keys else value
            for key, value in data.items()
        }


class BodyMaskd(MapTransform):
    """Put the body mask of the first key under ``mask_key``, unless a mask is there already.

    Args:
        keys: The image, shape (1, I, J, K).
        mask_key: Where the mask goes: uint8 ``MetaTensor`` of the same shape and affine.
        modality: ``"MR"`` or ``"CT"``.
    """

    def __init__(self, keys: KeysCollection, mask_key: str, modality: str) -> None:
        super().__init__(keys)
        self.mask_key = mask_key
        self.modality = modality

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with a mask; a given mask is put on the image's own axes.

        Raises:
            GeometryError: If the given mask is on another grid.
            ImageReadError: If the given mask is empty, or no body is found.
        """
        result = dict(data)
        image = to_volume(result[self.keys[0]])
        given = result.get(self.mask_key)
        if given is not None:
            mask = check_mask(to_volume(given), image)
        else:
            mask = body_mask(image, self.modality)
        result[self.mask_key] = to_tensor(image.with_array(mask.astype(np.uint8)))
        return result


class ToTrainingGridd(MapTransform):
    """Resample once to the first key's training grid, map to unit range, code as int16.

    Each key becomes a `medp2p.preprocessing.PreparedImage`; ``mask_key`` becomes the body
    that all images show, uint8 (K, J, I). Under ``alignments_key`` there may be an
    `medp2p.alignment.Alignment` for each further image, from the first one's world to its own.

    Args:
        keys: Source images in channel order, then the target.
        mask_key: The body mask on the first key's grid.
        settings: Spacing and value mapping.
        alignments_key: A mapping of keys to alignments; images without one share the first
            one's world.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str,
        settings: PreprocessingSettings,
        alignments_key: str = "alignments",
    ) -> None:
        super().__init__(keys)
        self.mask_key = mask_key
        self.settings = settings
        self.alignments_key = alignments_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with prepared images.

        Raises:
            ImageReadError: If an image is not of the modality that the settings name.
            GeometryError: If images do not overlap.
        """
        result = dict(data)
        volumes = {key: to_volume(result[key]) for key in self.keys}
        body = to_volume(result[self.mask_key]).array > 0
        alignments = result.get(self.alignments_key) or {}
        prepared, result[self.mask_key] = prepare_images(volumes, body, self.settings, alignments)
        result.update(prepared)
        return result


def preparation_transforms(
    sources: Sequence[str], settings: PreprocessingSettings, *, with_mask: bool
) -> Compose:
    """Chain reading, body mask and the training grid for one case.

    Args:
        sources: Keys of the source contrasts; the others are ``"target"`` and ``"mask"``.
        settings: Spacing and value mapping.
        with_mask: Whether the case brings a mask.

    Returns:
        A transform of a dictionary of paths into one of `PreparedImage` and the mask.
    """
    keys = [*sources, "target"]
    loaded = [*keys, "mask"] if with_mask else keys
    return Compose(
        [
            LoadVolumed(loaded),
            BodyMaskd(sources[0], "mask", settings.source.modality),
            ToTrainingGridd(keys, "mask", settings),
        ]
    )


def to_volume(image: MetaTensor) -> Volume:
    """Return a (1, I, J, K) ``MetaTensor`` as a `Volume`."""
    name = image.meta.get(ImageMetaKey.FILENAME_OR_OBJ)
    return Volume(
        image.as_tensor().numpy()[0],
        np.asarray(image.affine, dtype=np.float64),
        modality=image.meta.get("modality") or None,
        path=Path(name) if name else None,
    )


def to_tensor(volume: Volume) -> MetaTensor:
    """Return a `Volume` as a (1, I, J, K) ``MetaTensor``."""
    meta = {MetaKeys.SPACE: SpaceKeys.RAS, "modality": volume.modality or ""}
    if volume.path:
        meta[ImageMetaKey.FILENAME_OR_OBJ] = str(volume.path)
    array = torch.from_numpy(np.ascontiguousarray(volume.array)[None])
    return MetaTensor(array, affine=torch.from_numpy(volume.affine.copy()), meta=meta)


def _paths(names: Sequence[PathLike] | PathLike) -> list[Path]:
    if isinstance(names, str | os.PathLike):
        return [Path(names)]
    return [Path(name) for name in names]
