"""Headers without the patient: the Basic Application Level Confidentiality Profile.

DICOM PS3.15 annex E, table E.1-1, is in ``confidentiality_profile.csv``, made by
``benchmarks/confidentiality_profile.py``. What becomes of an attribute:

- The table removes, empties, replaces or maps it. Where the table leaves a choice, the attribute
  stays, emptied or with a dummy value, so that a valid CT or MR image stays valid.
- PatientName and PatientID become the same pseudonym, so that an archive keeps patients apart.
  StudyDate, StudyTime and StudyID get dummy values, without which a DICOMDIR cannot be made.
- Private attributes go, at every depth, and so does what nobody can check: attributes that the
  data dictionary does not know, values of a kind that it does not expect, overlays and curves,
  encrypted attributes.
- Any other attribute is kept, with two additions to the profile. Names, dates, times and
  addresses (VR PN, DA, DT, TM, UR) are emptied, and UIDs are mapped unless they are registered
  by DICOM or say what kind of object or code something is.

The pixels are not touched. **A face can be recognized in them**, and text may be burned in:
what a header no longer says, the image of a head still shows.

CT and MR images stay valid (PS3.3 A.3, A.4, A.36, A.38). Structured reports and annotations lose
their content and may not.
"""

from __future__ import annotations

import copy
import csv
import hmac
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_has_tag, dictionary_keyword, dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID
from pydicom.valuerep import BYTES_VR

from medp2p.errors import ImageReadError
from medp2p.io.dicom_files import quiet_pydicom
from medp2p.io.dicom_uids import MAX_UID_LENGTH, UUID_ROOT, check_uid_root

METHOD = "medp2p: Basic Application Confidentiality Profile"
"""DeidentificationMethod, at most 64 characters."""

_Action = Literal["remove", "empty", "replace", "map", "keep"]

_ACTION_OF_CODE: dict[str, _Action] = {
    "X": "remove",
    "Z": "empty",
    "D": "replace",
    "U": "map",
    "X/Z": "empty",
    "X/D": "replace",
    "Z/D": "replace",
    "X/Z/D": "replace",
    "X/Z/U*": "map",
}
_ACTION_OF_VR: dict[str, _Action] = {
    "PN": "empty",
    "DA": "empty",
    "DT": "empty",
    "TM": "empty",
    "UR": "empty",
    "UI": "map",
}
_KINDS = (
    "SOPClass",
    "TransferSyntax",
    "CodingScheme",
    "ContextUID",
    "MappingResource",
)
"""Parts of the keywords of UIDs that say what kind of thing something is."""

_PATIENT_NAME = 0x00100010
_PATIENT_ID = 0x00100020
_STUDY_UID = 0x0020000D
_NEVER_EMPTY = frozenset({0x00080020, 0x00080030, 0x00200010})
"""StudyDate, StudyTime, StudyID: the table allows a dummy, a DICOMDIR needs one (PS3.3 F.5.2)."""

_REPEATING_GROUPS = (0x5000, 0x6000)
"""Curves and overlays. The rest of an overlay is not valid without its data."""

_ENCRYPTED_ATTRIBUTES = 0x04000500
_REFERENCED_STUDY_SEQUENCE = 0x00081110
"""Removed where the table leaves the choice: an image may lack it, but not have it empty."""

_NEVER_LEFT = (_ENCRYPTED_ATTRIBUTES, _REFERENCED_STUDY_SEQUENCE)
_KEPT_META = ("MediaStorageSOPClassUID", "TransferSyntaxUID")

_LONGEST_OF_CODE = {
    "CodeValue": 16,
    "CodingSchemeDesignator": 16,
    "CodingSchemeVersion": 16,
    "CodeMeaning": 64,
}
_REQUIRED_OF_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")

_TELLING_VRS = frozenset({"SQ", *BYTES_VR, *_ACTION_OF_VR})
"""Kinds of value that may hold a patient's data where another kind is expected."""

_DUMMY_WORD = "ANONYMIZED"
_DUMMY_OF_VR: dict[str, str | int | float | bytes] = {
    **dict.fromkeys(BYTES_VR, bytes(8)),
    "AS": "000D",
    "AT": 0,
    "DA": "19000101",
    "DS": "0",
    "DT": "19000101000000",
    "FD": 0.0,
    "FL": 0.0,
    "IS": "0",
    "PN": "ANONYMIZED^",
    "SL": 0,
    "SS": 0,
    "SV": 0,
    "TM": "000000",
    "UL": 0,
    "UR": "urn:anonymized",
    "US": 0,
    "UV": 0,
}


@dataclass(frozen=True, repr=False)
class UidMap:
    """New UIDs and patient pseudonyms, always the same for the same key and the same original.

    Without the key nobody can tell which original a new one stands for, or test a guess.

    Attributes:
        key: Secret bytes, at least one; 32 random ones if nobody else must find the same UIDs.
        root: What new UIDs begin with, as `check_uid_root` has it; None is `UUID_ROOT`.

    Raises:
        ValueError: If the key is empty.
        ConfigError: If the root is none.
    """

    key: bytes
    root: str | None = None

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("the key is empty; expected secret bytes, such as 32 random ones")
        if self.root is not None:
            object.__setattr__(self, "root", check_uid_root(self.root))

    def map(self, uid: str) -> str:
        """Return the UID that stands for another; those registered by DICOM stay (PS3.6 A).

        An empty UID stays empty. What is mapped twice is not what is mapped once.
        """
        original = uid.strip(" \0")
        if not original or UID(original, validation_mode=IGNORE).type:
            return original
        digest = self._digest("uid", original)
        if self.root in (None, UUID_ROOT):
            return f"{UUID_ROOT}.{uuid.UUID(bytes=digest[:16], version=4).int}"
        digits = MAX_UID_LENGTH - len(self.root) - 1
        return f"{self.root}.{int.from_bytes(digest, 'big') % 10**digits}"

    def pseudonym(self, identity: str) -> str:
        """Return ``ANON-`` and 16 hexadecimal digits for a patient's id."""
        return f"ANON-{self._digest('patient', identity.strip())[:8].hex().upper()}"

    def _digest(self, purpose: str, text: str) -> bytes:
        return hmac.digest(self.key, f"{purpose}:{text}".encode(), "sha256")


def deidentify(dataset: Dataset, uids: UidMap) -> Dataset:
    """Return a data set without what identifies a patient, as the module says.

    Nothing that the profile empties or replaces is added where the original lacks it. Labels of
    one's own, such as SeriesDescription, ImageComments or DerivationDescription, are removed
    like the source's: write them afterwards.

    PatientIdentityRemoved, DeidentificationMethod and its code (113100), and
    LongitudinalTemporalInformationModified ``REMOVED`` are set. Codes of an earlier
    de-identification are kept as `deidentification_codes` has them.

    Args:
        dataset: Any data set, with or without ``file_meta``; stays as it is.
        uids: The same for all data sets that refer to each other.

    Returns:
        A new data set; its ``file_meta``, if there was one, holds the kind of object, the
        transfer syntax and the new SOPInstanceUID.

    Raises:
        ImageReadError: If sequences are nested some hundred deep, which no real image does.
    """
    with quiet_pydicom:
        try:
            result = _cleaned(dataset, uids)
        except RecursionError as error:
            raise ImageReadError(
                "a header nests sequences too deeply to be de-identified; repair the file"
            ) from error
        _say_so(result)
        meta = getattr(dataset, "file_meta", None)
        if meta is not None:
            result.file_meta = _cleaned_meta(meta, result, uids)
    return result


def _cleaned(dataset: Dataset, uids: UidMap) -> Dataset:
    result = Dataset()
    for tag in dataset.keys():  # noqa: SIM118 (iterating over a data set parses every value)
        element = _cleaned_element(dataset, tag, uids)
        if element is not None:
            result[tag] = element
    return result


def _cleaned_element(dataset: Dataset, tag: BaseTag, uids: UidMap) -> DataElement | None:
    if tag == _PATIENT_ID:
        return DataElement(tag, "LO", _pseudonym(dataset, uids))
    if tag == _PATIENT_NAME:
        return DataElement(tag, "PN", _pseudonym(dataset, uids) + "^")
    match _action(tag):
        case "remove":
            return None
        case "empty":
            return DataElement(tag, dictionary_VR(tag).split(" or ")[0], None)
        case "replace":
            return _replaced(dataset, tag, uids)
    element = _readable(dataset, tag)
    if element is None:
        return None
    if element.VR == "SQ":
        return DataElement(tag, "SQ", [_cleaned(item, uids) for item in element.value])
    if _action(tag) == "map":
        return _mapped(element, uids)
    return copy.deepcopy(element)


@cache
def _action(tag: BaseTag) -> _Action:
    if tag.is_private or not dictionary_has_tag(tag):
        return "remove"
    if tag.group & 0xFF00 in _REPEATING_GROUPS or tag in _NEVER_LEFT:
        return "remove"
    if tag in _NEVER_EMPTY:
        return "replace"
    if tag in _profile():
        return _profile()[tag]
    if any(part in dictionary_keyword(tag) for part in _KINDS):
        return "keep"
    return _ACTION_OF_VR.get(dictionary_VR(tag), "keep")


@cache
def _profile() -> dict[int, _Action]:
    """Action by tag; rows for groups of tags are not in it but in `_action`."""
    path = Path(__file__).with_name("confidentiality_profile.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            int(row["tag"], 16): _ACTION_OF_CODE[row["action"]]
            for row in rows
            if re.fullmatch("[0-9A-F]{8}", row["tag"])
        }


def _readable(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """The element, or None if its value cannot be parsed or is not of the kind it should be."""
    try:
        element = dataset[tag]
    except Exception:  # pydicom raises whatever its parser stumbles over
        return None
    if element.VR in ("DS", "IS") and _holds_text(element):
        return None
    expected = set(dictionary_VR(tag).split(" or "))
    found = set(element.VR.split(" or "))
    return element if found <= expected or not _TELLING_VRS & (found | expected) else None


def _holds_text(element: DataElement) -> bool:
    """Whether a decimal or integer string is none; pydicom then keeps the text."""
    values = element.value if element.VM > 1 else [element.value]
    return any(isinstance(value, str) and value for value in values)


def _mapped(element: DataElement, uids: UidMap) -> DataElement | None:
    if element.VR != "UI":
        return None
    values: Iterable[str] = element.value if element.VM > 1 else [element.value or ""]
    return DataElement(element.tag, "UI", [uids.map(value) for value in values])


def _replaced(dataset: Dataset, tag: BaseTag, uids: UidMap) -> DataElement | None:
    """A dummy of the attribute's VR; a sequence keeps its items, with dummies in them."""
    vr = dictionary_VR(tag).split(" or ")[0]
    if vr not in ("SQ", "UI"):
        return DataElement(tag, vr, _DUMMY_OF_VR.get(vr, _DUMMY_WORD))
    element = _readable(dataset, tag)
    if element is None:
        return None
    if vr == "UI":
        return _mapped(element, uids)
    return DataElement(tag, vr, [_dummies(item, uids) for item in element.value])


def _dummies(item: Dataset, uids: UidMap) -> Dataset:
    result = Dataset()
    for tag in item.keys():  # noqa: SIM118 (as above)
        action = _action(tag)
        keep = action in ("remove", "map") or dictionary_VR(tag) == "UI"
        element = (_cleaned_element if keep else _replaced)(item, tag, uids)
        if element is not None:
            result[tag] = element
    return result


def _pseudonym(dataset: Dataset, uids: UidMap) -> str:
    """From the patient's id, or where there is none the study, so that no two become one."""
    for tag in (_PATIENT_ID, _STUDY_UID):
        element = _readable(dataset, BaseTag(tag))
        if element is not None and element.value:
            return uids.pseudonym(str(element.value))
    return uids.pseudonym("")


def deidentification_codes(dataset: Dataset) -> list[Dataset]:
    """Return what a data set's DeidentificationMethodCodeSequence says, and nothing else.

    Items without a value, scheme or meaning that DICOM allows are left out (PS3.3 8.8). What is
    returned is ASCII, so that it fits every character set.

    Returns:
        New items of CodeValue, CodingSchemeDesignator, CodeMeaning and, where stated,
        CodingSchemeVersion.
    """
    with quiet_pydicom:
        found = _readable(dataset, Tag("DeidentificationMethodCodeSequence"))
        if found is None or found.VR != "SQ":
            return []
        codes = [_code(item) for item in found.value]
    return [code for code in codes if all(keyword in code for keyword in _REQUIRED_OF_CODE)]


def _code(item: Dataset) -> Dataset:
    code = Dataset()
    for keyword, longest in _LONGEST_OF_CODE.items():
        element = _readable(item, Tag(keyword))
        value = element.value if element is not None else None
        text = value.strip() if isinstance(value, str) else ""
        if text and len(text) <= longest and text.isascii() and text.isprintable():
            setattr(code, keyword, text)
    return code


def _say_so(result: Dataset) -> None:
    code = Dataset()
    code.CodeValue = "113100"
    code.CodingSchemeDesignator = "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    others = [c for c in deidentification_codes(result) if c.CodeValue != code.CodeValue]
    result.PatientIdentityRemoved = "YES"
    result.DeidentificationMethod = METHOD
    result.DeidentificationMethodCodeSequence = [*others, code]
    result.LongitudinalTemporalInformationModified = "REMOVED"


def _cleaned_meta(meta: Dataset, result: Dataset, uids: UidMap) -> FileMetaDataset:
    cleaned = FileMetaDataset()
    for keyword in _KEPT_META:
        if keyword in meta:
            setattr(cleaned, keyword, meta[keyword].value)
    instance = result.get("SOPInstanceUID") or uids.map(meta.get("MediaStorageSOPInstanceUID", ""))
    if instance:
        cleaned.MediaStorageSOPInstanceUID = UID(instance)
    return cleaned
