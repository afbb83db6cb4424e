"""How fast DICOM series are read, written and translated, beside what else can do it.

    python benchmarks/dicom_speed.py [--original PATH_OF_A_CHECKOUT] [--json dicom_speed.json]

Reading: `read_volume` against SimpleITK's series reader, MONAI's readers and highdicom, the last
two where they are installed; every voxel and position is compared with what was stored. Writing:
`write_dicom_series` against pydicom's own `save_as` of the same data sets. Translating, with
``--original``: from folder to folder, against MONAI's fastest reader, the original pix2pix in
float32 one slice at a time, and copies of the source's data sets saved with pydicom.

The competitors take turns, so that a slower moment of the machine meets all of them; the first
turn does not count. Files lie in the page cache. Each turn begins after what the last one left
behind has reached the disk.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch: idle threads must not spin

import argparse
import json
import logging
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai.transforms import LoadImage, Orientation
from numpy.typing import NDArray
from original_pix2pix import Original, copy_generator, structured_pairs
from pydicom import Dataset, FileDataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from speed import HU_RANGE, PAIRS, SETTINGS, SIZE, describe, train_briefly
from torch import Tensor

from medp2p.checkpoint import Model, ModelCard
from medp2p.config import Config
from medp2p.inference import Translator, make_translator
from medp2p.io import read_volume
from medp2p.io.dicom_write import DicomOutput, write_dicom_series
from medp2p.io.geometry import LPS_FROM_RAS
from medp2p.methods import build_generator
from medp2p.networks.inference import bf16_is_fast
from medp2p.phantom import make_phantom
from medp2p.preprocessing import MR_UNIT_LIMITS, body_mask, find_value_range
from medp2p.volume import Volume, reorient

CPU = torch.device("cpu")
MR_SHAPE, CT_SHAPE = (256, 256, 180), (512, 512, 200)
FIELD_MM, SLICE_MM = 256.0, 1.0
CT_INTERCEPT = -1024.0
PRIVATE_ELEMENTS = 24
PRIVATE_HEADER_BYTES = 11_000
SAME_PLACE_MM = 1e-3

Turn = Callable[[Path], object]
"""Something to be timed; it gets a path of its own, which does not exist yet."""


def main() -> None:
    """Measure, print tables, and write them as JSON if asked."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pydicom|monai|highdicom")
    torch.manual_seed(0)
    result: dict[str, Any] = {"machine": describe(CPU)}
    print(result["machine"], flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        turns = Turns(Path(name), options.repetitions)
        mr, ct = make_series(Path(name))
        result["elements"] = len(dcmread(next(mr.folder.iterdir())))
        for title, series in (("mr", mr), ("ct", ct)):
            result[f"read_{title}"] = measure_reading(series, turns)
            print_table(f"Reading {series.label}", result[f"read_{title}"])
        result["write"] = measure_writing(mr, turns)
        print_table(f"Writing {mr.label}", result["write"])
        if options.original:
            sides = Sides.build(options.original, mr, options.training_steps)
            result["translate"] = measure_translation(mr, sides, turns)
            print_table(f"Translating {mr.label}, folder to folder", result["translate"])
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--original", type=Path, help="checkout of the original, to translate")
    parser.add_argument("--folder", type=Path, help="where to put the series; default: /tmp")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--training-steps", type=int, default=20, help="before translation")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


class Turns:
    """Times functions in turn."""

    def __init__(self, folder: Path, repetitions: int) -> None:
        self.place, self.repetitions = folder / "turn", repetitions

    def seconds(self, functions: dict[str, Turn]) -> dict[str, list[float]]:
        """Seconds of every turn of each function, but for the first."""
        taken: dict[str, list[float]] = {name: [] for name in functions}
        for _ in range(self.repetitions + 1):
            for name, function in functions.items():
                taken[name].append(self._time(function))
        return {name: times[1:] for name, times in taken.items()}

    def _time(self, function: Turn) -> float:
        os.sync()
        begin = time.perf_counter()
        function(self.place)
        seconds = time.perf_counter() - begin
        shutil.rmtree(self.place, ignore_errors=True)
        return seconds


# The series


@dataclass(frozen=True)
class SeriesOnDisk:
    """A series that was written, and what a reader should make of it."""

    folder: Path
    truth: Volume

    @property
    def label(self) -> str:
        """Modality and size."""
        columns, rows, slices = self.truth.shape
        return f"{self.truth.modality}, {slices} slices of {columns}×{rows}"


def make_series(folder: Path) -> tuple[SeriesOnDisk, SeriesOnDisk]:
    """A head as an MR series and as a CT series, with headers as scanners write them."""
    spacing = FIELD_MM / MR_SHAPE[0]
    phantom = make_phantom(
        "head",
        5,
        shape=MR_SHAPE,
        spacing_mm=(spacing, spacing, SLICE_MM),
        centre_mm=(0.0, 4.0, -17.0),
        contrasts=("t1",),
    )
    lps_order = np.s_[::-1, ::-1]  # columns run to the left, rows to the back
    mr = phantom.mr["t1"].array[lps_order]
    small_ct = phantom.ct.array[lps_order]
    noise = np.random.default_rng(0).normal(0, 12, CT_SHAPE)
    slices = np.linspace(0, MR_SHAPE[2] - 1, CT_SHAPE[2]).round().astype(int)
    large_ct = small_ct[:, :, slices].repeat(2, axis=0).repeat(2, axis=1)
    ct = np.clip(np.rint(large_ct + noise), CT_INTERCEPT, 3071).astype(np.int16)
    return (
        write_scan(folder / "mr", "MR", np.clip(mr, 0, 4095).astype(np.int16)),
        write_scan(folder / "ct", "CT", ct),
    )


def write_scan(folder: Path, modality: str, values: NDArray[np.int16]) -> SeriesOnDisk:
    """Save an axial series with pydicom, instances numbered against the slices' order."""
    folder.mkdir()
    columns, _, slices = values.shape
    affine = np.diag([FIELD_MM / columns, FIELD_MM / columns, SLICE_MM, 1.0])
    affine[:3, 3] = (-FIELD_MM / 2, -FIELD_MM / 2, -SLICE_MM * slices / 2)
    intercept = CT_INTERCEPT if modality == "CT" else 0.0
    stored = (values - intercept).astype(np.uint16)
    header = scanner_header(modality, values.shape)
    for k in range(slices):
        number = slices - k
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        header.InstanceNumber, header.AcquisitionNumber = number, 1
        header.ImagePositionPatient = [float(v) for v in affine[:3, :4] @ (0, 0, k, 1)]
        header.SliceLocation = float(affine[2, 3] + k * SLICE_MM)
        header.PixelData = stored[:, :, k].tobytes(order="F")
        header.save_as(folder / f"IM{number:05d}.dcm", enforce_file_format=True)
    truth = Volume(values, LPS_FROM_RAS @ affine, modality=modality)
    return SeriesOnDisk(folder, truth)


def scanner_header(modality: str, shape: tuple[int, ...]) -> FileDataset:
    """Some 120 elements: those of every image, of the modality, sequences and private ones."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage if modality == "MR" else CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    header = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    common = {
        "SpecificCharacterSet": "ISO_IR 100", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "InstanceCreationDate": "20240102", "InstanceCreationTime": "101112.130000",
        "SOPClassUID": meta.MediaStorageSOPClassUID, "StudyDate": "20240102",
        "SeriesDate": "20240102", "AcquisitionDate": "20240102", "ContentDate": "20240102",
        "StudyTime": "101010.5", "SeriesTime": "101110.25", "AcquisitionTime": "101111.5",
        "ContentTime": "101112.5", "AccessionNumber": "A0001", "Modality": modality,
        "Manufacturer": "Phantom Scanners", "InstitutionName": "Benchmark",
        "InstitutionAddress": "1 Long Street, Town", "ReferringPhysicianName": "Doe^Jane",
        "StationName": "SCANNER1", "StudyDescription": "Head phantom",
        "SeriesDescription": "head axial 1 mm", "InstitutionalDepartmentName": "Physics",
        "PerformingPhysicianName": "Doe^Jack", "OperatorsName": "Doe^Jim",
        "ManufacturerModelName": "Phantom 3000", "PatientName": "Phantom^Head",
        "PatientID": "PHANTOM1", "PatientBirthDate": "19700101", "PatientSex": "O",
        "PatientAge": "054Y", "PatientSize": 1.75, "PatientWeight": 75, "BodyPartExamined": "HEAD",
        "DeviceSerialNumber": "12345", "SoftwareVersions": "phantom 1.0",
        "ProtocolName": "head", "PatientPosition": "HFS", "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(), "StudyID": "1", "SeriesNumber": 3,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "FrameOfReferenceUID": generate_uid(),
        "PositionReferenceIndicator": "", "SliceThickness": SLICE_MM, "ImageComments": "",
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "Rows": shape[1],
        "Columns": shape[0], "PixelSpacing": [FIELD_MM / shape[0]] * 2, "BitsAllocated": 16,
        "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0,
        "SmallestImagePixelValue": 0, "LargestImagePixelValue": 4095,
        "RequestingPhysician": "Doe^Jane", "RequestedProcedureDescription": "MR head",
        "PerformedProcedureStepStartDate": "20240102",
        "PerformedProcedureStepStartTime": "101010", "PerformedProcedureStepID": "P1",
        "PerformedProcedureStepDescription": "head", "WindowCenter": 1000, "WindowWidth": 2000,
        "WindowCenterWidthExplanation": "Algo1",
    }  # fmt: skip
    mr = {
        "ScanningSequence": ["GR", "IR"], "SequenceVariant": ["SP", "MP"], "ScanOptions": "IR",
        "MRAcquisitionType": "3D", "SequenceName": "*tfl3d1", "AngioFlag": "N",
        "RepetitionTime": 2300, "EchoTime": 2.98, "InversionTime": 900, "NumberOfAverages": 1,
        "ImagingFrequency": 123.25, "ImagedNucleus": "1H", "EchoNumbers": 1,
        "MagneticFieldStrength": 3, "NumberOfPhaseEncodingSteps": 255, "EchoTrainLength": 1,
        "PercentSampling": 100, "PercentPhaseFieldOfView": 100, "PixelBandwidth": 240,
        "TransmitCoilName": "Body", "AcquisitionMatrix": [0, 256, 256, 0], "FlipAngle": 9,
        "InPlanePhaseEncodingDirection": "ROW", "VariableFlipAngleFlag": "N", "SAR": 0.05,
        "dBdt": 0,
    }  # fmt: skip
    ct = {
        "ScanOptions": "HELICAL MODE", "KVP": 120, "DataCollectionDiameter": 500,
        "ReconstructionDiameter": FIELD_MM, "DistanceSourceToDetector": 1085.6,
        "DistanceSourceToPatient": 595, "GantryDetectorTilt": 0, "TableHeight": 150,
        "RotationDirection": "CW", "ExposureTime": 500, "XRayTubeCurrent": 200, "Exposure": 100,
        "FilterType": "BODY FILTER", "GeneratorPower": 60, "FocalSpots": 1.2,
        "ConvolutionKernel": "H30s", "RevolutionTime": 0.5, "SingleCollimationWidth": 0.625,
        "TotalCollimationWidth": 40, "TableSpeed": 55, "TableFeedPerRotation": 27,
        "SpiralPitchFactor": 0.7, "RescaleIntercept": CT_INTERCEPT, "RescaleSlope": 1,
        "RescaleType": "HU", "ExposureModulationType": "XYZ_EC",
    }  # fmt: skip
    for keyword, value in {**common, **(mr if modality == "MR" else ct)}.items():
        setattr(header, keyword, value)
    add_sequences(header)
    add_private_elements(header)
    return header


def add_sequences(header: Dataset) -> None:
    """References to other images, and codes of the procedure."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = header.SOPClassUID
    reference.ReferencedSOPInstanceUID = generate_uid()
    header.ReferencedImageSequence = [deepcopy(reference) for _ in range(3)]
    header.ReferencedPerformedProcedureStepSequence = [reference]
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "HEAD", "99LOCAL", "Head"
    header.ProcedureCodeSequence = [code]
    header.RequestAttributesSequence = [deepcopy(code)]


def add_private_elements(header: Dataset) -> None:
    """Short texts and numbers, and a vendor's own header as one long value."""
    block = header.private_block(0x0019, "PHANTOM SCANNER HEADER", create=True)
    for i in range(PRIVATE_ELEMENTS // 2):
        block.add_new(2 * i, "IS", i)
        block.add_new(2 * i + 1, "LO", f"value {i}")
    vendor = header.private_block(0x0029, "PHANTOM CSA HEADER", create=True)
    vendor.add_new(0x10, "OB", bytes(PRIVATE_HEADER_BYTES))


# Reading


def measure_reading(series: SeriesOnDisk, turns: Turns) -> list[dict[str, Any]]:
    """Seconds of each reader, and how far it is from what was stored."""
    readers: dict[str, Callable[[Path], Volume]] = {
        "SimpleITK": read_with_simpleitk,
        "medp2p": read_volume,
        "MONAI PydicomReader": lambda folder: read_with_monai(folder, "PydicomReader"),
    }
    if find_spec("itk"):
        readers["MONAI ITKReader"] = lambda folder: read_with_monai(folder, "ITKReader")
    if find_spec("highdicom"):
        readers["highdicom"] = read_with_highdicom

    def turn_of(reader: Callable[[Path], Volume]) -> Turn:
        return lambda _: reader(series.folder)

    verdicts = {name: compare(read(series.folder), series.truth) for name, read in readers.items()}
    seconds = turns.seconds({name: turn_of(read) for name, read in readers.items()})
    rows = as_rows(seconds, "SimpleITK")
    return [{**row, "result": verdicts[row["name"]]} for row in rows]


def read_with_simpleitk(folder: Path) -> Volume:
    """SimpleITK's series reader, as its documentation reads a series."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS_FROM_RAS @ affine)


def read_with_monai(folder: Path, reader: str) -> Volume:
    """MONAI's LoadImage with its defaults (float32)."""
    image = LoadImage(reader=reader)(folder)
    return Volume(image.numpy(), image.affine.numpy())


def read_with_highdicom(folder: Path) -> Volume:
    """A volume of a series by highdicom, rescaled; it works in float64 unless told otherwise."""
    highdicom = import_module("highdicom")
    volume = highdicom.get_volume_from_series([dcmread(path) for path in folder.iterdir()])
    return Volume(volume.array, LPS_FROM_RAS @ volume.affine)


def compare(found: Volume, truth: Volume) -> str:
    """Say whether positions and voxels are those that were stored, whatever the axes' order."""
    turned = reorient(found, truth.orientation)
    if turned.shape != truth.shape:
        return "wrong size"
    distance = np.linalg.norm(turned.grid.corners_mm - truth.grid.corners_mm, axis=1).max()
    if distance > SAME_PLACE_MM:
        return f"{distance:.3g} mm off"
    return "right" if np.array_equal(turned.array, truth.array) else "other voxels"


# Writing


def measure_writing(series: SeriesOnDisk, turns: Turns) -> list[dict[str, Any]]:
    """Seconds of our writer, and of pydicom for the data sets that ours wrote."""
    volume = synthetic_ct(series)
    place = turns.place.with_name("written")
    write_dicom_series(volume, place)
    as_read = [(path.name, dcmread(path)) for path in sorted(place.glob("*.dcm"))]
    built = [(name, parsed(dataset)) for name, dataset in as_read]
    seconds = turns.seconds(
        {
            "pydicom save_as, data sets in memory": lambda folder: save_all(built, folder),
            "pydicom save_as, data sets as just read": lambda folder: save_all(as_read, folder),
            "medp2p, data sets made, written and flushed": lambda folder: write_dicom_series(
                volume, folder
            ),
        }
    )
    return as_rows(seconds, "pydicom save_as, data sets in memory")


def synthetic_ct(series: SeriesOnDisk) -> Volume:
    """A CT on the grid of an MR series, as translation makes one: float32, with its source."""
    source = read_volume(series.folder)
    values = source.array.astype(np.float32) / 2 - 1000
    return source.with_array(values, modality="CT", units="HU", path=None)


def parsed(dataset: FileDataset) -> FileDataset:
    """A copy whose elements are values rather than the bytes of a file."""
    copy = deepcopy(dataset)
    for _ in copy.iterall():
        pass
    return copy


def save_all(datasets: Sequence[tuple[str, FileDataset]], folder: Path) -> None:
    """What a loop of pydicom does."""
    folder.mkdir()
    for name, dataset in datasets:
        dataset.save_as(folder / name)


# Translating


@dataclass(frozen=True)
class Sides:
    """One generator, as medp2p and as the original run it.

    Attributes:
        translator: Ours.
        network: The original's, in evaluation mode, which is its faster one.
        value_range: The MR values that become -1 and +1, which the original is given.
    """

    translator: Translator
    network: Any
    value_range: tuple[float, float]

    @classmethod
    def build(cls, checkout: Path, series: SeriesOnDisk, steps: int) -> Sides:
        """Train briefly, and give both sides the weights."""
        pairs = structured_pairs(PAIRS, SIZE)
        weights = train_briefly(CPU, pairs, 8, steps)
        generator = build_generator(SETTINGS, 1, 1)
        generator.load_state_dict(weights)
        config = Config(method=SETTINGS)
        model = Model(generator, ModelCard(config, ("mr",), HU_RANGE), hash="0" * 64)
        network = Original(checkout).generator()
        copy_generator(weights, network)
        mr = read_volume(series.folder)
        settings = config.preprocessing.source
        value_range = find_value_range(mr, body_mask(mr, "MR"), settings)
        return cls(make_translator(model, device="cpu"), network.eval(), value_range)

    def ours(self, source: Path, target: Path) -> None:
        """What `medp2p translate` does once the model is there."""
        result = self.translator(read_volume(source))
        write_dicom_series(result, target, DicomOutput(model_name="model.safetensors"))

    def theirs(self, source: Path, target: Path) -> None:
        """MONAI reads, the original translates slice by slice, pydicom copies and saves.

        Slices already have the network's size, so nothing has to be resized. MONAI turns them
        as in training.
        """
        image = LoadImage(reader="PydicomReader", ensure_channel_first=True)(source)
        turned: Any = Orientation(axcodes="RAS")(image)
        slices = turned.as_tensor()[0].permute(2, 1, 0)
        low, high = self.value_range
        unit = ((slices - low) * (2 / (high - low)) - 1).clip(*MR_UNIT_LIMITS)
        with torch.no_grad():
            predictions = [self.network(one[None, None])[0, 0] for one in unit]
        in_dicom_order = torch.stack(predictions).flip(1, 2)
        hu = (in_dicom_order + 1) * ((HU_RANGE[1] - HU_RANGE[0]) / 2) + HU_RANGE[0]
        save_copies(source, target, hu.round().to(torch.int16))


def save_copies(source: Path, target: Path, hu: Tensor) -> None:
    """Each source data set, in order of position, with new pixels and UIDs, saved as CT."""
    target.mkdir()
    datasets = [dcmread(path) for path in source.iterdir()]
    datasets.sort(key=lambda dataset: float(dataset.ImagePositionPatient[2]))
    series_uid = generate_uid()
    for dataset, pixels in zip(datasets, hu.numpy(), strict=True):
        dataset.SeriesInstanceUID = series_uid
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.Modality = "CT"
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, 1
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(target / f"CT{dataset.InstanceNumber:05d}.dcm")


def measure_translation(series: SeriesOnDisk, sides: Sides, turns: Turns) -> list[dict[str, Any]]:
    """Seconds from folder to folder, and how much the results differ."""
    difference = mean_difference_hu(series, sides, turns.place.with_name("results"))
    baseline = "MONAI + original, batch 1, float32 + pydicom"
    precision = "bf16" if bf16_is_fast(CPU) else "fp32"
    name = f"medp2p, {precision}"
    seconds = turns.seconds(
        {
            baseline: lambda folder: sides.theirs(series.folder, folder),
            name: lambda folder: sides.ours(series.folder, folder),
        }
    )
    rows = as_rows(seconds, baseline)
    rows[1]["result"] = f"{difference:.2f} HU apart on average in the body"
    return rows


def mean_difference_hu(series: SeriesOnDisk, sides: Sides, folder: Path) -> float:
    """Mean absolute difference inside the body between the two results as read again."""
    folder.mkdir()
    sides.ours(series.folder, folder / "ours")
    sides.theirs(series.folder, folder / "theirs")
    ours, theirs = read_volume(folder / "ours"), read_volume(folder / "theirs")
    if ours.grid.difference(theirs.grid):
        raise SystemExit("the two results do not lie on one grid")
    body = body_mask(read_volume(series.folder), "MR")
    difference = np.abs(ours.array.astype(np.float32) - theirs.array)[body]
    return float(difference.mean())


# Tables


def as_rows(seconds: dict[str, list[float]], baseline: str) -> list[dict[str, Any]]:
    """Median and least seconds, and both as shares of the baseline's."""
    median, least = statistics.median(seconds[baseline]), min(seconds[baseline])
    return [
        {
            "name": name,
            "median_s": statistics.median(times),
            "least_s": min(times),
            "median_ratio": statistics.median(times) / median,
            "least_ratio": min(times) / least,
        }
        for name, times in seconds.items()
    ]


def print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as a Markdown table."""
    print(f"\n{title}\n")
    print("| | median, s | least, s | time / first, medians | least | |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for row in rows:
        times = f"{row['median_s']:.3f} | {row['least_s']:.3f}"
        ratios = f"{row['median_ratio']:.2f} | {row['least_ratio']:.2f}"
        print(f"| {row['name']} | {times} | {ratios} | {row.get('result', '')} |", flush=True)


if __name__ == "__main__":
    main()
