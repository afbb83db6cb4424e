"""Progress on stderr: a bar with rate and time left, or plain lines when not a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress_bar(title: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
    """Yield ``advance(count=1, note="")``, to be called as work is done.

    Args:
        title: What is being done.
        total: How much there is to do, None if that is not known.
        unit: Of what.
    """
    if not sys.stderr.isatty():
        yield _line_printer(title, total, unit)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, rate="", note="")

        def advance(count: int = 1, note: str = "") -> None:
            bar.advance(task, count)
            speed = bar.tasks[0].speed
            rate = f"{speed:.3g} {unit}/s" if speed else ""
            bar.update(task, rate=rate, note=note)

        yield advance


def _line_printer(title: str, total: int | None, unit: str) -> Callable[..., None]:
    began = last = time.monotonic()
    done = 0

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal last, done
        done += count
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES and done != total:
            return
        last = now
        rate = done / max(now - began, 1e-9)
        of, left = "", ""
        if total is not None:
            of, left = f"/{total}", f", {(total - done) / rate:.0f} s left"
        text = f"{title} {done}{of} {unit}, {rate:.3g} {unit}/s{left}  {note}"
        typer.echo(text.rstrip(), err=True)

    return advance
