"""Prepared volumes on disk, and batches of their slices on the device.

A prepared folder holds

- ``voxels.i16``: the int16 codes of every source and target, one after the other, each of
  shape (K, J, I) on its case's training grid (feet to head, back to front, left to right);
- ``masks.u8``: the body masks likewise;
- ``index.json``: where each volume begins, its shape, affine and value range, and the
  preprocessing that made it, with a hash that training checks.

Volumes are decoded once. A slice of any plane, or a stack of neighbours, is a view.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medp2p.batch import Batch
from medp2p.config import PreprocessingSettings, SliceSettings
from medp2p.errors import PreparedDataError
from medp2p.preprocessing import CODES_PER_UNIT
from medp2p.volume import Grid

STORE_VERSION = 1
VOXELS_FILE = "voxels.i16"
MASKS_FILE = "masks.u8"
INDEX_FILE = "index.json"

PLANE_AXIS = {"axial": 0, "coronal": 1, "sagittal": 2}
"""Axis of a (K, J, I) volume along which the slices of a plane are counted."""

BACKGROUND_CODE = -CODES_PER_UNIT
"""Code of -1, the value around a slice that is smaller than the sample."""


@dataclass(frozen=True)
class PreparedCase:
    """Where one case lies in the prepared folder.

    Attributes:
        name: Name of the case.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        shape: (K, J, I) of all its volumes.
        affine: Of the training grid, for indices (I, J, K).
        source_offsets: First voxel of each source contrast in the voxel file.
        target_offset: First voxel of the target.
        mask_offset: First voxel in the mask file.
        source_ranges: Values of each source that became -1 and +1.
        target_range: Values of the target that became -1 and +1.
    """

    name: str
    split: str
    shape: tuple[int, int, int]
    affine: list[list[float]]
    source_offsets: list[int]
    target_offset: int
    mask_offset: int
    source_ranges: list[tuple[float, float]]
    target_range: tuple[float, float]

    @property
    def grid(self) -> Grid:
        """The training grid of the case."""
        k, j, i = self.shape
        return Grid((i, j, k), np.array(self.affine))


class PreparedWriter:
    """Appends cases to a folder that is being prepared."""

    def __init__(self, folder: Path, preprocessing: PreprocessingSettings, sources: Sequence[str]):
        self._folder = folder
        self._preprocessing = preprocessing
        self._sources = list(sources)
        self._cases: list[PreparedCase] = []
        self._digest = hashlib.sha256()
        self._voxels: BinaryIO = (folder / VOXELS_FILE).open("wb")
        self._masks: BinaryIO = (folder / MASKS_FILE).open("wb")

    def add(
        self,
        name: str,
        split: str,
        grid: Grid,
        sources: Sequence[tuple[NDArray[np.int16], tuple[float, float]]],
        target: tuple[NDArray[np.int16], tuple[float, float]],
        mask: NDArray[np.uint8],
    ) -> PreparedCase:
        """Append one case: (codes, value range) of each source and the target, and the mask."""
        case = PreparedCase(
            name=name,
            split=split,
            shape=(int(mask.shape[0]), int(mask.shape[1]), int(mask.shape[2])),
            affine=grid.affine.tolist(),
            source_offsets=[self._append(self._voxels, codes, "<i2") for codes, _ in sources],
            target_offset=self._append(self._voxels, target[0], "<i2"),
            mask_offset=self._append(self._masks, mask, "u1"),
            source_ranges=[value_range for _, value_range in sources],
            target_range=target[1],
        )
        self._cases.append(case)
        return case

    def finish(self) -> None:
        """Close the files and write the index."""
        self._voxels.close()
        self._masks.close()
        index = {
            "version": STORE_VERSION,
            "sources": self._sources,
            "preprocessing": self._preprocessing.model_dump(mode="json"),
            "voxels_sha256": self._digest.hexdigest(),
            "cases": [asdict(case) for case in self._cases],
        }
        (self._folder / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")

    def close(self) -> None:
        """Close the files without an index, after a failure."""
        self._voxels.close()
        self._masks.close()

    def _append(self, file: BinaryIO, array: NDArray[Any], dtype: str) -> int:
        offset = file.tell() // np.dtype(dtype).itemsize
        data = np.ascontiguousarray(array, dtype=dtype).data
        self._digest.update(data)
        file.write(data)
        return offset


class PreparedData:
    """A prepared folder, memory-mapped.

    Attributes:
        folder: Where it lies.
        sources: Names of the source contrasts, in channel order.
        preprocessing: The settings that made it.
        hash: SHA-256 of the index: of voxels, masks, splits, places and settings.
        cases: All cases.
        voxels: int16 codes, flat.
        masks: uint8, flat.

    Raises:
        PreparedDataError: If the folder is not a prepared one, or damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        index = _read_index(folder)
        try:
            self.sources: list[str] = index["sources"]
            self._voxels_hash: str = index["voxels_sha256"]
            self.hash = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
            self.preprocessing = PreprocessingSettings.model_validate(index["preprocessing"])
            self.cases = [_case_of_index(entry) for entry in index["cases"]]
        except (KeyError, TypeError, ValueError) as error:
            raise PreparedDataError(
                f"{folder / INDEX_FILE}: damaged, or of another medp2p; run `medp2p prepare` again"
            ) from error
        self.voxels: NDArray[np.int16] = _memory_map(folder / VOXELS_FILE, "<i2")
        self.masks: NDArray[np.uint8] = _memory_map(folder / MASKS_FILE, "u1")
        voxels = sum((len(c.source_offsets) + 1) * int(np.prod(c.shape)) for c in self.cases)
        if len(self.voxels) != voxels or len(self.masks) * (len(self.sources) + 1) != voxels:
            raise PreparedDataError(
                f"{folder}: holds {len(self.voxels)} voxels, its index says {voxels}; "
                "the folder is damaged, run `medp2p prepare` again"
            )

    def split(self, name: str) -> list[PreparedCase]:
        """Cases of one split."""
        return [case for case in self.cases if case.split == name]

    def check_preprocessing(self, settings: PreprocessingSettings) -> None:
        """Refuse data that other settings made.

        Raises:
            PreparedDataError: Naming the first setting that differs.
        """
        made = self.preprocessing.model_dump(mode="json")
        wanted = settings.model_dump(mode="json")
        for key in wanted:
            if made[key] != wanted[key]:
                raise PreparedDataError(
                    f"{self.folder}: was prepared with preprocessing.{key} = {made[key]}, the "
                    f"settings now say {wanted[key]}; prepare again or use the same settings"
                )

    def verify(self) -> None:
        """Refuse voxels or masks that are not those that were written.

        Raises:
            PreparedDataError: If a byte has changed.
        """
        digest = hashlib.sha256()
        for case in self.cases:
            for offset in (*case.source_offsets, case.target_offset):
                digest.update(_at(self.voxels, offset, case.shape).data)
            digest.update(self.mask(case).data)
        if digest.hexdigest() != self._voxels_hash:
            raise PreparedDataError(
                f"{self.folder}: damaged, its checksum does not match; run `medp2p prepare` again"
            )

    def source(self, case: PreparedCase) -> NDArray[np.int16]:
        """Codes of all source contrasts, (C, K, J, I)."""
        return np.stack([_at(self.voxels, offset, case.shape) for offset in case.source_offsets])

    def target(self, case: PreparedCase) -> NDArray[np.int16]:
        """Codes of the target, (K, J, I)."""
        return _at(self.voxels, case.target_offset, case.shape)

    def mask(self, case: PreparedCase) -> NDArray[np.uint8]:
        """Body mask, (K, J, I)."""
        return _at(self.masks, case.mask_offset, case.shape)


class SliceBatches:
    """Batches of slices of some cases, gathered on the device.

    The voxels move to the device as a whole if they fit into ``memory_bytes`` there;
    otherwise slices are gathered on the host and each batch is sent.
    """

    def __init__(
        self,
        data: PreparedData,
        cases: Sequence[PreparedCase],
        slices: SliceSettings,
        device: torch.device,
        memory_bytes: float = float("inf"),
    ):
        self._slices = slices
        self._device = device
        self._cases = list(cases)
        self._axis = PLANE_AXIS[slices.plane]
        resident = device.type == "cpu" or data.voxels.nbytes + data.masks.nbytes < memory_bytes
        place = device if resident else torch.device("cpu")
        self._voxels = torch.from_numpy(data.voxels).to(place)
        self._masks = torch.from_numpy(data.masks).to(place)
        self._pin = not resident
        self.samples = [
            (number, index)
            for number, case in enumerate(self._cases)
            for index in self._slices_with_body(data, case)
        ]

    def gather(self, picks: Sequence[int], generator: torch.Generator) -> Batch:
        """Collect samples into a batch.

        Args:
            picks: Indices into ``samples``.
            generator: On the host; places the crop of slices larger than the sample.

        Returns:
            The batch, on the device.
        """
        rows, columns = self._slices.size
        channels = len(self._cases[0].source_offsets) * self._slices.stack + 1
        place, pin = self._voxels.device, self._pin
        codes = torch.full(
            (len(picks), channels, rows, columns),
            BACKGROUND_CODE,
            dtype=torch.int16,
            device=place,
            pin_memory=pin,
        )
        masks = torch.zeros(
            (len(picks), 1, rows, columns), dtype=torch.uint8, device=place, pin_memory=pin
        )
        copies: list[tuple[Tensor, Tensor]] = []
        for number, pick in enumerate(picks):
            copies += self._copies_of_sample(codes[number], masks[number], pick, generator)
        for destination, source in copies:
            destination.copy_(source)
        unit = codes.to(self._device, non_blocking=True).float() / CODES_PER_UNIT
        mask = masks.to(self._device, non_blocking=True).float()
        return Batch(source=unit[:, :-1], target=unit[:, -1:], mask=mask)

    def _copies_of_sample(
        self, codes: Tensor, mask: Tensor, pick: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        number, index = self.samples[pick]
        case = self._cases[number]
        shape = [n for axis, n in enumerate(case.shape) if axis != self._axis]
        windows = [
            _window(have, want, generator)
            for have, want in zip(shape, self._slices.size, strict=True)
        ]
        there = tuple(to for _, to in windows)
        here = tuple(of for of, _ in windows)
        planes = [
            self._plane(self._voxels, offset, case, neighbour)
            for offset in case.source_offsets
            for neighbour in stack_indices(index, self._slices.stack, case.shape[self._axis])
        ]
        planes.append(self._plane(self._voxels, case.target_offset, case, index))
        for channel, plane in enumerate(planes):
            yield codes[channel][there], plane[here]
        yield mask[0][there], self._plane(self._masks, case.mask_offset, case, index)[here]

    def _plane(self, flat: Tensor, offset: int, case: PreparedCase, index: int) -> Tensor:
        k, j, i = case.shape
        volume = flat.as_strided((k, j, i), (j * i, i, 1), offset)
        return volume.select(self._axis, index)

    def _slices_with_body(self, data: PreparedData, case: PreparedCase) -> list[int]:
        mask = data.mask(case)
        other = tuple(axis for axis in range(3) if axis != self._axis)
        share = mask.mean(axis=other)
        return [int(i) for i in np.flatnonzero(share >= self._slices.minimum_mask_fraction)]


def stack_indices(index: int, stack: int, count: int) -> list[int]:
    """Slices of a stack around ``index``; the first and last slice repeat beyond the ends."""
    half = stack // 2
    return [min(max(i, 0), count - 1) for i in range(index - half, index + half + 1)]


def centred_window(have: int, want: int) -> tuple[slice, slice]:
    """Where the middle of ``have`` pixels goes into ``want``: (slice of have, slice of want)."""
    size = min(have, want)
    of, to = (have - size) // 2, (want - size) // 2
    return slice(of, of + size), slice(to, to + size)


def _window(have: int, want: int, generator: torch.Generator) -> tuple[slice, slice]:
    """Centred padding, or a crop at a random place."""
    if have <= want:
        return centred_window(have, want)
    of = int(torch.randint(have - want + 1, (1,), generator=generator))
    return slice(of, of + want), slice(0, want)


def _at(flat: NDArray[Any], offset: int, shape: tuple[int, int, int]) -> NDArray[Any]:
    return flat[offset : offset + int(np.prod(shape))].reshape(shape)


def _memory_map(path: Path, dtype: str) -> NDArray[Any]:
    """Map a file copy-on-write, the mode that torch wraps without a warning."""
    try:
        return np.memmap(path, dtype=dtype, mode="c")
    except (OSError, ValueError) as error:
        raise PreparedDataError(f"{path}: {error}; run `medp2p prepare` again") from error


def _case_of_index(entry: dict[str, Any]) -> PreparedCase:
    k, j, i = entry["shape"]
    ranges = [(low, high) for low, high in entry["source_ranges"]]
    low, high = entry["target_range"]
    return PreparedCase(
        **{**entry, "shape": (k, j, i), "source_ranges": ranges, "target_range": (low, high)}
    )


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_FILE
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise PreparedDataError(
            f"{folder}: not a prepared folder (no {INDEX_FILE}); make one with `medp2p prepare`"
        ) from None
    except (OSError, ValueError) as error:
        raise PreparedDataError(f"{path}: damaged: {error}; run `medp2p prepare` again") from error
    if index.get("version") != STORE_VERSION:
        raise PreparedDataError(
            f"{path}: format version {index.get('version')}, this medp2p reads {STORE_VERSION}; "
            "run `medp2p prepare` again"
        )
    return index
