"""What is done with every scan of a worklist, as plain data that goes from process to process."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from datetime import time
from pathlib import Path
from typing import Literal

from medp2p.conversion.claims import LEASE_SECONDS
from medp2p.conversion.scans import Scan, ScanImage
from medp2p.io import DicomOutput, image_suffix, is_picture

OutputKind = Literal["same", "nifti", "dicom"]
Guard = Literal["skip", "force"]
Engine = Literal["local", "ray"]

_SUFFIXES = {".mhd": ".mha", ".nhdr": ".nrrd"}
"""Formats of two files are written as the one of one file."""


@dataclass(frozen=True)
class ConversionJob:
    """How scans are translated.

    Attributes:
        model: The model file.
        devices: One process each: ``"auto"``, ``"cpu"``, ``"cuda:0"``, ``"cuda:1"``, ...
        precision: As for `medp2p.inference.make_translator`.
        batch_size: Slices at a time; halved where a device's memory runs out.
        mask: ``"auto"`` finds the body; ``"none"`` keeps every voxel.
        kind: What is written: ``"same"`` as the scan, or all as NIfTI or DICOM.
        labels: Of DICOM outputs. What they say about patient and body part is for scans that do
            not say it themselves; model and settings are filled in.
        guard: What becomes of scans that do not look like the training data: they are skipped, or
            translated and marked.
        readers: Processes that read; the local engine's.
        writers: Threads that write; the local engine's.
        memory_bytes: For all scans under way; None is half of what is free.
        time_limit_seconds: A process that is at one scan for longer is killed.
        until: Local time of day after which no scan is begun.
        hash_names: Messages name no path.
        lease_seconds: As for `medp2p.conversion.claims.Claims`.
        part: Which shard of how many the worklist is, ``"1/3"``; for those who ask how far it is.
        engine: Who works: this machine, or a Ray cluster that runs already.
        ray_address: Of the cluster, ``"host:port"``; None is the one that the environment's
            ``RAY_ADDRESS`` names, or that runs on this machine.
    """

    model: Path
    devices: tuple[str, ...] = ("auto",)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    batch_size: int = 16
    mask: Literal["auto", "none"] = "auto"
    kind: OutputKind = "same"
    labels: DicomOutput = field(default_factory=DicomOutput)
    guard: Guard = "skip"
    readers: int = field(default_factory=lambda: max(1, min(8, len(os.sched_getaffinity(0)))))
    writers: int = 2
    memory_bytes: int | None = None
    time_limit_seconds: float = 1800.0
    until: time | None = None
    hash_names: bool = False
    lease_seconds: float = LEASE_SECONDS
    part: str = ""
    engine: Engine = "local"
    ray_address: str | None = None

    def settings_hash(self, model_hash: str) -> str:
        """Hash what decides about voxels and headers, but for the scan.

        Devices, batch size and engine are left out: they change the last bits at most, and a run
        may go on elsewhere. So are the version of medp2p and the file name of the model, which
        headers only mention.
        """
        labels = asdict(replace(self.labels, model_name=None))
        labels["deidentify_key"] = labels["deidentify_key"] and labels["deidentify_key"].hex()
        decides = {
            "model": model_hash,
            "precision": self.precision,
            "mask": self.mask,
            "kind": self.kind,
            "labels": labels,
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def output_name(scan: Scan, kind: OutputKind) -> str:
    """Where a scan's result lies below the output folder.

    What has an image suffix is a file, anything else a folder with a DICOM series. That of an image
    file ends in ``.dicom``, since a folder of the file's name may hold other scans.
    """
    suffix = output_suffix(scan, kind)
    if not suffix and not is_dicom_image(scan.images[0]):
        suffix = ".dicom"
    return scan.name if suffix and scan.name.endswith(suffix) else f"{scan.name}{suffix}"


def output_suffix(scan: Scan, kind: OutputKind) -> str:
    """Suffix of the image file, ``""`` for a folder with a DICOM series."""
    if kind != "same":
        return ".nii.gz" if kind == "nifti" else ""
    first = scan.images[0]
    if is_dicom_image(first):
        return ""
    if is_picture(first.path):
        return first.path.suffix.lower()
    suffix = image_suffix(first.path)
    return _SUFFIXES.get(suffix, suffix)


def is_dicom_image(image: ScanImage) -> bool:
    """Whether an image is a DICOM series."""
    is_file = is_picture(image.path) or bool(image_suffix(image.path))
    return bool(image.series) or image.path.is_dir() or not is_file
