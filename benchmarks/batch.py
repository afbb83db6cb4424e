"""How fast `medp2p batch` is, beside a shell loop and beside its own stages.

    python benchmarks/batch.py many FOLDER [--scans 300] [--loop 20] [--figure memory.png]
    python benchmarks/batch.py heads FOLDER [--scans 20] [--turns 3] [--device cuda] [--json FILE]
    python benchmarks/batch.py sizing FILE

``many`` translates small scans in DICOM and NIfTI (``tests/many_scans.py``) and, with a process
each, some of them by `medp2p translate`; the results must be equal. ``heads`` measures reading,
prediction and writing of heads of 256×256×180 alone, with the processes and threads that the
pipeline gives each, and then the pipeline. ``sizing`` reckons from what ``heads --json`` wrote how
many scans an hour machines do. The network is that of the preset mr_to_ct with random weights.
Linux only: memory is read from /proc. Measure on a machine that does nothing else.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch: idle threads must not spin

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from process_memory import cpu_seconds, family, memory_over_time

from medp2p.checkpoint import read_card
from medp2p.conversion.job import ConversionJob
from medp2p.conversion.journal import Event, read_events
from medp2p.conversion.pipeline import convert
from medp2p.conversion.records import content_of
from medp2p.conversion.rules import load_rules
from medp2p.conversion.scans import Scan, Worklist
from medp2p.conversion.stages import (
    DeviceSetting,
    ReadRequest,
    ReadResult,
    ReadScan,
    Setting,
    begin_reader,
    write_result,
)
from medp2p.conversion.work import begin_predicting
from medp2p.conversion.worklist import make_worklist
from medp2p.io import write_volume
from medp2p.phantom import make_phantom
from medp2p.phantom.dicom_export import Series, Study, sequence_header, write_patient
from medp2p.volume import Volume
from medp2p.workers import begin_worker

HEAD_SHAPE = (256, 256, 180)
SUBJECTS = 2
SECONDS_BETWEEN_LOOKS = 0.5
STAGES = ("read", "predict", "write")

Json = dict[str, Any]
Folder = Annotated[Path, typer.Argument(help="Folder to make; scans and model there are kept.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


# Many small scans.


@app.command()
def many(
    folder: Folder,
    scans: Annotated[int, typer.Option(min=1, help="For the batch.")] = 300,
    loop: Annotated[int, typer.Option(min=1, help="Of these, for the shell loop.")] = 20,
    figure: Annotated[Path | None, typer.Option(help="PNG of the batch's memory.")] = None,
) -> None:
    """Compare a batch with a shell loop over `medp2p translate`."""
    incoming, model = folder / f"many_{scans}", folder / "mr_to_ct.safetensors"
    _make_model(model)
    if not incoming.exists():
        maker = Path(__file__).parents[1] / "tests" / "many_scans.py"
        subprocess.run([sys.executable, maker, incoming, str(scans), "--good"], check=True)
    for name in ("batch", "loop"):
        shutil.rmtree(folder / name, ignore_errors=True)
    worklist = make_worklist(incoming, load_rules(), read_card(model)[0])
    some = worklist.scans[:: max(1, len(worklist.scans) // loop)][:loop]
    half = len(some) // 2
    seconds = _translate_each(some[:half], folder / "loop", model)
    began = time.perf_counter()
    memory = _run_batch(incoming, folder / "batch", model)
    batch_seconds = time.perf_counter() - began
    seconds += _translate_each(some[half:], folder / "loop", model)
    for made in (folder / "loop").iterdir():
        [other] = (folder / "batch").glob(f"*/{made.name.replace('--', '/')}")
        if content_of(made) != content_of(other):
            raise SystemExit(f"{made} and {other} differ")
    if figure:
        draw_memory(memory, figure)
    each, mean_seconds = batch_seconds / len(worklist.scans), sum(seconds) / len(seconds)
    peaks = [max(mib for _, mib in part) for part in np.array_split(np.array(memory), 3)]
    _print(
        {
            "scans": len(worklist.scans),
            "batch_seconds_a_scan": round(each, 3),
            "translate_seconds_a_scan": round(mean_seconds, 2),
            "times_as_fast": round(mean_seconds / each, 2),
            "results_compared": len(seconds),
            "peak_mib_of_each_third": [round(float(peak)) for peak in peaks],
        }
    )


def _translate_each(scans: Sequence[Scan], output: Path, model: Path) -> list[float]:
    """What a shell loop does; returns the seconds of each."""
    output.mkdir(exist_ok=True)
    seconds = []
    for scan in scans:
        path = scan.images[0].path
        name = "--".join(Path(scan.name).parts[1:]) + (".nii.gz" if path.suffix == ".gz" else "")
        began = time.perf_counter()
        if _start("translate", path, output / name, "-m", model).wait():
            raise SystemExit(f"{path} was not translated")
        seconds.append(time.perf_counter() - began)
    return seconds


def _run_batch(incoming: Path, output: Path, model: Path) -> list[tuple[float, float]]:
    """Seconds and MiB, all processes together."""
    process = _start("batch", incoming, output, "-m", model)
    memory = memory_over_time(process, SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        raise SystemExit(f"the batch ended with {process.returncode}")
    return memory


def _start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "medp2p.cli", *arguments, "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def draw_memory(memory: Sequence[tuple[float, float]], path: Path) -> None:
    """Draw memory over time, readable on light and dark pages.

    Args:
        memory: Seconds and MiB.
        path: PNG to make.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from medp2p.report.figure_style import METHOD_COLOURS, house_style

    grey = "#7d868f"
    inked = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
    colours: dict[Any, Any] = {**dict.fromkeys(inked, grey), "grid.color": f"{grey}50"}
    seconds, mib = np.array(memory).T
    with house_style(), mpl.rc_context(colours):
        figure = Figure(figsize=(6.4, 2.4), dpi=200, layout="constrained")
        axes = figure.subplots()
        axes.plot(seconds, mib / 1024, color=METHOD_COLOURS[0], linewidth=1.2)
        axes.set(xlabel="seconds", ylabel="GiB, all processes", xlim=(0, seconds[-1]))
        axes.set_ylim(0, 1.2 * float(mib.max()) / 1024)
        figure.savefig(path, transparent=True)


# Heads.


@dataclass(frozen=True)
class Measured:
    """A stage by itself, or the pipeline.

    Attributes:
        rate: Scans a second.
        cpu_seconds: Of all threads, for one scan.
    """

    rate: float
    cpu_seconds: float


@app.command()
def heads(
    folder: Folder,
    scans: Annotated[int, typer.Option(min=8, help="Every other one is DICOM.")] = 20,
    turns: Annotated[int, typer.Option(min=1, help="Medians are reported.")] = 3,
    device: Annotated[list[str] | None, typer.Option(help="Repeat it for several.")] = None,
    readers: Annotated[int | None, typer.Option(min=1)] = None,
    result: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Compare the pipeline with its stages alone."""
    incoming, model = folder / f"heads_{scans}", folder / "mr_to_ct.safetensors"
    _make_model(model)
    _make_heads(incoming, scans)
    job = ConversionJob(model, devices=tuple(device or ["cpu"]), guard="force")
    job = replace(job, readers=readers or job.readers)
    worklist = make_worklist(incoming, load_rules(), read_card(model)[0])
    setting = _setting(job, folder / "heads_out")
    every = []
    for _ in range(turns):
        alone = _stages_alone(worklist.scans, setting)
        every.append({**alone, "pipeline": _pipeline(worklist, setting)})
    values = _compared({name: _median([one[name] for one in every]) for name in every[0]})
    values |= _sizes(worklist, setting)
    values |= {"scans": len(worklist.scans), "turns": turns, "devices": list(job.devices)}
    values |= {"readers": job.readers, "writers": job.writers, "cores": _cores()}
    if result:
        result.write_text(json.dumps(values, indent=1) + "\n")
    _print(values)


def _median(several: Sequence[Measured]) -> Measured:
    rates, cpu = ([getattr(one, name) for one in several] for name in ("rate", "cpu_seconds"))
    return Measured(median(rates), median(cpu))


def _compared(measured: Mapping[str, Measured]) -> Json:
    """The pipeline's rate as a share of the slowest stage's.

    ``cores_busy`` tells whether other work disturbed: alone on a machine a pipeline that predicts
    on the CPU keeps all cores busy.
    """
    slowest = min(STAGES, key=lambda stage: measured[stage].rate)
    return {
        **{
            name: {
                "scans_an_hour": round(3600 * one.rate),
                "cpu_seconds_a_scan": round(one.cpu_seconds, 3),
                "cores_busy": round(one.rate * one.cpu_seconds, 2),
            }
            for name, one in measured.items()
        },
        "slowest_stage": slowest,
        "share_of_slowest_stage": round(measured["pipeline"].rate / measured[slowest].rate, 3),
        "share_of_cpu_time": round(
            measured[slowest].cpu_seconds / measured["pipeline"].cpu_seconds, 3
        ),
    }


def _sizes(worklist: Worklist, setting: Setting) -> Json:
    """MiB of a scan and of its result, on average over DICOM and NIfTI."""
    files = [file for scan in worklist.scans for file in scan.images[0].files]
    made = [
        content["bytes"]
        for event in read_events(setting.output)
        if event.kind == "done"
        for content in event.details["outputs"].values()
    ]
    count = len(worklist.scans)
    return {
        "mib_read_a_scan": round(sum(file.stat().st_size for file in files) / count / 2**20, 1),
        "mib_written_a_scan": round(sum(made) / len(made) / 2**20, 1),
    }


def _setting(job: ConversionJob, output: Path) -> Setting:
    card, model_hash = read_card(job.model)
    labels = replace(job.labels, model_name=job.model.name, model_hash=model_hash, settings="")
    return Setting(
        replace(job, labels=labels),
        output,
        "",
        card.source_names,
        card.config.preprocessing,
        card.target_range,
        card.fingerprint,
    )


def _stages_alone(scans: Sequence[Scan], setting: Setting) -> dict[str, Measured]:
    job, half = setting.job, len(scans) // 2
    some = [(scan, _read(scan, begin_reader(setting))) for scan in scans[:2]]
    assert job.labels.model_hash
    device = DeviceSetting(
        job.model, job.labels.model_hash, job.devices[0], job.precision, job.batch_size
    )
    codes = setting.output.with_name("codes.npy")
    np.save(codes, some[0][1].prepared.codes)
    unit = np.zeros(some[0][1].prepared.codes.shape[1:], np.float32)
    folder = setting.output.with_name("written")

    def write(number: int) -> float:
        scan, read = some[number % 2]
        place = folder / str(number)
        place.mkdir(parents=True)
        write_result(scan, read, unit, setting, place)
        shutil.rmtree(place)
        return 0.0

    with _processes(job.readers, _begin_reading, setting) as readers:
        read = _measure(readers, job.readers, _time_work, scans)
    with _processes(len(job.devices), _begin_predicting, device, codes) as devices:
        predict = _measure(devices, len(job.devices), _time_work, range(half))
    with ThreadPoolExecutor(job.writers) as writers:
        wrote = _measure(writers, job.writers, write, range(len(scans)))
    return {"read": read, "predict": predict, "write": wrote}


def _measure(
    executor: Executor, workers: int, work: Callable[[Any], float], jobs: Sequence[Any]
) -> Measured:
    """Time jobs, after a first one for each worker.

    Args:
        executor: With so many workers.
        workers: How many.
        work: Returns the CPU seconds that it took in a process of its own.
        jobs: Its arguments.
    """
    list(executor.map(work, jobs[:workers]))
    began, cpu_before = time.perf_counter(), time.process_time()
    cpu_elsewhere = sum(executor.map(work, jobs))
    seconds, cpu_here = time.perf_counter() - began, time.process_time() - cpu_before
    return Measured(len(jobs) / seconds, (cpu_elsewhere + cpu_here) / len(jobs))


def _processes(count: int, begin: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, get_context("spawn"), begin, arguments)


_work: Callable[[Any], object]
"""Of a process that measures a stage."""


def _begin_reading(setting: Setting) -> None:
    global _work
    begin_worker()
    reader = begin_reader(setting)
    _work = lambda scan: _read(scan, reader)  # noqa: E731


def _begin_predicting(setting: DeviceSetting, codes: Path) -> None:
    global _work
    begin_worker()
    predict, scan = begin_predicting(setting), np.load(codes)
    _work = lambda _: predict(None, scan)  # noqa: E731


def _time_work(job: Any) -> float:
    """CPU seconds of all threads of this process."""
    began = time.process_time()
    _work(job)
    return time.process_time() - began


def _read(scan: Scan, reader: Callable[[ReadRequest], ReadResult]) -> ReadScan:
    """Read a scan that was never translated."""
    request = ReadRequest(scan, f"{scan.name}.none", (), frozenset(), {}, claimed=True)
    result = reader(request)
    assert isinstance(result, ReadScan), result
    return result


def _pipeline(worklist: Worklist, setting: Setting) -> Measured:
    """Measure from the first result until the last one before the last scan is begun.

    Before, processes start; afterwards nothing is read any more, and the rest goes faster.
    """
    shutil.rmtree(setting.output, ignore_errors=True)
    done: list[tuple[float, float]] = []
    left = len(worklist.scans)

    def note(event: Event) -> None:
        nonlocal left
        left -= event.kind == "taken" and not event.code
        if event.kind == "done" and left:
            done.append((time.perf_counter(), sum(map(cpu_seconds, family(os.getpid())))))

    conversion = convert(worklist, setting.output, setting.job, on_event=note)
    if conversion.done != len(worklist.scans) or len(done) < 3:
        raise SystemExit(f"{conversion.failed} scans failed, or too few were given")
    (began, cpu_before), (ended, cpu_after) = done[0], done[-1]
    count = len(done) - 1
    return Measured(count / (ended - began), (cpu_after - cpu_before) / count)


# What is measured with.


def _make_model(path: Path) -> None:
    """A network of the preset's size, with random weights."""
    if path.exists():
        return
    import torch

    from medp2p.checkpoint import ModelCard, save_model
    from medp2p.config import load_config
    from medp2p.methods import build_generator

    torch.manual_seed(0)
    config = load_config(preset="mr_to_ct")
    generator = build_generator(config.method, in_channels=1, out_channels=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, generator.state_dict(), ModelCard(config, ("mr",), (-1024.0, 3071.0)))


def _make_heads(folder: Path, count: int) -> None:
    """Heads with noise of their own, as NIfTI files and as DICOM series in turn."""
    if folder.exists():
        return
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    phantoms = [
        make_phantom("head", 800 + n, shape=HEAD_SHAPE, spacing_mm=(1.0, 1.0, 1.0)).mr["t1"]
        for n in range(SUBJECTS)
    ]
    for number in range(count):
        rng = np.random.default_rng(number)
        head = phantoms[number % SUBJECTS]
        noisy = head.array + rng.normal(0, 5, HEAD_SHAPE)
        scan = replace(head, array=np.rint(noisy).clip(0, 4095).astype(np.int16), modality="MR")
        if number % 2:
            write_volume(scan, temporary / f"head_{number:02d}.nii.gz", dtype="int16")
        else:
            write_patient([_series(scan, number)], temporary / f"head_{number:02d}")
    temporary.rename(folder)


def _series(scan: Volume, number: int) -> Series:
    study = Study(number, 0, "head", "MR")
    header = {
        **study.header(),
        **sequence_header("t1", 1.5),
        "Modality": "MR",
        "SeriesNumber": "2",
        "SeriesDescription": "T1",
        "SeriesInstanceUID": study.uid("series", 2),
    }
    return Series("mr", (scan,), header)


# Reckoning.


@app.command()
def sizing(
    measured: Annotated[Path, typer.Argument(help="What `heads --json` wrote.")],
    machines: Annotated[str, typer.Option(help="GPUs x cores of machines, comma-separated.")] = (
        "0x2,0x4,0x8,1x8,1x16,2x16,4x32,8x64"
    ),
) -> None:
    """Print a table of scans an hour, disk and network, by the formula of docs/cluster.md."""
    values = json.loads(measured.read_text())
    has_gpu = any(device.startswith("cuda") for device in values["devices"])
    typer.echo("| GPUs | cores | scans an hour | bound by | read, MiB/s | written, MiB/s |")
    typer.echo("| ---: | ---: | ---: | --- | ---: | ---: |")
    for machine in machines.split(","):
        gpus, cores = map(int, machine.split("x"))
        if bool(gpus) != has_gpu:
            continue
        per_hour, bound = scans_an_hour(values, gpus, cores)
        read, written = (
            per_hour / 3600 * values[f"mib_{way}_a_scan"] for way in ("read", "written")
        )
        typer.echo(f"| {gpus} | {cores} | {per_hour:,.0f} | {bound} | {read:.1f} | {written:.1f} |")


def scans_an_hour(measured: Json, gpus: int, cores: int) -> tuple[float, str]:
    """Return the rate of a machine, and what bounds it: all stages share the cores.

    Args:
        measured: What `heads` found.
        gpus: 0 if the cores predict.
        cores: Of the machine.
    """
    by_cores = 3600 * cores / float(measured["pipeline"]["cpu_seconds_a_scan"])
    if not gpus:
        return by_cores, "cores"
    by_gpus = gpus * float(measured["predict"]["scans_an_hour"]) / len(measured["devices"])
    return (by_gpus, "GPUs") if by_gpus < by_cores else (by_cores, "cores")


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _print(values: Json) -> None:
    typer.echo(json.dumps(values, indent=1))


if __name__ == "__main__":
    app()
