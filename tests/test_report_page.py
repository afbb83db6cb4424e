"""The page and the PDF of an evaluation."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from browser import in_browser
from conftest import refused, run

from medp2p.compared import with_hashes
from medp2p.errors import ImageReadError
from medp2p.evaluation import result_table
from medp2p.metrics import PROFILES, Curve, Histogram2D, range_profile
from medp2p.report.agreement import limits_of_agreement, summed_histogram
from medp2p.report.case_images import read_case_images
from medp2p.report.content import reading, shown_p
from medp2p.report.curves import mean_curve
from medp2p.report.evaluation_page import evaluation_page, viewed_cases
from medp2p.report.figure_style import INK, METHOD_COLOURS
from medp2p.report.figures import figure_sections
from medp2p.report.metric_words import known_metrics, metric_words
from medp2p.report.panels import Panel, as_svg
from medp2p.report.pdf import evaluation_pdf
from medp2p.report.pdf_pages import text_width, wrapped
from medp2p.report.worst_slices import worst_slices
from medp2p.results import (
    CaseFiles,
    CaseResult,
    Comparison,
    Evaluation,
    Failure,
    Finding,
    Ranked,
    Requirement,
    Summary,
    Where,
    write_results,
)

NAN = math.nan
HU = PROFILES["synthrad2025"]
TISSUES = ("air", "soft", "bone", "dense_bone")
PLANES = ("sagittal", "coronal", "axial")


def curve(x, y, counts=None) -> Curve:
    return Curve(tuple(map(float, x)), tuple(map(float, y)), tuple(counts or [100] * len(x)))


def hu_values(rng: np.random.Generator, worse: float) -> dict[str, float]:
    mae = worse * rng.uniform(50, 90)
    values = {
        "mae_hu": mae,
        "bias_hu": rng.normal(-8, 6),
        "psnr_db": 40 - mae / 7,
        "ms_ssim_synthrad2025": 1 - mae / 1500,
        "rmse_hu": 2.1 * mae,
        "ncc": 1 - mae / 3000,
        "mutual_information_nats": 1.2 - mae / 300,
        "voxels": 90000.0,
    }
    for factor, tissue in zip((1.4, 0.5, 2.5, 3.2), TISSUES, strict=True):
        values |= {
            f"mae_{tissue}_hu": factor * mae,
            f"bias_{tissue}_hu": rng.normal(-20 * factor, 8),
            f"voxels_{tissue}": 9000.0,
            f"dice_{tissue}": 0.97 - 0.001 * factor * mae,
            f"hd95_{tissue}_mm": 1 + factor * rng.uniform(0.5, 2),
            f"surface_dice_{tissue}": 0.95 - 0.001 * factor * mae,
        }
    return values | {
        "wepl_mae_mm": mae / 30,
        "wepl_p95_mm": mae / 9,
        **{f"flicker_{plane}": rng.uniform(0.95, 1.3) for plane in PLANES},
        "power_ratio": rng.uniform(0.5, 0.9),
        "edge_width_ratio": rng.uniform(1, 1.4),
    }


def curves(rng: np.random.Generator, mae: float) -> dict[str, Curve]:
    depth = np.arange(0.5, 40 + 5 * rng.integers(3))
    by_slice = {}
    for plane, size in zip(PLANES, (64, 72, 40), strict=True):
        index = np.arange(size)
        height = np.sin(np.pi * (index + 0.5) / size)
        counts = [0, 0, *(1000 * height[2:-2]).astype(int).tolist(), 0, 0]
        error = mae * (1 + 0.5 * rng.random() * np.cos(index / 7))
        by_slice[f"mae_by_slice_{plane}"] = curve(index, np.where(counts, error, NAN), counts)
        by_slice[f"bias_by_slice_{plane}"] = curve(index, np.where(counts, error - 70, NAN), counts)
    angles = np.arange(0, 180, 10)
    frequency = np.linspace(0.025, 0.5, 20)
    return by_slice | {
        "mae_by_depth_mm": curve(depth, mae * (0.7 + np.exp(-depth / 6))),
        "bias_by_depth_mm": curve(depth, -15 + depth / 3),
        "mae_by_interface_distance_mm": curve(depth[:20], mae * (0.4 + np.exp(-depth[:20] / 3))),
        "wepl_mae_by_angle_degrees": curve(angles, mae / 30 + np.sin(np.radians(angles))),
        "power_ratio_by_frequency_per_mm": curve(frequency, np.exp(-3 * frequency)),
    }


def histograms(rng: np.random.Generator, sd: float) -> dict[str, Histogram2D]:
    tissue = rng.choice([-950.0, -80.0, 40.0, 60.0, 500.0, 1200.0], 20000)
    reference = tissue + rng.normal(0, 30 + np.abs(tissue) / 10)
    prediction = reference + rng.normal(-10, sd, reference.size)

    def binned(x, y, x_edges, y_edges):
        counts, *_ = np.histogram2d(x, y, [x_edges, y_edges])
        rows = tuple(map(tuple, counts.astype(int).tolist()))
        return Histogram2D(tuple(x_edges.tolist()), tuple(y_edges.tolist()), rows)

    edges = np.linspace(-1024, 3071, 120)
    difference = np.linspace(-800, 800, 81)
    return {
        "joint": binned(reference, prediction, edges, edges),
        "bland_altman": binned(
            (reference + prediction) / 2, prediction - reference, edges, difference
        ),
    }


def summary(values: list[float]) -> Summary:
    known = [v for v in values if math.isfinite(v)]
    if not known:
        return Summary(NAN, NAN, NAN, 0)
    mean = sum(known) / len(known)
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else NAN
    interval = (mean - sd, mean + sd)
    infinite = sum(map(math.isinf, values))
    return Summary(mean, sd, float(np.median(known)), len(known), interval, infinite)


def with_summaries(results: list[CaseResult], **rest) -> Evaluation:
    methods = dict.fromkeys(result.method for result in results)
    summaries = {
        method: {
            name: summary([r.values[name] for r in results if r.method == method])
            for name in results[0].values
        }
        for method in methods
    }
    return Evaluation(tuple(results), summaries=summaries, **rest)


def full_evaluation(cases: int = 6) -> Evaluation:
    """Two methods, with NaN and infinity, labels, findings and failures."""
    results = []
    for method, worse in (("pix2pix", 1.0), ("plain U-Net", 1.2)):
        for number in range(cases):
            rng = np.random.default_rng((number, len(method)))
            values = hu_values(rng, worse)
            if number == 1:
                values |= {"mae_air_hu": NAN, "dice_air": NAN, "hd95_dense_bone_mm": math.inf}
            findings = (
                Finding(
                    "shifted", "Lies 1.2 voxels to the left; register it.", 1.2, 0.5, (9, 8, 7)
                ),
                Finding("blurred", "Half of the fine detail is missing.", 0.5, 0.8),
            )
            results.append(
                CaseResult(
                    f"case_{number:02}",
                    values,
                    HU,
                    Where(f"/data/case_{number:02}/mask.nii.gz"),
                    ("prediction resampled linearly onto the reference's grid",)
                    if number < 2
                    else (),
                    method,
                    {
                        name: {
                            "dice": 0.0
                            if number == 2 and name == "rib_left_1"
                            else rng.uniform(0.7, 0.9),
                            "hd95_mm": math.inf if number == 2 and name == "rib_left_1" else 3.0,
                            "surface_dice": rng.uniform(0.6, 0.9),
                        }
                        for name in ("spleen", "liver", "vertebrae_T12", "rib_left_1")
                    },
                    curves(rng, values["mae_hu"]),
                    histograms(rng, 60 * worse),
                    findings if number == 3 else findings[1:] if number == 4 else (),
                )
            )
    return with_summaries(
        results,
        failures=(
            Failure("case_90", "case_90.nii.gz: cannot be read: cut short", "pix2pix"),
            Failure("case_91", "no prediction for this case"),
        ),
        comparisons=(
            Comparison("mae_hu", "pix2pix", "plain U-Net", 6, -14.2, 0.03125, 0.03125, -1.0),
            Comparison("psnr_db", "pix2pix", "plain U-Net", 6, 2.1, 0.0004, 0.0008, 0.9),
            Comparison("ncc", "pix2pix", "plain U-Net", 6, 0.001, 0.4, 0.8, 0.2),
            Comparison("bias_hu", "pix2pix", "plain U-Net", 6, 0.0, NAN, NAN, NAN),
        ),
        ranking=(Ranked("pix2pix", 3.0, 1.1), Ranked("plain U-Net", 0.25, 1.9)),
        requirements=(
            Requirement("mae<80", "mae_hu", 74.2, True, "pix2pix"),
            Requirement("bone_dice>0.8", "dice_bone", 0.71, False, "plain U-Net"),
        ),
        settings={"profile": "synthrad2025", "resample": True, "require": ["mae<80"]},
        versions={"medp2p": "0.1.0", "numpy": "2.4.6"},
    )


def small_evaluation(**changes) -> Evaluation:
    """One case of one method under the profile for MR: no tissues, no curves, no findings."""
    values = {"mae": 12.0, "bias": -1.0, "psnr_db": math.inf, "ssim_range": 0.91, "voxels": 500.0}
    result = CaseResult("only", values, range_profile(0, 1000))
    return with_summaries([dataclasses.replace(result, **changes)])


@pytest.fixture(scope="module")
def page() -> str:
    return evaluation_page(full_evaluation())


class Structure(HTMLParser):
    """Headings, ids, references, and the cells of every table by the section that holds it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.links: list[dict[str, str | None]] = []
        self.unscoped = 0
        self.tables: dict[str, list[list[str]]] = {}
        self._section, self._cell = "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in given:
            self.ids.append(given["id"])
        self.references += given.get("aria-labelledby", "").split()
        if tag == "section":
            self._section = given.get("id", "")
        if tag == "a":
            self.links.append(given)
        if tag == "th" and "scope" not in given:
            self.unscoped += 1
        if tag == "tr":
            self.tables.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self._cell = True
            self.tables[self._section][-1].append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data):
        if self._cell:
            self.tables[self._section][-1][-1] += data


def test_the_page_stands_alone(page):
    assert not re.search(r'(src|href)="(?!data:image/|#)', page)
    for word in ("http:", "https:", "url(http", "@import", "<link"):
        assert word not in page


def test_the_page_is_built_for_screen_readers(page):
    structure = Structure(page)
    assert structure.headings[0] == 1
    assert structure.headings.count(1) == 1
    assert max(np.diff(structure.headings)) == 1
    assert structure.unscoped == 0
    assert set(structure.references) <= set(structure.ids)
    ids = [name for name in structure.ids if not re.fullmatch(r"[mpC][0-9a-f_]+|image\w+", name)]
    assert len(ids) == len(set(ids))
    assert all(link["href"][1:] in structure.ids for link in structure.links)


def test_the_page_says_what_was_compared(page):
    for text in (
        "6, each by 2 methods",
        "synthrad2025: range −1024 to 3071 HU, structure metric ms_ssim_synthrad2025",
        "6 in 2 cases",
        "1 of 2 not met",
        "2 without values",
        "prediction resampled linearly onto the reference&#39;s grid",
        "case_90.nii.gz: cannot be read: cut short",
        "dense bone &gt; 700 HU",
    ):
        assert text in page, text


def test_the_summary_holds_the_numbers_of_the_cases(page):
    evaluation = full_evaluation()
    rows = Structure(page).tables["summary"]
    [mae] = [row for row in rows if row[0] == "MAE (HU)"]
    values = [result.values["mae_hu"] for result in evaluation.of_method("pix2pix")]
    assert mae[1] == "pix2pix"
    assert mae[2] == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    assert mae[4] == f"{np.median(values):.1f}"
    assert mae[5] == "6"
    assert "Mean absolute error" in mae[6]
    [air] = [row for row in rows if row[0] == "MAE, air (HU)"]
    assert air[5] == "5, 1 missing"
    [hd95] = [row for row in rows if row[0] == "HD95, dense bone (mm)"]
    assert hd95[5] == "5, 1 infinite"


def test_every_metric_has_a_definition_and_every_value_a_place(page):
    evaluation = full_evaluation()
    assert all(metric.definition for metric in known_metrics(evaluation))
    rows = Structure(page).tables["cases"]
    assert len(rows) == 1 + len(evaluation.results)
    assert len(rows[0]) == 3 + len(evaluation.results[0].values)
    by_name = dict(zip(rows[0], rows[2], strict=True))
    assert by_name["MAE, air (HU)"] == "–"
    assert by_name["HD95, dense bone (mm)"] == "∞"


def test_findings_are_shown_by_case_with_their_place(page):
    rows = Structure(page).tables["findings"][1:]
    assert [row[0] for row in rows] == ["case_03"] * 4 + ["case_04"] * 2
    assert rows[0][2] == "shifted: Lies 1.2 voxels to the left; register it."
    assert rows[0][3] == "9, 8, 7"
    assert rows[1][3] == "everywhere"


@pytest.mark.parametrize(("faulty", "words"), [(1, "2 in 1 case<"), (2, "4 in 2 cases<")])
def test_findings_are_counted(faulty, words):
    findings = (Finding("hole", "A hole.", 9.0, 3.0), Finding("blurred", "Blurred.", 0.5, 0.8))
    results = [
        CaseResult(str(n), {"mae_hu": 1.0}, HU, findings=findings if n < faulty else ())
        for n in range(3)
    ]
    assert words in evaluation_page(with_summaries(results))


def test_comparisons_are_read_in_the_right_direction():
    profile = HU
    mae, psnr, bias = (metric_words(n, profile, {}) for n in ("mae_hu", "psnr_db", "bias_hu"))
    lower = Comparison("", "a", "b", 9, -3.0, 0.01, 0.02, -0.9)
    assert reading(lower, mae) == "a better"
    assert reading(lower, psnr) == "b better"
    assert reading(lower, bias) == "b higher"
    assert reading(dataclasses.replace(lower, p_holm=0.05), mae) == "no difference shown"
    assert reading(dataclasses.replace(lower, p_holm=NAN), mae) == "no difference shown"
    assert [shown_p(p) for p in (0.0002, 0.0312, 1.0, NAN)] == ["< 0.001", "0.031", "1.000", "–"]


def test_what_is_missing_falls_away():
    page = evaluation_page(small_evaluation())
    structure = Structure(page)
    for name in ("comparison", "requirements", "worst", "agreement", "where", "slices", "labels"):
        assert name not in structure.ids
    assert "failures" not in structure.ids
    assert "None of the faults" in page
    assert [row[0] for row in structure.tables["summary"]] == [
        "metric", "MAE", "bias", "PSNR (dB)", "SSIM (range)",
    ]  # fmt: skip
    assert "method" not in structure.tables["summary"][0]
    assert "tissues" not in page.split("<main")[0]


def test_names_are_escaped_and_no_formulas_are_set():
    page = evaluation_page(
        with_summaries(
            [
                dataclasses.replace(result, case="<b>x</b>", method=method)
                for method in ("$\\frac{a}$", "<i>&")
                for result in small_evaluation().results
            ]
        )
    )
    assert "<b>x" not in page
    assert "<i>&" not in page
    assert "&lt;b&gt;x" in page
    assert "$\\frac{a}$" in page


def test_the_same_evaluation_gives_the_same_bytes():
    result = full_evaluation(1).results[0]
    values = {name: result.values[name] for name in ("mae_hu", "bias_hu", "rmse_hu", "voxels")}
    curves = {"mae_by_depth_mm": result.curves["mae_by_depth_mm"]}
    first = with_summaries([dataclasses.replace(result, values=values, curves=curves)])
    assert evaluation_page(first) == evaluation_page(first)


def test_colours_of_figures_follow_the_page(page):
    assert "currentColor" in page
    drawn = "".join(re.findall("<svg.*?</svg>", page, re.DOTALL))
    assert not any(colour in drawn for colour in (INK, *METHOD_COLOURS))
    assert "stroke: var(--method-2)" in drawn


def test_numbers_in_figures_keep_their_digits():
    def draw(figure):
        figure.subplots().set_yticks([0.123456], ["0.123456"])

    svg = as_svg(Panel("one", "t", "c", "d", draw))
    assert ">0.123456</text>" in svg
    attributes = re.findall(r'[a-z]="([^"]*)"', svg)
    assert not re.search(r"\d\.\d{3}", " ".join(attributes))
    assert "xmlns:dc" not in svg


def test_markers_of_figures_are_defined():
    for section in figure_sections(with_summaries(list(full_evaluation(3).results))):
        for panel in section.panels[:1]:
            svg = as_svg(panel)
            used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg))
            assert used <= set(re.findall(r' id="([^"]+)"', svg)), panel.name


def test_mean_curves_count_cases_once_and_need_half_of_them():
    short, long = curve([1, 2], [4, 6]), curve([1, 2, 3], [8, NAN, 10])
    longest = curve([1, 2, 3, 4], [9, 9, 20, 5])
    mean = mean_curve([short, long, longest])
    assert mean.x == (1, 2, 3, 4)
    assert mean.y[:3] == (7, 8, 15)
    assert math.isnan(mean.y[3])
    assert mean.counts == (3, 3, 2, 1)
    assert mean_curve([curve([0, 2], [0, 4]), curve([1, 3], [10, 10])]).y == (0, 6, 7, 10)
    assert mean_curve([]).x == ()


def test_a_method_may_lack_what_another_has():
    with_curves, without = full_evaluation(1).results
    bare = dataclasses.replace(without, curves={}, histograms={}, labels={})
    sections = figure_sections(with_summaries([with_curves, bare]))
    names = [panel.name for section in sections for panel in section.panels]
    assert "curve-mae-by-depth-mm" in names
    assert "joint-0" in names
    assert "joint-1" not in names
    [depth] = [p for s in sections for p in s.panels if p.name == "curve-mae-by-depth-mm"]
    assert "plain U-Net" in as_svg(depth)
    assert depth.description.count("pix2pix") == 1
    assert "plain U-Net" not in depth.description


def test_limits_of_agreement_are_those_of_all_voxels_together():
    rng = np.random.default_rng(0)
    errors = [rng.normal(5, 20, 300), rng.normal(-30, 50, 4000)]
    results = [
        CaseResult(
            str(len(error)),
            {
                "bias_hu": error.mean(),
                "rmse_hu": math.sqrt((error**2).mean()),
                "voxels": error.size,
            },
            HU,
        )
        for error in errors
    ]
    low, mean, high = limits_of_agreement(results)
    together = np.concatenate(errors)
    assert mean == pytest.approx(together.mean())
    assert low == pytest.approx(together.mean() - 1.96 * together.std())
    assert high == pytest.approx(together.mean() + 1.96 * together.std())
    assert limits_of_agreement(small_evaluation().results) is None


def test_histograms_are_added_where_their_bins_agree():
    one = Histogram2D((0.0, 1.0, 2.0), (0.0, 1.0), ((3,), (4,)))
    other = Histogram2D((0.0, 5.0, 9.0), (0.0, 1.0), ((9,), (9,)))
    results = [
        CaseResult(str(n), {}, HU, histograms={"joint": h}) for n, h in enumerate([one, other, one])
    ]
    assert summed_histogram(results, "joint").counts == ((6,), (8,))
    assert summed_histogram(results, "bland_altman") is None


def test_the_worst_slices_come_first_and_thin_ones_do_not_count():
    counts = (2, 100, 100, 100, 3)

    def case(name, errors):
        found = {f"mae_by_slice_{plane}": curve(range(5), [1] * 5, counts) for plane in PLANES}
        found["mae_by_slice_axial"] = curve(range(10, 15), errors, counts)
        return CaseResult(name, {"mae_hu": 3.0}, HU, curves=found)

    first, second, *_ = worst_slices([case("a", [900, 5, 7, 6, 900]), case("b", [0, 0, 0, 9, NAN])])
    assert (first.case, first.plane, first.index, first.mae) == ("b", "axial", 13, 9)
    assert (second.case, second.index, second.place) == ("a", 12, (2, 2, 12))
    assert worst_slices(small_evaluation().results) == []


def test_the_viewer_takes_whole_cases_with_findings_first():
    evaluation = full_evaluation()
    names = [(result.case, result.method) for result in viewed_cases(evaluation, 5)]
    assert names[:4] == [
        ("case_03", "pix2pix"),
        ("case_03", "plain U-Net"),
        ("case_04", "pix2pix"),
        ("case_04", "plain U-Net"),
    ]
    assert len(names) == 4
    assert viewed_cases(evaluation, 0) == []
    assert len(viewed_cases(evaluation, 1)) == 1
    assert len(viewed_cases(evaluation, 99)) == len(evaluation.results)


def write_images(folder: Path, affine=None, **others) -> CaseFiles:
    """A prediction stored in another order of axes than its reference, and a mask."""
    rng = np.random.default_rng(1)
    array = rng.integers(-1000, 2000, (12, 14, 10)).astype(np.int16)
    affine = np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine
    flipped = nib.orientations.inv_ornt_aff([[0, -1], [1, -1], [2, 1]], array.shape)
    images = {
        "ct": nib.Nifti1Image(array, affine),
        "mask": nib.Nifti1Image((array > -500).astype(np.uint8), affine),
        "sct": nib.Nifti1Image((array + 7)[::-1, ::-1].copy(), affine @ flipped),
        **others,
    }
    for name, image in images.items():
        nib.save(image, folder / f"{name}.nii.gz")
    paths = [folder / f"{name}.nii.gz" for name in ("sct", "ct", "mask")]
    return with_hashes(CaseFiles("a", *paths))


def hu_result(files: CaseFiles | None, case: str = "a") -> CaseResult:
    finding = Finding("hole", "There is a hole.", 9.0, 3.0, (3, 4, 5))
    values = {"mae_hu": 7.0, "bias_hu": 7.0}
    return CaseResult(case, values, HU, Where("mask.nii.gz"), findings=(finding,), files=files)


def test_images_are_shown_on_the_grid_of_the_comparison(tmp_path):
    files = write_images(tmp_path)
    images = read_case_images(hu_result(files))
    assert images.reference.orientation == "RAS"
    assert images.notes == ()
    [unknown] = read_case_images(hu_result(dataclasses.replace(files, hashes={}))).notes
    assert "is not known" in unknown
    np.testing.assert_array_equal(images.prediction.array, images.reference.array + 7)
    np.testing.assert_array_equal(images.mask, images.reference.array > -500)


def test_an_image_on_another_grid_is_resampled_and_said_to_be(tmp_path):
    coarse = nib.Nifti1Image(np.full((6, 7, 10), 50, np.int16), np.diag([4.0, 4.0, 3.0, 1.0]))
    files = write_images(tmp_path, sct=coarse, mr=coarse)
    files = dataclasses.replace(files, source=tmp_path / "mr.nii.gz")
    images = read_case_images(hu_result(files))
    assert images.prediction.shape == images.source.shape == (12, 14, 10)
    assert images.prediction.array[3, 3, 3] == 50
    first, second = images.notes
    assert first.startswith("prediction resampled linearly onto the reference's grid; ")
    assert second == "source resampled onto the reference's grid"


def test_images_that_moved_are_one_line(tmp_path):
    files = write_images(tmp_path)
    gone = dataclasses.replace(files, case="b", prediction=tmp_path / "gone.nii.gz")
    memory = hu_result(None, "c")
    with pytest.raises(ImageReadError):
        read_case_images(hu_result(gone, "b"))
    page = evaluation_page(with_summaries([hu_result(files), hu_result(gone, "b"), memory]))
    lines = re.findall(r"<li>(.*?)</li>", page.split('id="unseen"')[1])
    assert lines[0].startswith("b: ")
    assert "gone.nii.gz" in lines[0]
    assert lines[1] == "c: the prediction was not kept as a file"
    links = [link for link in Structure(page).links if "data-view-case" in link]
    assert {link["data-view-case"] for link in links} == {"a"}
    assert links[0]["data-view-voxel"] == "3 4 5"


def test_the_pdf_shows_the_worst_slices_and_is_the_same_again(tmp_path):
    result = hu_result(write_images(tmp_path))
    curves = {"mae_by_slice_axial": curve(range(10), [7] * 10)}
    with_curves = with_summaries([dataclasses.replace(result, curves=curves)])
    without = with_summaries([dataclasses.replace(result, curves=curves, files=None)])

    def pages(pdf: bytes) -> int:
        return len(re.findall(rb"/Type /Page\b", pdf))

    pdf = evaluation_pdf(with_curves)
    assert pages(pdf) == pages(evaluation_pdf(without)) + 1
    assert pdf == evaluation_pdf(with_curves)
    assert b"CreationDate" not in pdf


def test_lines_of_the_pdf_fit():
    text = "one two " * 20 + "w" * 300
    lines = wrapped(text, 120, 8)
    assert all(text_width(line, 8) <= 121 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped("", 100, 8) == [""]


def test_the_command_writes_page_and_pdf(tmp_path, capsys):
    files = write_images(tmp_path)
    write_results(tmp_path / "results", with_summaries([hu_result(files)]))
    out, pdf = tmp_path / "out.html", tmp_path / "out.pdf"
    code, _, _ = run(capsys, "report", tmp_path / "results", out, "--pdf", pdf)
    assert code == 0
    assert 'data-name="a"' in out.read_text()
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert "--overwrite" in refused(capsys, "report", tmp_path / "results", out)
    code, *_ = run(capsys, "report", tmp_path / "results", out, "--no-viewer", "--overwrite")
    assert code == 0
    assert 'data-name="a"' not in out.read_text()


def test_the_command_names_changed_images_once_also_if_only_the_pdf_shows_them(tmp_path, capsys):
    files = write_images(tmp_path)
    curves = {"mae_by_slice_axial": curve(range(10), [7] * 10)}
    result = dataclasses.replace(hu_result(files), curves=curves)
    write_results(tmp_path / "results", with_summaries([result]))
    with files.prediction.open("ab") as file:
        file.write(b"more")
    out, pdf = tmp_path / "out.html", tmp_path / "out.pdf"
    command = ("report", tmp_path / "results", out, "--pdf", pdf, "--overwrite")
    for options in ((), ("--no-viewer",)):
        code, _, err = run(capsys, *command, *options)
        assert code == 0
        told = [line for line in err.splitlines() if line.startswith("medp2p: ")]
        assert len(told) == 1
        assert told[0].startswith("medp2p: case a without images: ")
        assert "changed since the evaluation" in told[0]


@pytest.mark.parametrize(
    ("span", "shown"), [(1, "0.034"), (20, "0.03"), (100, "0.0"), (4095, "0.0")]
)
def test_errors_have_as_many_decimals_as_their_range_needs(span, shown):
    profile = range_profile(0, span)
    words = metric_words("mae", profile, {})
    assert words.shown(0.034) == shown
    result = dataclasses.replace(small_evaluation().results[0], profile=profile)
    values = {**result.values, "mae": 0.034}
    evaluation = with_summaries([dataclasses.replace(result, values=values)])
    assert f"| {shown} |" in result_table(evaluation)


def test_the_command_refuses_what_is_no_result(tmp_path, capsys):
    line = refused(capsys, "report", tmp_path / "gone", tmp_path / "out.html")
    assert "no such file" in line
    code, _, err = run(capsys, "report", tmp_path, tmp_path / "out.txt")
    assert code == 2
    assert ".html" in err


@pytest.mark.external
def test_tables_are_sorted_in_a_browser(tmp_path, page):
    document = in_browser(
        tmp_path,
        page,
        """
const say = (text) => document.body.append(Object.assign(document.createElement("p"),
  { textContent: text, className: "said" }));
const table = document.querySelector("#cases table");
const heads = [...table.tHead.rows[0].cells];
const column = (name) => heads.findIndex((head) => head.textContent === name);
function click(name) {
  heads[column(name)].querySelector("button").click();
  say(`${name} ${heads[column(name)].getAttribute("aria-sort")}: ${[...table.tBodies[0].rows]
    .map((row) => row.cells[column(name)].textContent).join(" ")}`);
}
click("bias (HU)"); click("bias (HU)"); click("HD95, dense bone (mm)"); click("MAE, air (HU)");
click("MAE, air (HU)"); click("case");
window.addEventListener("error", (event) => say(`error: ${event.message}`));
""",
    )
    said = re.findall(r'<p class="said">([^<]*)</p>', document)
    found = {line.split(": ")[0]: line.split(": ")[1].split(" ") for line in said}
    falling = [float(text.replace("−", "-")) for text in found["bias (HU) descending"]]
    assert falling == sorted(falling, reverse=True)
    assert found["bias (HU) ascending"] == found["bias (HU) descending"][::-1]
    assert found["HD95, dense bone (mm) descending"][:2] == ["∞", "∞"]
    assert found["MAE, air (HU) descending"][-2:] == ["–", "–"]
    assert found["MAE, air (HU) ascending"][-2:] == ["–", "–"]
    assert found["case ascending"][:3] == ["case_00", "case_00", "case_01"]
