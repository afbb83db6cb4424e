"""A prepared folder: the volumes of a training set on disk.

A prepared folder holds

- ``cases/NAME/voxels.i16``: the int16 codes of a case's sources and of its target, one after
  the other, each of shape (K, J, I) on the case's training grid (feet to head, back to front,
  left to right);
- ``cases/NAME/mask.u8``: the body mask likewise;
- ``index.json``: of each case its shape, affine, value ranges and checksum, and the
  preprocessing that made them.

A case has files of its own, so that preparing it again touches no other. Volumes are decoded
once. A slice of any plane, or a stack of neighbours, is a view.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medp2p.config import PreprocessingSettings
from medp2p.errors import PreparedDataError
from medp2p.files import write_text
from medp2p.volume import Grid

STORE_VERSION = 2
CASES_FOLDER = "cases"
VOXELS_FILE = "voxels.i16"
MASK_FILE = "mask.u8"
INDEX_FILE = "index.json"


@dataclass(frozen=True)
class PreparedCase:
    """One case of a prepared folder.

    Attributes:
        name: Name of the case, and of its folder.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        fold: Of the cross-validation, from 0; None if there are no folds.
        shape: (K, J, I) of all its volumes.
        affine: Of the training grid, for indices (I, J, K).
        source_ranges: Values of each source that became -1 and +1.
        target_range: Values of the target that became -1 and +1.
        sha256: Of its voxels and mask.
    """

    name: str
    split: str
    fold: int | None
    shape: tuple[int, int, int]
    affine: list[list[float]]
    source_ranges: list[tuple[float, float]]
    target_range: tuple[float, float]
    sha256: str

    @property
    def grid(self) -> Grid:
        """The training grid of the case."""
        k, j, i = self.shape
        return Grid((i, j, k), np.array(self.affine))


def write_voxels(folder: Path, images: Sequence[NDArray[np.int16]], mask: NDArray[np.uint8]) -> str:
    """Write the voxels of one case into its folder.

    Args:
        folder: The folder of the case.
        images: Codes of each source, then of the target, all (K, J, I).
        mask: The body mask, (K, J, I).

    Returns:
        SHA-256 of voxels and mask.
    """
    digest = hashlib.sha256()
    for name, arrays, dtype in ((VOXELS_FILE, images, "<i2"), (MASK_FILE, [mask], "u1")):
        with (folder / name).open("wb") as file:
            for array in arrays:
                data = np.ascontiguousarray(array, dtype=dtype).data
                digest.update(data)
                file.write(data)
    return digest.hexdigest()


def hash_voxels(folder: Path) -> str:
    """Return the SHA-256 of the voxels and mask in the folder of a case, as `write_voxels` does.

    Raises:
        OSError: If they cannot be read.
    """
    digest = hashlib.sha256()
    for name in (VOXELS_FILE, MASK_FILE):
        with (folder / name).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_index(
    folder: Path,
    preprocessing: PreprocessingSettings,
    sources: Sequence[str],
    cases: Sequence[PreparedCase],
) -> None:
    """Write the index of a prepared folder, which makes it one.

    Raises:
        OutputError: If it cannot be written.
    """
    index = {
        "version": STORE_VERSION,
        "sources": list(sources),
        "preprocessing": preprocessing.model_dump(mode="json"),
        "cases": [asdict(case) for case in cases],
    }
    write_text(folder / INDEX_FILE, json.dumps(index, indent=1) + "\n", overwrite=True)


class PreparedData:
    """A prepared folder, memory-mapped.

    Attributes:
        folder: Where it lies.
        sources: Names of the source contrasts, in channel order.
        preprocessing: The settings that made it.
        hash: SHA-256 of the index: of voxels, masks, splits, places and settings.
        cases: All cases.

    Raises:
        PreparedDataError: If the folder is not a prepared one, or damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        index = _read_index(folder)
        try:
            self.sources: list[str] = index["sources"]
            self.hash = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
            self.preprocessing = PreprocessingSettings.model_validate(index["preprocessing"])
            self.cases = [prepared_case(entry) for entry in index["cases"]]
        except (KeyError, TypeError, ValueError) as error:
            raise PreparedDataError(
                f"{folder / INDEX_FILE}: damaged, or of another medp2p; run `medp2p prepare` again"
            ) from error
        images = len(self.sources) + 1
        self._voxels: dict[str, NDArray[np.int16]] = {
            case.name: self._map(case, VOXELS_FILE, "<i2", images) for case in self.cases
        }
        self._masks: dict[str, NDArray[np.uint8]] = {
            case.name: self._map(case, MASK_FILE, "u1", 1)[0] for case in self.cases
        }

    def split(self, name: str) -> list[PreparedCase]:
        """Cases of one split."""
        return [case for case in self.cases if case.split == name]

    def choose_fold(self, fold: int | None) -> None:
        """Let the training patients of one fold validate, and the others train.

        Args:
            fold: From 0; None where the data have no folds.

        Raises:
            PreparedDataError: If the data have no such fold, or have folds and none is chosen.
        """
        folds = sorted({case.fold for case in self.cases if case.fold is not None})
        if fold is None and not folds:
            return
        if fold not in folds:
            found = f"folds {folds[0]} to {folds[-1]}" if folds else "no folds"
            advice = "set training.fold to one of them" if folds else "leave training.fold out"
            raise PreparedDataError(
                f"{self.folder}: was prepared with {found}, training.fold is {fold}; {advice}"
            )
        self.cases = [
            case
            if case.fold is None
            else replace(case, split="validation" if case.fold == fold else "train")
            for case in self.cases
        ]

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
            PreparedDataError: Naming the first case of which a byte has changed.
        """
        for case in self.cases:
            digest = hashlib.sha256(self.voxels(case).data)
            digest.update(self.mask(case).data)
            if digest.hexdigest() != case.sha256:
                raise PreparedDataError(
                    f"{self.folder}: case {case.name} is damaged, its checksum does not match; "
                    "run `medp2p prepare` again"
                )

    def voxels(self, case: PreparedCase) -> NDArray[np.int16]:
        """Codes of the sources and, last, of the target, (C + 1, K, J, I)."""
        return self._voxels[case.name]

    def source(self, case: PreparedCase) -> NDArray[np.int16]:
        """Codes of all source contrasts, (C, K, J, I)."""
        return self._voxels[case.name][:-1]

    def target(self, case: PreparedCase) -> NDArray[np.int16]:
        """Codes of the target, (K, J, I)."""
        target: NDArray[np.int16] = self._voxels[case.name][-1]
        return target

    def mask(self, case: PreparedCase) -> NDArray[np.uint8]:
        """Body mask, (K, J, I)."""
        return self._masks[case.name]

    def _map(self, case: PreparedCase, name: str, dtype: str, images: int) -> NDArray[Any]:
        """Map a file copy-on-write, the mode that torch wraps without a warning."""
        path = self.folder / CASES_FOLDER / case.name / name
        try:
            flat = np.memmap(path, dtype=dtype, mode="c")
        except (OSError, ValueError) as error:
            raise PreparedDataError(f"{path}: {error}; run `medp2p prepare` again") from error
        shape = (images, *case.shape)
        if len(flat) != np.prod(shape):
            raise PreparedDataError(
                f"{path}: holds {len(flat)} voxels, the index says {np.prod(shape)}; "
                "the folder is damaged, run `medp2p prepare` again"
            )
        voxels: NDArray[Any] = flat.reshape(shape)
        return voxels


def prepared_case(entry: dict[str, Any]) -> PreparedCase:
    """Return a case from its values in a JSON file."""
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
