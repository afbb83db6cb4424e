"""Scans into translations: many at a time, in bounded memory, stopped by nothing but its end.

Three crews of workers (`medp2p.conversion.crews`) read, predict and write. One loop
(`medp2p.conversion.run`) gives them work and keeps the journal. A scan is *under way* from when
it is begun until it is done, skipped or failed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from medp2p.checkpoint import read_card
from medp2p.conversion.claims import Claims
from medp2p.conversion.crews import Crews
from medp2p.conversion.feeder import More, feeder
from medp2p.conversion.job import ConversionJob
from medp2p.conversion.journal import Event, Journal
from medp2p.conversion.local_crews import local_crews
from medp2p.conversion.run import Run, next_time
from medp2p.conversion.run_journal import Conversion, RunJournal
from medp2p.conversion.scans import Worklist
from medp2p.conversion.stages import Setting
from medp2p.signals import stop_signals

__all__ = ["Conversion", "convert", "next_time"]


def convert(
    worklist: Worklist,
    output: Path,
    job: ConversionJob,
    *,
    more: More | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Conversion:
    """Translate the scans of a worklist into a folder.

    What the folder holds already of the same scan, model and settings is left alone. What is
    ours and was made otherwise is replaced; what is not ours never is. Any number of runs may
    share the folder (`medp2p.conversion.claims`). SIGINT and SIGTERM end the run in order: writes
    under way are finished; a second one ends it at once.

    Args:
        worklist: From `medp2p.conversion.worklist.make_worklist`.
        output: The folder; made if it is not there.
        job: How scans are translated.
        more: Asked again and again for further scans, in a thread of its own. The run then ends
            by a signal, the time of day or a disk only. A scan whose name has come already is
            taken again, since its files may have changed. If it raises a `MedP2PError` or an
            `OSError`, that is logged and it is asked again; any other error ends the run.
        on_event: Called in this process after each event of the journal; whatever it does, the
            pipeline waits for it.

    Raises:
        CheckpointError: If the model cannot be read.
        MedP2PError: If a device or the cluster is not there, or workers die one after the other.
        OutputError: If the folder cannot be written at the beginning.
    """
    setting = _setting(output, job)
    with (
        Journal(output) as journal,
        Claims(output, journal.run, job.lease_seconds) as claims,
        stop_signals() as stop,
        _crews(setting, worklist) as crews,
        feeder(more, crews.inbox),
    ):
        run_journal = RunJournal(journal, setting, on_event)
        run = Run(setting, run_journal, claims, crews, stop, goes_on=more is not None)
        conversion = run.run(worklist)
    if stop.requested and conversion.ended == "finished":  # while the workers were ended
        conversion.ended = "interrupted"
    return conversion


def _setting(output: Path, job: ConversionJob) -> Setting:
    card, model_hash = read_card(job.model)
    labels = replace(
        job.labels,
        model_name=job.model.name,
        model_hash=model_hash,
        settings=f"mask {job.mask}",
    )
    job = replace(job, labels=labels)
    return Setting(
        job,
        output,
        job.settings_hash(model_hash),
        card.source_names,
        card.config.preprocessing,
        card.target_range,
        card.fingerprint,
    )


def _crews(setting: Setting, worklist: Worklist) -> AbstractContextManager[Crews]:
    if setting.job.engine == "local":
        return local_crews(setting)
    from medp2p.conversion.ray_crews import ray_crews

    return ray_crews(setting, worklist)
