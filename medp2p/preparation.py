"""A manifest's scans into a prepared folder that training reads."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medp2p.checkpoint import library_versions
from medp2p.config import PreprocessingSettings
from medp2p.dataset import INDEX_FILE, PreparedWriter
from medp2p.errors import GeometryError, ManifestError, MedP2PError, OutputError
from medp2p.files import atomic_folder, files_below, output_errors
from medp2p.io import read_grid
from medp2p.manifest import Case, check_cases, write_manifest
from medp2p.preprocessing import training_grid
from medp2p.transforms import preparation_transforms

MANIFEST_FILE = "manifest.csv"
REPORT_FILE = "preparation.json"

BYTES_PER_VOXEL_OF_IMAGE = 2
BYTES_PER_VOXEL_OF_MASK = 1

BYTES_PER_SECOND = 2e7
"""Prepared bytes per second, with resampling and a mask to find, as seen on two cores."""


def needed_bytes(cases: Sequence[Case], settings: PreprocessingSettings) -> int:
    """Return the size of the prepared folder, read off the images' headers.

    Raises:
        ImageReadError: If a source's header cannot be read.
    """
    total = 0
    for case in cases:
        grid = training_grid(read_grid(next(iter(case.sources.values()))), settings)
        images = len(case.sources) + 1
        voxels = int(np.prod(grid.shape))
        total += voxels * (images * BYTES_PER_VOXEL_OF_IMAGE + BYTES_PER_VOXEL_OF_MASK)
    return total


def expected_seconds(size: int) -> float:
    """A guess at how long preparing ``size`` bytes takes, from `BYTES_PER_SECOND`."""
    return size / BYTES_PER_SECOND


def check_space(output: Path, needed: int) -> None:
    """Refuse a disk that cannot hold ``needed`` bytes.

    Raises:
        OutputError: Naming what is needed and what is free.
    """
    place = output.absolute().parent
    while not place.exists():
        place = place.parent
    with output_errors(output):
        free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"{output}: needs {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free; "
            "free some space or choose another disk"
        )


def prepare(
    cases: Sequence[Case],
    output: Path,
    settings: PreprocessingSettings,
    *,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Prepare every case and write the folder; nothing is left behind if one cannot be.

    Args:
        cases: The manifest.
        output: The folder to make.
        settings: Spacing and value mapping.
        overwrite: Whether an existing folder may be replaced.
        progress: Called with each case's name when it is done.

    Raises:
        MedP2PError: Naming the case that cannot be used, and why.
        OutputError: If the folder exists already or cannot be written.
    """
    check_cases(cases, output)
    _refuse_output_around_inputs(output, cases)
    with atomic_folder(output, marker=INDEX_FILE, overwrite=overwrite) as folder:
        check_space(output, needed_bytes(cases, settings))
        writer = PreparedWriter(folder, settings, list(cases[0].sources))
        try:
            done: list[dict[str, Any]] = []
            for case in cases:
                done.append(_prepare_case(case, writer, settings))
                _refuse_shared_images(done)
                if progress:
                    progress(case.name)
            writer.finish()
        finally:
            writer.close()
        write_manifest(folder / MANIFEST_FILE, cases)
        report = {
            "preprocessing": settings.model_dump(mode="json"),
            "versions": library_versions(),
            "cases": done,
        }
        text = json.dumps(report, indent=1) + "\n"
        (folder / REPORT_FILE).write_text(text, encoding="utf-8")


def _refuse_output_around_inputs(output: Path, cases: Sequence[Case]) -> None:
    place = output.resolve()
    for case in cases:
        for file in (*case.sources.values(), case.target, *([case.mask] if case.mask else [])):
            if place in file.resolve().parents:
                raise OutputError(f"{output}: holds {file}, an input; name another output")


def _refuse_shared_images(done: Sequence[dict[str, Any]]) -> None:
    """Refuse a case whose source or target is that of an earlier case in another split."""
    last = done[-1]
    images = {digest for key, digest in last["sha256"].items() if key != "mask"}
    for case in done[:-1]:
        shared = images & {digest for key, digest in case["sha256"].items() if key != "mask"}
        if shared and case["split"] != last["split"]:
            raise ManifestError(
                f"cases {case['case']} ({case['split']}) and {last['case']} ({last['split']}) have "
                "an image in common; put them into one split or take one out"
            )


def _prepare_case(
    case: Case, writer: PreparedWriter, settings: PreprocessingSettings
) -> dict[str, Any]:
    """Add one case to the folder and say what was done with it."""
    files = {**case.sources, "target": case.target}
    if case.mask:
        files["mask"] = case.mask
    transform = preparation_transforms(
        list(case.sources), settings, with_mask=case.mask is not None
    )
    try:
        images = transform({key: str(path) for key, path in files.items()})
    except RuntimeError as error:
        refusal = error.__cause__ or error  # MONAI wraps what a transform raises
        if not isinstance(refusal, MedP2PError):
            refusal.add_note(f"while preparing case {case.name}")
            raise refusal from None
        raise type(refusal)(f"case {case.name}: {refusal}") from error
    mask = images["mask"]
    if not mask.any():
        raise GeometryError(
            f"case {case.name}: source and target share no part of the body; check the pair"
        )
    sources = [images[name] for name in case.sources]
    target = images["target"]
    entry = writer.add(
        case.name,
        case.split,
        sources[0].grid,
        [(image.codes, image.value_range) for image in sources],
        (target.codes, target.value_range),
        mask,
    )
    return {
        "case": case.name,
        "patient": case.patient,
        "split": case.split,
        "files": {key: str(path) for key, path in files.items()},
        "sha256": {key: _content_hash(path) for key, path in files.items()},
        "mask": "given" if case.mask else "found in the source",
        "shape_kji": entry.shape,
        "spacing_mm": [round(float(s), 6) for s in entry.grid.spacing_mm],
        "source_ranges": entry.source_ranges,
        "target_range": entry.target_range,
        "body_fraction": round(float(mask.mean()), 6),
    }


def _content_hash(path: Path) -> str:
    """Hash a file, or the files of a folder whatever their names."""
    if path.is_dir():
        digests = sorted(_content_hash(file) for file in files_below(path))
        return hashlib.sha256("".join(digests).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
