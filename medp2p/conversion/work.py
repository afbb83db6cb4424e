"""What the workers of each stage do, and what goes from stage to stage.

Reading makes two large parts, the codes for the network and all else of the scan; prediction
makes one; writing needs the scan and the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medp2p.conversion.crews import Outcome
from medp2p.conversion.disk import disk_trouble
from medp2p.conversion.records import Input
from medp2p.conversion.scans import Scan
from medp2p.conversion.stages import (
    DeviceSetting,
    Failed,
    ReadRequest,
    ReadScan,
    Setting,
    begin_device,
    begin_reader,
    write_result,
)
from medp2p.errors import OutputError
from medp2p.files import output_errors
from medp2p.translation import Prepared


@dataclass(frozen=True)
class WasRead:
    """What the run hears of a `ReadScan`; its parts are the codes and the rest.

    Attributes:
        key: As of `ReadScan`.
        quality: As of `ReadScan`.
        seconds: As of `ReadScan`.
        inputs: As of `ReadScan`.
    """

    key: str
    quality: Mapping[str, Any]
    seconds: float
    inputs: tuple[Input, ...]


@dataclass(frozen=True)
class WasPredicted:
    """What the run hears of a `Prediction`; its part are the unit values.

    Attributes:
        batch_size: As of `Prediction`.
        seconds: As of `Prediction`.
    """

    batch_size: int
    seconds: float


@dataclass(frozen=True)
class WriteRequest:
    """A result to be written.

    Attributes:
        scan: Of which scan.
        folder: Where to, on the output's file system; made if it is not there.
    """

    scan: Scan
    folder: Path


def device_setting(setting: Setting, device: str) -> DeviceSetting:
    """What a worker needs that predicts on a device."""
    job = setting.job
    assert job.labels.model_hash
    return DeviceSetting(job.model, job.labels.model_hash, device, job.precision, job.batch_size)


def begin_reading(setting: Setting) -> Callable[[ReadRequest], Outcome]:
    """Return what reads scans; says a `WasRead`, or another `ReadResult`."""
    read = begin_reader(setting)

    def work(request: ReadRequest) -> Outcome:
        result = read(request)
        if not isinstance(result, ReadScan):
            return Outcome(result)
        rest = replace(result.prepared, codes=np.empty((0, 0, 0, 0), np.int16))
        said = WasRead(result.key, result.quality, result.seconds, result.inputs)
        return Outcome(said, (result.prepared.codes, rest))

    return work


def begin_predicting(setting: DeviceSetting) -> Callable[[None, NDArray[np.int16]], Outcome]:
    """Bring the model to its device; says a `WasPredicted`.

    Raises:
        MedP2PError: As `begin_device`.
    """
    from medp2p.devices import keep_freed_memory

    keep_freed_memory()
    predict = begin_device(setting)

    def work(_: None, codes: NDArray[np.int16]) -> Outcome:
        prediction = predict(codes)
        return Outcome(WasPredicted(prediction.batch_size, prediction.seconds), (prediction.unit,))

    return work


def begin_writing(
    setting: Setting,
) -> Callable[[WriteRequest, Prepared, NDArray[np.float32]], Outcome]:
    """Return what writes results; says a `Written`, or a `Failed` if the disk refuses."""

    def work(request: WriteRequest, rest: Prepared, unit: NDArray[np.float32]) -> Outcome:
        read = ReadScan(rest, "", {}, 0.0)
        try:
            with output_errors(request.folder):
                request.folder.mkdir(exist_ok=True)
            return Outcome(write_result(request.scan, read, unit, setting, request.folder))
        except OutputError as error:
            return Outcome(Failed(disk_trouble(error) or "output", str(error)))

    return work
