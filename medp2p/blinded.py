"""Pairs of images without names, for readers who are to tell predictions from real images.

`export_blinded` writes a folder for the readers and, outside it, the key; `score_answers` counts
how often a reader was right. A reader who cannot tell them apart is right in half of the pairs
(a "visual Turing test"); ``docs/blinded.md`` has what is equalized and what cannot be.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from medp2p.compared import compared_images, read_case, refuse_changed
from medp2p.errors import EvaluationError, GeometryError, MedP2PError
from medp2p.files import atomic_folder
from medp2p.io import write_volume
from medp2p.metrics import Profile
from medp2p.results import CaseFiles, without_formula
from medp2p.volume import Volume, reorient

READERS_FOLDER = "for_readers"
KEY_FILE = "key.csv"
ANSWERS_FILE = "answers.csv"
INSTRUCTIONS_FILE = "README.txt"

LEVELS = 4096
"""Steps of grey of images that are not CT, whose own numbers would tell how they were made."""

FILE_TIME = 315_619_200
"""Of every exported file, 2 January 1980 UTC: which was written first tells nothing."""

KEY_COLUMNS = ("pair", "case", "method", "prediction", "seed")
ANSWER_COLUMNS = ("pair", "which_is_real", "quality_a", "quality_b", "remarks")
MOST_QUALITY = 5
CONFIDENCE = 0.95

Side = Literal["a", "b"]
SIDES: tuple[Side, Side] = ("a", "b")


@dataclass(frozen=True)
class BlindedPair:
    """One pair of the set, as the key has it.

    Attributes:
        pair: Its number, such as ``"001"``.
        case: Which case it is.
        method: Which prediction of the case.
        prediction: Which side is the prediction; the other one is real.
    """

    pair: str
    case: str
    method: str
    prediction: Side


@dataclass(frozen=True)
class BlindedSet:
    """What was exported.

    Attributes:
        pairs: In the order of their numbers.
        failures: Why other cases were left out.
        seed: Which decided order and sides; the same one gives the same files.
    """

    pairs: tuple[BlindedPair, ...]
    failures: Mapping[str, str]
    seed: int


@dataclass(frozen=True)
class ReaderScore:
    """How often one reader recognized the real image.

    Attributes:
        reader: Name of the answers' file, without suffix.
        answered: Pairs with an answer.
        unanswered: Pairs without one; they are not counted.
        correct: Answered pairs in which the real image was recognized.
        accuracy: Correct of answered.
        interval: Exact binomial interval of the accuracy at 95 % (Clopper and Pearson 1934).
        p: Of the two-sided exact binomial test that the reader only guessed (0.5).
        quality_prediction: Mean quality given to predictions, NaN if none.
        quality_real: The same for real images.
    """

    reader: str
    answered: int
    unanswered: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    p: float
    quality_prediction: float
    quality_real: float


def export_blinded(
    cases: Sequence[CaseFiles],
    output: Path,
    profile: Profile,
    *,
    method: str = "",
    seed: int | None = None,
    overwrite: bool = False,
    progress: Callable[[], None] | None = None,
) -> BlindedSet:
    """Write pairs of prediction and reference that only their pictures tell apart.

    ``output/for_readers`` holds ``001_a.nii``, ``001_b.nii`` and so on, an empty answer sheet and
    instructions; ``output/key.csv`` says which is which and is not for readers. Both images of a
    pair are clipped to the profile's range, rounded to the same steps, and have the range's
    lowest value outside the mask; the files are not compressed, since noise makes a compressed
    file larger. They have new headers, with the grid only, and one date.

    Args:
        cases: The files of each case; one pair each.
        output: The folder to make.
        profile: Its range is shown. CT numbers stay HU; other values become `LEVELS` steps.
        method: Name of the predictions, for the key.
        seed: Decides order and sides; None draws one. Readers must not know it.
        overwrite: Whether a set that is there may be replaced.
        progress: Called after each case.

    Raises:
        EvaluationError: If no case could be exported, or case names are there twice.
        OutputError: If the folder exists or cannot be written.
    """
    names = [files.case for files in cases]
    if len(set(names)) < len(names):
        raise EvaluationError("a case is there twice; a real image seen twice gives itself away")
    seed = secrets.randbits(32) if seed is None else seed
    pairs: list[BlindedPair] = []
    failures: dict[str, str] = {}
    with atomic_folder(output, marker=KEY_FILE, overwrite=overwrite) as folder:
        readers = folder / READERS_FOLDER
        readers.mkdir()
        for files in _shuffled(cases, seed):
            pair = BlindedPair(f"{len(pairs) + 1:03d}", files.case, method, _side(files, seed))
            try:
                images = _pictures(files, profile)
            except MedP2PError as error:
                failures[files.case] = str(error)
            else:
                _write_pair(readers, pair, images)
                pairs.append(pair)
            if progress:
                progress()
        if not pairs:
            case, reason = next(iter(failures.items()), ("", "no case was given"))
            raise EvaluationError(f"no pair could be exported; {case}: {reason}")
        sheet = [{"pair": pair.pair} for pair in pairs]
        _write(readers / ANSWERS_FILE, _csv_text(ANSWER_COLUMNS, sheet))
        _write(readers / INSTRUCTIONS_FILE, _instructions(profile))
        key = [{**vars(pair), "seed": str(seed)} for pair in pairs]
        _write(folder / KEY_FILE, _csv_text(KEY_COLUMNS, key))
    return BlindedSet(tuple(pairs), failures, seed)


def score_answers(answers: Path, key: Path) -> ReaderScore:
    """Count how often a reader recognized the real image.

    Args:
        answers: The reader's filled sheet, divided by commas or semicolons.
        key: The set's ``key.csv``, or the folder that holds it.

    Raises:
        EvaluationError: If a file is missing, a pair unknown or there twice, an answer is not
            ``a`` or ``b``, a quality not 1 to `MOST_QUALITY`, or nothing was answered.
    """
    predictions = _read_key(key)
    given, problems = _read_answers(answers, predictions)
    if problems:
        raise EvaluationError(problems[0])
    told = {pair: row["which_is_real"] for pair, row in given.items() if row["which_is_real"]}
    correct = sum(real != predictions[pair] for pair, real in told.items())
    test = binomtest(correct, len(told), 0.5)
    interval = test.proportion_ci(CONFIDENCE, method="exact")
    quality: dict[bool, list[float]] = {True: [], False: []}
    for pair, row in given.items():
        for side in SIDES:
            if row[f"quality_{side}"]:
                quality[side == predictions[pair]].append(float(row[f"quality_{side}"]))
    return ReaderScore(
        reader=answers.stem,
        answered=len(told),
        unanswered=len(predictions) - len(told),
        correct=correct,
        accuracy=correct / len(told),
        interval=(float(interval.low), float(interval.high)),
        p=float(test.pvalue),
        quality_prediction=_mean(quality[True]),
        quality_real=_mean(quality[False]),
    )


def answer_problems(answers: Path, key: Path) -> list[str]:
    """Say what keeps a reader's sheet from being scored, a line for each wrong row of it.

    Args:
        answers: The reader's filled sheet.
        key: The set's ``key.csv``, or the folder that holds it.

    Raises:
        EvaluationError: If the key cannot be read.
    """
    predictions = _read_key(key)
    try:
        return _read_answers(answers, predictions)[1]
    except EvaluationError as error:
        return [str(error)]


def _shuffled(cases: Sequence[CaseFiles], seed: int) -> list[CaseFiles]:
    """The cases in an order that seed and names alone decide."""
    ordered = sorted(cases, key=lambda files: files.case)
    order = np.random.default_rng([seed, 0]).permutation(len(ordered))
    return [ordered[index] for index in order]


def _side(files: CaseFiles, seed: int) -> Side:
    """A fair coin for each case, whatever other cases are in the set."""
    return SIDES[hashlib.sha256(f"{seed} {files.case}".encode()).digest()[0] % 2]


def _pictures(files: CaseFiles, profile: Profile) -> tuple[Volume, Volume]:
    """Return prediction and reference on one grid, with the same values outside the mask.

    The whole mask is shown, also where the evaluation compared a region of it.
    """
    files = replace(files, region=None, source=None)
    refuse_changed(files)
    volumes = read_case(files)
    if volumes.registration is None:
        _refuse_other_grid(volumes.prediction, volumes.reference)
    images = compared_images(volumes, outside=profile.value_range[0], allow_resampling=True)
    # The last digits of a position would tell which is which; compared images share an affine.
    prediction, reference = (
        _picture(volume, images.inside, profile) for volume in (images.prediction, images.reference)
    )
    return prediction, reference


def _refuse_other_grid(prediction: Volume, reference: Volume) -> None:
    difference = reorient(prediction, reference.orientation).grid.difference(reference.grid)
    if difference:
        raise GeometryError(
            f"{prediction.name}: not on the grid of {reference.name}: {difference}; "
            "bring it there first"
        )


def _picture(volume: Volume, inside: NDArray[np.bool_] | None, profile: Profile) -> Volume:
    """Return the image in int16 within the range, axes to the right, front and head."""
    values = volume.array.astype(np.float64)
    if not np.isfinite(values).all():
        raise EvaluationError(f"{volume.name}: holds values that are no numbers; repair the image")
    low, high = profile.value_range
    values = np.clip(values, low, high)
    if inside is not None:
        values[~inside] = low
    if profile.units != "HU":
        values = (values - low) / profile.span * (LEVELS - 1)
    return reorient(Volume(np.rint(values).astype(np.int16), volume.affine), "RAS")


def _write_pair(folder: Path, pair: BlindedPair, images: tuple[Volume, Volume]) -> None:
    prediction, reference = images
    of_side = {"a": reference, "b": reference, pair.prediction: prediction}
    for side in SIDES:
        path = folder / f"{pair.pair}_{side}.nii"
        write_volume(of_side[side], path)
        os.utime(path, (FILE_TIME, FILE_TIME))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
    os.utime(path, (FILE_TIME, FILE_TIME))


def _csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: without_formula(cell) for name, cell in row.items()} for row in rows)
    return text.getvalue()


def _instructions(profile: Profile) -> str:
    low, high = profile.value_range
    values = f"HU, clipped to {low:g} to {high:g} and rounded to whole numbers"
    if profile.units != "HU":
        values = f"grey in {LEVELS} steps from 0 to {LEVELS - 1}, of which the ends clip"
    return (
        "Each pair of images, such as 001_a.nii and 001_b.nii, shows the same body on the same\n"
        "voxels. One is a real image, the other one was computed.\n\n"
        f"Values: {values}; the lowest outside the mask where there is one.\n\n"
        f"Fill in {ANSWERS_FILE}, one line for each pair:\n"
        "  which_is_real         a or b; guess if you cannot tell\n"
        f"  quality_a, quality_b  1 (useless) to {MOST_QUALITY} (excellent); may stay empty\n"
        "  remarks               what gave it away, or anything else; may stay empty\n"
    )


def _read_key(key: Path) -> dict[str, str]:
    """Return which side of each pair is the prediction."""
    path = key / KEY_FILE if key.is_dir() else key
    predictions: dict[str, str] = {}
    for line, row in _read_rows(path, KEY_COLUMNS).items():
        pair, side = _pair_name(row["pair"]), row["prediction"]
        if side not in SIDES or pair in predictions:
            raise EvaluationError(
                f"{path}: line {line}: expected each pair once, with the prediction a or b; "
                "take the key as it was exported"
            )
        predictions[pair] = side
    return predictions


def _pair_name(cell: str) -> str:
    """Give a pair's number the leading zeros that spreadsheets drop."""
    return cell.zfill(3)


def _read_rows(path: Path, columns: Sequence[str]) -> dict[int, dict[str, str]]:
    """Read a table with at least these columns; spreadsheets write commas or semicolons.

    Returns:
        The rows by their line in the file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"{path}: cannot be read as a table; save it as CSV (UTF-8)"
        ) from error
    heading = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=";" if ";" in heading else ",")
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise EvaluationError(f"{path}: has no column {', '.join(missing)}; keep the heading")
    lines = ((reader.line_num, row) for row in reader)
    return {n: {column: (row[column] or "").strip() for column in columns} for n, row in lines}


def _read_answers(
    path: Path, predictions: Mapping[str, str]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return a reader's row for each pair, and what is wrong with the sheet."""
    found: dict[str, dict[str, str]] = {}
    problems = []
    for line, row in _read_rows(path, ANSWER_COLUMNS).items():
        if not any(row.values()):
            continue
        pair = _pair_name(row["pair"])
        row["which_is_real"] = row["which_is_real"].lower()
        for side in SIDES:
            row[f"quality_{side}"] = row[f"quality_{side}"].replace(",", ".")
        wrong = _wrong_values(row)
        if pair not in predictions:
            wrong = [f"the pair {row['pair']!r} is not in the key"]
        elif pair in found:
            wrong = [f"the pair {pair} is there twice; leave one line"]
        problems += [f"{path}: line {line}: {what}" for what in wrong]
        found.setdefault(pair, row)
    if not problems and not any(row["which_is_real"] for row in found.values()):
        problems = [f"{path}: no pair has an answer in which_is_real, fill in a or b"]
    return found, problems


def _wrong_values(row: Mapping[str, str]) -> list[str]:
    """Say what is wrong with the values of one row."""
    wrong = []
    if row["which_is_real"] not in (*SIDES, ""):
        wrong.append(f"which_is_real is {row['which_is_real']!r}, expected a or b")
    for side in SIDES:
        quality = row[f"quality_{side}"]
        if quality and not _is_quality(quality):
            wrong.append(
                f"quality_{side} is {quality!r}, expected a number from 1 to {MOST_QUALITY}"
            )
    return wrong


def _is_quality(text: str) -> bool:
    try:
        return 1 <= float(text) <= MOST_QUALITY
    except ValueError:
        return False


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
