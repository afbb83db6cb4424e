"""Settings: YAML on disk, frozen pydantic models in memory.

Later wins: the defaults below, a preset (`configs/`), a file, single values
(``training.epochs=20``). A key that does not exist is an error that names its path and the
valid names. Importing this module loads neither torch nor NumPy.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medp2p.errors import ConfigError
from medp2p.resources import preset_text

Modality = Literal["MR", "CT", "8-bit"]
"""``8-bit`` are grey pictures of 256 levels, of whatever they show."""
EIGHT_BIT: Modality = "8-bit"
EIGHT_BIT_RANGE = (0.0, 255.0)
Plane = Literal["axial", "coronal", "sagittal"]
Norm = Literal["batch", "instance"]

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Base of all settings: frozen, and no key beyond the named ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataSettings(Settings):
    """How a folder of case folders is read into a manifest."""

    sources: tuple[str, ...] = ("mr",)
    """File names, without suffix, of the source contrasts in a case folder."""
    target: str = "ct"
    """File name of the target image."""
    mask: str | None = "mask"
    """File name of the body mask; made from the source where a case has none."""
    validation_fraction: Fraction = 0.15
    """Share of patients that choose the best epoch."""
    test_fraction: Fraction = 0.15
    """Share of patients that training never sees."""
    split_seed: Seed = 0
    folds: Annotated[int, Field(ge=2)] | None = None
    """Divide the training patients into so many folds instead of taking a validation split;
    ``training.fold`` chooses the one that validates."""
    stratify: str | None = None
    """Column of the table of patients; every split gets its share of each of its values."""
    patient_pattern: str | None = None
    """Regular expression whose first group, found in a case's name, is the patient; null takes
    each case as a patient of its own. A patient's cases share one split."""
    match: dict[str, str] = {}
    """Which image to take where several fit, by pattern (``{source: "T1*MPRAGE*"}``)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.sources:
            raise ValueError("name at least one source")
        try:
            re.compile(self.patient_pattern or "")
        except re.error as error:
            raise ValueError(f"patient_pattern is no regular expression: {error}") from error
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction leave nothing to train on")
        return self


STANDARD_SCALE = (0.0, 100.0)
"""Ends of the scale that Nyúl's landmarks bring an MR to."""


class ImageSettings(Settings):
    """What one kind of image is, and how its values are mapped to [-1, 1]."""

    modality: Modality = "MR"
    bias_correction: bool = False
    """MR: remove shading by N4 before all else."""
    standardization: Literal["percentile", "zscore", "nyul"] = "percentile"
    """MR: how values are mapped. ``percentile`` and ``zscore`` are linear; ``nyul`` is piecewise
    linear between landmarks that are fitted to the training images."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """MR, ``percentile`` and ``nyul``: percentiles inside the mask that are mapped to -1 and +1;
    values beyond are kept up to 1.5 times the range above and clipped below."""
    zscore_range: tuple[float, float] = (-3.0, 3.0)
    """MR, ``zscore``: standard deviations from the mean inside the mask that are mapped to -1
    and +1; values beyond are kept as with ``percentile``."""
    landmarks: tuple[float, ...] | None = None
    """MR, ``nyul``: the standard scale; null until `medp2p prepare` has fitted it."""
    hu_range: tuple[float, float] = (-1024.0, 3071.0)
    """CT: CT numbers in HU that are mapped to -1 and +1, clipped beyond."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must rise within 0..100, got {low:g}, {high:g}")
        if not self.hu_range[0] < self.hu_range[1]:
            raise ValueError(f"hu_range must rise, got {self.hu_range[0]:g}, {self.hu_range[1]:g}")
        if not self.zscore_range[0] < self.zscore_range[1]:
            raise ValueError("zscore_range must rise")
        if self.modality != "MR" and (self.bias_correction or self.standardization != "percentile"):
            raise ValueError(
                "bias_correction and standardization are for MR; CT numbers stay in HU, and "
                "8-bit pictures keep their grey levels"
            )
        self._check_landmarks()
        return self

    def _check_landmarks(self) -> None:
        if self.landmarks is None:
            return
        if self.standardization != "nyul":
            raise ValueError("landmarks go with standardization: nyul")
        rises = all(a < b for a, b in itertools.pairwise(self.landmarks))
        if (
            len(self.landmarks) < 2
            or not rises
            or self.landmarks[:: len(self.landmarks) - 1] != (STANDARD_SCALE)
        ):
            raise ValueError("landmarks must rise from 0 to 100; leave them to `medp2p prepare`")


class PreprocessingSettings(Settings):
    """From volumes as scanned to volumes as the network sees them."""

    source: ImageSettings = ImageSettings(modality="MR")
    target: ImageSettings = ImageSettings(modality="CT")
    spacing_mm: tuple[PositiveFloat | None, PositiveFloat | None, PositiveFloat | None] = (
        1.0,
        1.0,
        None,
    )
    """Training spacing along left-right, back-front and feet-head; null keeps the volume's own."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        pictures = [image.modality == EIGHT_BIT for image in (self.source, self.target)]
        if any(pictures) and not all(pictures):
            raise ValueError("8-bit pictures have no place in space; source and target must be so")
        return self

    def with_landmarks_of(self, fitted: PreprocessingSettings) -> PreprocessingSettings:
        """Take over the landmarks that were fitted where these settings leave them open."""
        changes = {}
        for role in ("source", "target"):
            own: ImageSettings = getattr(self, role)
            landmarks = getattr(fitted, role).landmarks
            if own.standardization == "nyul" and own.landmarks is None and landmarks is not None:
                changes[role] = own.model_copy(update={"landmarks": landmarks})
        return self.model_copy(update=changes)


class RegistrationSettings(Settings):
    """How the images of a pair are brought to one place."""

    mode: Literal["auto", "none", "rigid", "affine"] = "auto"
    """``auto`` is rigid, but leaves images of one frame of reference or one grid as they are;
    ``none`` says that all are aligned already."""
    deformable: bool = False
    """Refine by a smooth deformation (B-splines)."""


class AuditSettings(Settings):
    """From where on a pair is in question or rejected; ``docs/audit.md`` says how they were set."""

    turned_degrees: NonNegativeFloat = 30.0
    """Check a pair that registration turned by more against the headers."""
    residual_voxels: PositiveFloat = 1.25
    """Check a pair whose images still lie further apart, in voxels (the longest edge of either
    image's voxels) …"""
    residual_mm: PositiveFloat = 3.0
    """… or further apart than this, whatever the voxels."""
    parts_share: PositiveFloat = 0.02
    """Check a pair if parts of the body disagree about the pose by more than this share of the
    body's size (20 mm per metre: 4 mm in a head)."""
    lost_parts: tuple[Fraction, Fraction] = (0.3, 0.6)
    """Check, and reject, a pair if more of the body's parts are not found where they should be."""
    surface_share: PositiveFloat = 0.02
    """Check a pair whose body surfaces lie further apart, mean, as a share of the body's size."""
    covered: tuple[Fraction, Fraction] = (0.5, 0.25)
    """Check, and reject, a pair whose second image shows less of the first one's body."""
    loose_mask: Fraction = 0.15
    """Check a pair if more of a body mask is air that reaches the outside."""
    clipped: Fraction = 0.05
    """Check a CT with more of the body outside ``hu_range``, if that is over 1000 HU wide."""
    metal_cm3: NonNegativeFloat = 5.0
    """Check a CT with more metal."""
    median_hu: tuple[float, float] = (-400.0, 300.0)
    """Check a CT whose median inside the body is elsewhere."""
    set_cases: Annotated[int, Field(ge=3)] = 8
    """Cases that it takes to call one of them unlike the others."""
    set_deviations: PositiveFloat = 6.0
    """Check a case this many robust standard deviations from the median of the set."""


class PreparationSettings(Settings):
    """From scans to checked pairs."""

    registration: RegistrationSettings = RegistrationSettings()
    audit: AuditSettings = AuditSettings()
    seed: Seed = 0
    """Of the registration."""


class SliceSettings(Settings):
    """How two-dimensional samples are cut from a volume."""

    plane: Plane = "axial"
    stack: PositiveInt = 1
    """Neighbouring source slices given as channels; odd. 1 is plain 2-D."""
    size: tuple[PositiveInt, PositiveInt] = (256, 256)
    """Rows and columns of a training sample; slices are padded or cropped, never stretched."""
    minimum_mask_fraction: Fraction = 0.01
    """Slices with less body than this are left out of training."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stack % 2 == 0:
            raise ValueError(f"stack must be odd, so that it has a middle slice, got {self.stack}")
        return self


class AugmentationSettings(Settings):
    """Random changes of a training batch, made on the device."""

    flip: bool = True
    """Mirror left and right (in the sagittal plane: back and front) with probability 0.5."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Turn by up to this angle, in pixels: where rows and columns have different spacing (thick
    slices in coronal or sagittal planes) anatomy is sheared a little, so keep it small."""
    scale: Fraction = 0.1
    """Zoom by a factor within 1 ± scale."""
    shift: Fraction = 0.05
    """Move by up to this share of the slice."""
    intensity_scale: Fraction = 0.1
    """Source contrast times 1 ± this."""
    intensity_shift: Fraction = 0.1
    """Source brightness plus or minus this, in units of the [-1, 1] range."""
    gamma: Fraction = 0.2
    """Source raised to a power within 1 ± this, after mapping to [0, 1]."""


class GeneratorSettings(Settings):
    """The U-Net of Isola et al. 2017."""

    levels: Annotated[int, Field(ge=3, le=9)] = 8
    """Number of halvings: 8 is unet_256, 7 is unet_128; the slice size must be a multiple of
    2 to this power."""
    channels: PositiveInt = 64
    norm: Norm = "instance"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Dropout in the decoder's inner blocks, the noise of pix2pix."""
    upsampling: Literal["transposed", "resize"] = "transposed"
    """``resize`` is interpolation followed by a convolution: no checkerboards."""
    head: Literal["tanh", "linear"] = "tanh"


class DiscriminatorSettings(Settings):
    """The PatchGAN of Isola et al. 2017; three layers see patches of 70×70."""

    channels: PositiveInt = 64
    layers: Annotated[int, Field(ge=1, le=6)] = 3
    norm: Norm = "instance"


class Pix2PixSettings(Settings):
    """pix2pix: an adversarial loss plus a weighted L1 on paired slices."""

    name: Literal["pix2pix"] = "pix2pix"
    generator: GeneratorSettings = GeneratorSettings()
    discriminator: DiscriminatorSettings = DiscriminatorSettings()
    adversarial_loss: Literal["bce", "least_squares"] = "bce"
    adversarial_weight: NonNegativeFloat = 1.0
    l1_weight: NonNegativeFloat = 100.0
    masked_l1: bool = False
    """Average the L1 over the body mask instead of the whole slice."""
    learning_rate: PositiveFloat = 2e-4
    betas: tuple[Momentum, Momentum] = (0.5, 0.999)
    initial_weight_sd: PositiveFloat = 0.02


class TrainingSettings(Settings):
    """The training loop."""

    epochs: PositiveInt = 100
    """Epochs at the full learning rate."""
    decay_epochs: Annotated[int, Field(ge=0)] = 100
    """Further epochs over which the learning rate falls linearly to zero."""
    slices_per_epoch: PositiveInt | None = None
    """Slices drawn per epoch; null is every slice once."""
    batch_size: PositiveInt = 8
    """Slices per step and process."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` is bf16 (mixed) where the device computes in it natively, else fp32."""
    seed: Seed = 0
    fold: Annotated[int, Field(ge=0)] | None = None
    """Which fold validates, from 0, where the data were prepared with ``data.folds``."""
    validate_every: PositiveInt = 5
    """Epochs between validations on whole volumes."""
    patience: PositiveInt | None = None
    """Stop after this many validations without a better masked MAE; null never stops early."""
    save_minutes: NonNegativeFloat = 5.0
    """Minutes between saved training states, within an epoch too; 0 saves after every step."""


class Config(Settings):
    """Everything a training run is made of."""

    description: str = ""
    data: DataSettings = DataSettings()
    preparation: PreparationSettings = PreparationSettings()
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    slices: SliceSettings = SliceSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    method: Pix2PixSettings = Pix2PixSettings()
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _check_folds(self) -> Self:
        images = (self.preprocessing.source, self.preprocessing.target)
        if self.data.folds and any(one.standardization == "nyul" for one in images):
            raise ValueError(
                "data.folds and standardization nyul: its scale would be fitted on the fold that "
                "validates, too; use percentile or zscore"
            )
        return self

    @model_validator(mode="after")
    def _check_slice_size(self) -> Self:
        smallest = 3 * 2**self.method.discriminator.layers
        if min(self.slices.size) < smallest:
            raise ValueError(
                f"slices.size {list(self.slices.size)} is too small for "
                f"method.discriminator.layers = {self.method.discriminator.layers}, which needs "
                f"{smallest}"
            )
        multiple = 2**self.method.generator.levels
        if any(n % multiple for n in self.slices.size):
            raise ValueError(
                f"slices.size {list(self.slices.size)} must be a multiple of {multiple} "
                f"(2 to method.generator.levels = {self.method.generator.levels})"
            )
        return self


def load_config(
    *,
    preset: str | None = None,
    file: Path | None = None,
    assignments: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Merge defaults, preset, file, ``key.path=value`` assignments and overrides.

    Args:
        preset: Name of a shipped preset.
        file: A YAML file of the user's.
        assignments: Texts such as ``"training.epochs=20"``; the value is read as YAML.
        overrides: Dotted key to value; ``None`` values are left out.

    Raises:
        ConfigError: For an unknown key, a wrong value, a missing or malformed file.
    """
    merged: dict[str, Any] = {}
    where = []
    if preset is not None:
        merged = _merge(merged, parse_yaml(preset_text(preset), f"preset {preset}"))
        where.append(f"preset {preset}")
    if file is not None:
        merged = _merge(merged, parse_yaml(_read_text(file), str(file)))
        where.append(str(file))
    for text in assignments:
        merged = _merge(merged, _parse_assignment(text))
        where.append(f"--set {text}")
    for key, value in (overrides or {}).items():
        if value is not None:
            merged = _merge(merged, _nest(key, value))
    return validate_config(merged, ", ".join(where) or "settings")


def validate_config(values: Mapping[str, Any], where: str) -> Config:
    """Make a `Config` of nested values; ``where`` names their origin in an error.

    Raises:
        ConfigError: With the path of the first wrong key and what would be right.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from error


def stored_config(values: Mapping[str, Any], where: str) -> Config:
    """Make a `Config` of what a model file holds.

    Settings that translation has no use for (data, augmentation, training) and that this
    version no longer knows are left out.

    Raises:
        ConfigError: As `validate_config`.
    """
    kept = dict(values)
    for section in ("data", "preparation", "augmentation", "training"):
        known = _names_in([section])
        stored = kept.get(section, {})
        kept[section] = {key: value for key, value in stored.items() if key in known}
    return validate_config(kept, where)


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse a YAML mapping.

    Raises:
        ConfigError: If it is not YAML or not a mapping.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected settings as `key: value`, found {values!r:.60}")
    return values


def config_yaml(config: Config) -> str:
    """Write a configuration as YAML that `load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as a settings file: {error}") from error


def _parse_assignment(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {text}: expected key.path=value, such as training.epochs=20")
    try:
        return _nest(key.strip(), yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: {value!r} is not a YAML value") from error


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    nested: dict[str, Any] = value
    return nested


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if (
            isinstance(old, dict)
            and isinstance(value, dict)
            and not _names_other_method(old, value)
        ):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _names_other_method(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "name" in new and new["name"] != old.get("name", new["name"])


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    path = [part for part in first["loc"] if isinstance(part, str)]
    if first["type"] == "extra_forbidden":
        valid = _names_in(path[:-1])
        close = difflib.get_close_matches(path[-1], valid, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"unknown setting {'.'.join(path)}; {hint}valid here: {', '.join(valid)}"
    found = "" if isinstance(first["input"], dict) else f", found {first['input']!r:.60}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(path)}: {message}{found}" if path else message


def _names_in(path: Sequence[str]) -> list[str]:
    settings: Any = Config
    for part in path:
        settings = settings.model_fields[part].annotation
    return list(settings.model_fields)
