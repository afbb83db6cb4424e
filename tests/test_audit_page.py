from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import in_browser
from PIL import Image

from medp2p.config import AuditSettings
from medp2p.errors import ImageReadError
from medp2p.preparation.audit import PairAudit
from medp2p.preparation.audit_files import (
    AUDIT_FILE,
    AUDIT_PAGE,
    AUDIT_TABLE,
    AuditedCase,
    LeftOutPatient,
    write_audit_files,
)
from medp2p.preparation.set_checks import SetFinding


def picture(folder: Path, grey: int) -> Path:
    path = folder / f"{grey}.jpg"
    buffer = io.BytesIO()
    Image.fromarray(np.full((60, 80, 3), grey, np.uint8)).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue())
    return path


def case(name: str, verdict: str, reasons: tuple[str, ...] = (), **changes) -> AuditedCase:
    values = {"residual_mm": 0.5, "lost_parts": 0.1, "turned_degrees": None}
    values |= changes.pop("values", {})
    audit = PairAudit(values, verdict, reasons, {"target": "abc"})
    known = {
        "case": name,
        "patient": name,
        "split": "train" if verdict == "use" else None,
        "verdict": verdict,
        "decision": None,
        "reasons": reasons,
        "audits": {"target": audit},
        "picture": None,
    }
    return AuditedCase(**{**known, **changes})


def write(folder: Path, *cases: AuditedCase) -> str:
    findings = [SetFinding(("b", "a"), "check", "one image is in both")]
    left_out = [LeftOutPatient("p9", "reject", "no CT was found")]
    write_audit_files(folder, cases, left_out, findings, AuditSettings(), {"medp2p": "0.1"})
    return (folder / AUDIT_PAGE).read_text(encoding="utf-8")


def some(folder: Path) -> list[AuditedCase]:
    return [
        case("a", "use", picture=picture(folder, 20)),
        case("b", "check", ("turned by 115°",), values={"residual_mm": 2.5}, decision="use"),
        case("c", "reject", ("swapped", "lost"), values={"residual_mm": None}),
        case("broken", "reject", ("cut short",), audits={}),
    ]


def test_the_table_has_a_row_for_everybody(tmp_path):
    second = PairAudit({"residual_mm": 1.25}, "use")
    first = case("a", "use").audits["target"]
    cases = [*some(tmp_path), case("d", "use", audits={"t2": second, "target": first})]
    write(tmp_path, *cases)
    rows = list(csv.DictReader(io.StringIO((tmp_path / AUDIT_TABLE).read_text())))
    assert [row["case"] for row in rows] == ["a", "b", "c", "broken", "d", ""]
    assert rows[1]["decision"] == "use"
    assert rows[2]["reasons"] == "swapped; lost"
    assert rows[2]["residual_mm"] == ""
    assert rows[4]["residual_mm"] == "0.5"
    assert rows[4]["t2_residual_mm"] == "1.25"
    assert (rows[5]["patient"], rows[5]["verdict"]) == ("p9", "reject")


def test_the_json_has_all_and_says_what_it_means(tmp_path):
    write(tmp_path, *some(tmp_path))
    audit = json.loads((tmp_path / AUDIT_FILE).read_text())
    assert {c["case"]: c["verdict"] for c in audit["cases"]} == {
        "a": "use",
        "b": "check",
        "c": "reject",
        "broken": "reject",
    }
    assert audit["cases"][1]["values"]["target"]["residual_mm"] == 2.5
    assert audit["settings"]["turned_degrees"] == 30
    assert set(audit["cases"][0]["values"]["target"]) <= set(audit["definitions"])
    assert audit["left_out"] == [
        {"patient": "p9", "verdict": "reject", "reason": "no CT was found"}
    ]
    assert audit["findings"][0]["cases"] == ["b", "a"]


def test_the_page_stands_alone_and_is_worst_first(tmp_path):
    page = write(tmp_path, *some(tmp_path))
    assert re.findall(r'data-case="([^"]*)"', page) == ["broken", "c", "b", "a"]
    assert not re.search(r'(src|href)="(?!data:image/jpeg;base64,|#)', page)
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page
    for text in ("one image is in both", "no CT was found", "your decision: use", "manifest.csv"):
        assert text in page
    assert "preparation.audit.residual_mm" in page


def test_the_page_escapes_names_and_reasons(tmp_path):
    page = write(tmp_path, case("<b>x</b>", "check", ('<script>alert("1")</script>',)))
    assert "<b>x" not in page
    assert '<script>alert("1")' not in page
    assert "&lt;b&gt;x" in page


def test_the_same_set_gives_the_same_bytes(tmp_path):
    names = (AUDIT_TABLE, AUDIT_FILE, AUDIT_PAGE)
    write(tmp_path, *some(tmp_path))
    first = [(tmp_path / name).read_bytes() for name in names]
    write(tmp_path, *some(tmp_path))
    assert [(tmp_path / name).read_bytes() for name in names] == first


def test_a_missing_picture_is_refused(tmp_path):
    with pytest.raises(ImageReadError, match="cannot be read"):
        write(tmp_path, case("a", "use", picture=tmp_path / "gone.jpg"))


def test_an_empty_set_has_a_page(tmp_path):
    write_audit_files(tmp_path, [], [], [], AuditSettings(), {})
    assert "Audit of a training set" in (tmp_path / AUDIT_PAGE).read_text()


PRESS = """
const press = (key) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const find = document.querySelector("input[type=search]");
const say = (text) => document.body.append(Object.assign(document.createElement("p"),
  { textContent: text }));
const shown = () => [...document.querySelectorAll(".card")].filter((c) => !c.hidden)
  .map((c) => c.dataset.case).join(" ");
"""


@pytest.mark.external
def test_the_page_works_in_a_browser(tmp_path):
    page = write(tmp_path, *some(tmp_path))
    document = in_browser(
        tmp_path,
        page,
        PRESS
        + """
say(`start: ${shown()}; ${document.querySelector("output").textContent}`);
document.querySelector("input[value=reject]").click();
say(`without reject: ${shown()}`);
document.querySelector("input[value=reject]").click();
find.value = "TURNED"; find.dispatchEvent(new Event("input", { bubbles: true }));
say(`found: ${shown()}`);
find.value = ""; find.dispatchEvent(new Event("input", { bubbles: true }));
const order = document.querySelector("select");
order.value = "residual"; order.dispatchEvent(new Event("change", { bubbles: true }));
say(`by residual: ${shown()}`);
order.value = "case"; order.dispatchEvent(new Event("change", { bubbles: true }));
press("j"); press("j"); press("k");
say(`at: ${document.activeElement.dataset.case}`);
press("l");
say(`wide: ${document.querySelectorAll(".wide").length}`);
press("/");
say(`typing: ${document.activeElement.name}`);
const img = document.querySelector("img");
img.decode().then(() => say(`picture: ${img.naturalWidth}`));
""",
    )
    said = re.findall(r"<p>([a-z ]+: [^<]*)</p>", document)
    assert said == [
        "start: broken c b a; 4 of 4 shown",
        "without reject: b a",
        "found: b",
        "by residual: broken c b a",
        "at: a",
        "wide: 1",
        "typing: find",
        "picture: 80",
    ]
