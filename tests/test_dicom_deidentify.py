import copy
import csv
import re
import shutil
import struct
import subprocess
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicom_phantoms import AXIAL, CT, SECRETS, enhanced, paint, save, slices, uid
from pydicom import DataElement, Dataset
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import BYTES_VR

import medp2p.io.dicom_deidentify
from medp2p.errors import ConfigError, ImageReadError
from medp2p.io.dicom_deidentify import METHOD, UidMap, deidentification_codes, deidentify
from medp2p.io.dicom_uids import MAX_ROOT_LENGTH

TABLE = Path(medp2p.io.dicom_deidentify.__file__).with_name("confidentiality_profile.csv")
UIDS = UidMap(b"a secret of this test")
SECRET_UID = "1.9.8765.4321.77"
SECRET = "ZANZIBAR7"
SECRET_OF_VR: dict[str, Any] = {
    "AS": "077Y",
    "DA": "19570703",
    "DS": "76543.125",
    "DT": "19570703112233.445566",
    "FD": 76543.125,
    "FL": 76543.125,
    "IS": "7654321",
    "LT": f"Was seen in {SECRET}",
    "SL": 0x5A414E5A,
    "SS": 0x5A41,
    "TM": "112233.445566",
    "UI": SECRET_UID,
    "UL": 0x5A414E5A,
    "UR": f"http://{SECRET}",
    "US": 0x5A41,
} | dict.fromkeys(BYTES_VR, SECRET.encode() * 8)
NUMBERS = {"FD": "<d", "FL": "<f", "SL": "<i", "UL": "<I"}
ONE_OF_A_GROUP = {"50xxxxxx": 0x50023000, "60xx3000": 0x60043000, "60xx4000": 0x60044000}
DUMMY_FOR_DICOMDIR = {"00080020": "19000101", "00080030": "000000", "00200010": "ANONYMIZED"}
PATIENT_NAME = "00100010"
REFERENCED_STUDY_SEQUENCE = "00081110"

REMOVED, EMPTIED, REPLACED, MAPPED = "removed", "emptied", "replaced", "mapped"
EFFECT = {
    "X": REMOVED,
    "Z": EMPTIED,
    "X/Z": EMPTIED,
    "D": REPLACED,
    "X/D": REPLACED,
    "Z/D": REPLACED,
    "X/Z/D": REPLACED,
    "U": MAPPED,
    "X/Z/U*": MAPPED,
}


def table_rows() -> list[Any]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [pytest.param(r["tag"], r["action"], id=f"{r['tag']} {r['name']}") for r in rows]


def listed_element(name: str) -> DataElement:
    """An element that a row of the table is about, with a value to be found again."""
    if name == "private":
        return DataElement(0x00091001, "LO", SECRET)
    tag = ONE_OF_A_GROUP.get(name) or int(name, 16)
    vr = "LO" if not known(tag) else dictionary_VR(tag).split(" or ")[-1]
    if vr != "SQ":
        return DataElement(tag, vr, SECRET_OF_VR.get(vr, SECRET))
    item = Dataset()
    item.ReferencedSOPClassUID = MRImageStorage
    item.ReferencedSOPInstanceUID = SECRET_UID
    return DataElement(tag, "SQ", [item])


def known(tag: int) -> bool:
    return dictionary_has_tag(tag) or tag in ONE_OF_A_GROUP.values()


def sought_bytes(element: DataElement) -> bytes:
    if element.VR == "SQ":
        return SECRET_UID.encode()
    if element.VR in NUMBERS:
        return struct.pack(NUMBERS[element.VR], element.value)
    if element.VR in ("US", "SS"):
        return struct.pack("<HHH", element.tag.group, element.tag.elem, 0) + b"\x41\x5a"
    return element.value if isinstance(element.value, bytes) else str(element.value).encode()


def saved(dataset: Dataset) -> bytes:
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, dataset)
    return file.getvalue()


def nested(dataset: Dataset, depth: int) -> Dataset:
    for _ in range(depth):
        outer = Dataset()
        outer.DerivationCodeSequence = [dataset]
        dataset = outer
    return dataset


def innermost(dataset: Dataset, depth: int) -> Dataset:
    for _ in range(depth):
        dataset = dataset.DerivationCodeSequence[0]
    return dataset


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize(("name", "code"), table_rows())
def test_every_row_of_the_table(name: str, code: str, depth: int) -> None:
    """The action's effect, and no trace of the value in what is written."""
    element = listed_element(name)
    dataset = Dataset()
    dataset.Manufacturer = "kept"
    dataset[element.tag] = element
    dataset = nested(dataset, depth)
    if element.VR not in ("US", "SS"):
        assert sought_bytes(element) in saved(dataset)
    result = deidentify(dataset, UIDS)
    assert sought_bytes(element) not in saved(result)
    inner = innermost(result, depth)
    assert inner.Manufacturer == "kept"
    effect = EFFECT[code]
    if effect == REMOVED or name == REFERENCED_STUDY_SEQUENCE:
        assert element.tag not in inner
        return
    found = inner[element.tag]
    assert found.VR == element.VR
    if name == PATIENT_NAME:
        assert str(found.value).startswith("ANON-")
    elif name in DUMMY_FOR_DICOMDIR:
        assert found.value == DUMMY_FOR_DICOMDIR[name]
    elif effect == EMPTIED:
        assert found.is_empty
    elif effect == REPLACED:
        assert not found.is_empty
        assert found.value != element.value
    elif element.VR == "SQ":
        assert found.value[0].ReferencedSOPInstanceUID == UIDS.map(SECRET_UID)
        assert found.value[0].ReferencedSOPClassUID == MRImageStorage
    else:
        assert found.value == UIDS.map(SECRET_UID)


def test_the_table_is_whole() -> None:
    """Counts of edition 2024b with the later rows, and a few rows by heart."""
    rows = dict(row.values for row in table_rows())
    assert len(rows) == 656
    assert rows.keys() >= {*ONE_OF_A_GROUP, "private"}
    counts = {"X": 416, "Z": 42, "D": 93, "U": 55, "X/Z": 11, "X/D": 23, "Z/D": 6, "X/Z/D": 8}
    assert Counter(rows.values()) == counts | {"X/Z/U*": 2}
    known_by_heart = {
        "PatientName": "Z",
        "PatientID": "Z/D",
        "PatientBirthDate": "Z",
        "PatientSex": "Z",
        "PatientAge": "X",
        "StudyInstanceUID": "U",
        "FrameOfReferenceUID": "U",
        "AccessionNumber": "Z",
        "ImageComments": "X",
        "SeriesDescription": "X",
        "InstitutionName": "X/Z/D",
        "SourceImageSequence": "X/Z/U*",
    }
    for keyword, code in known_by_heart.items():
        assert rows[f"{tag_for_keyword(keyword):08X}"] == code


def test_a_replaced_sequence_keeps_its_shape_but_no_value() -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = SECRET, SECRET, SECRET
    item = Dataset()
    item.PersonIdentificationCodeSequence = [code]
    item.InstitutionName = SECRET
    item.PersonAddress = SECRET
    item.NumberOfFrames = 7654321
    item.InstanceCreatorUID = SECRET_UID
    dataset = Dataset()
    dataset.OperatorIdentificationSequence = [item, copy.deepcopy(item)]
    result = deidentify(dataset, UIDS)
    first, second = result.OperatorIdentificationSequence
    assert first == second
    assert first.PersonIdentificationCodeSequence[0].CodeMeaning == "ANONYMIZED"
    assert first.InstitutionName == "ANONYMIZED"
    assert "PersonAddress" not in first
    assert first.NumberOfFrames == 0
    assert first.InstanceCreatorUID == UIDS.map(SECRET_UID)
    assert SECRET.encode() not in saved(result)


def test_uids_are_valid_and_the_same_for_the_same_key() -> None:
    originals = [uid("any", n) for n in range(200)] + ["1.2.3", "9" * 64]
    for root in (None, "1.2.826.0.1.3680043", "1." + "9" * 37):
        uids = UidMap(b"key", root)
        mapped = [uids.map(original) for original in originals]
        assert mapped == [UidMap(b"key", root).map(original) for original in originals]
        assert len({*mapped, *originals}) == 2 * len(originals)
        for one in mapped:
            assert re.fullmatch(r"[0-2](\.(0|[1-9]\d*))+", one)
            assert len(one) <= 64
            assert one.startswith((root or "2.25") + ".")


def test_another_key_gives_other_uids_and_pseudonyms() -> None:
    one, other = UidMap(b"one"), UidMap(b"other")
    assert one.map("1.2.3") != other.map("1.2.3")
    assert one.pseudonym("123") != other.pseudonym("123")
    assert one.pseudonym("123") != one.pseudonym("124")
    assert one.pseudonym("123") == one.pseudonym(" 123 ")


def test_the_map_is_what_it_was() -> None:
    """A result made again by a later version must be recognized by its UIDs."""
    assert UidMap(b"key").map("1.2.3") == "2.25.101800061706341152109431072591068824286"
    assert (
        UidMap(b"key", "1.2.826").map("1.2.3")
        == "1.2.826.38594909131781829072264374968323647907137821592338754146"
    )
    assert UidMap(b"key").pseudonym("123") == "ANON-6A4BCA5F2BA7BF51"


@pytest.mark.parametrize(
    "registered",
    [
        MRImageStorage,
        ExplicitVRLittleEndian,
        "1.2.840.10008.1.4.1.1",  # Talairach, a well-known frame of reference (PS3.6 A-2)
        "1.2.840.10008.5.1.1.17",  # a well-known instance
    ],
)
def test_registered_uids_stay(registered: str) -> None:
    assert UIDS.map(registered) == registered


def test_made_up_uids_below_dicoms_root_do_not_stay() -> None:
    invented = "1.2.840.10008.5.1.4.1.1.4.7741903.19370214"
    assert UIDS.map(invented) != invented


def test_empty_and_padded_uids() -> None:
    assert UIDS.map("") == ""
    assert UIDS.map("1.2.3\0") == UIDS.map("1.2.3 ") == UIDS.map("1.2.3")


@pytest.mark.parametrize(
    "root", ["", "1", ".1.2", "1..2", "1.02", "3.1", "1.a", "1.2٣", "1." * 40, "1.2.840.10008"]
)
def test_bad_roots(root: str) -> None:
    with pytest.raises(ConfigError, match="root"):
        UidMap(b"key", root)


def test_a_root_that_leaves_no_room() -> None:
    longest = "1." + "9" * (MAX_ROOT_LENGTH - 2)
    assert len(UidMap(b"key", longest).map("1.2.3")) <= 64
    with pytest.raises(ConfigError, match=f"at most {MAX_ROOT_LENGTH}"):
        UidMap(b"key", f"{longest}9")


def test_roots_that_are_the_same() -> None:
    assert UidMap(b"key", "1.2.826.").map("1.2.3") == UidMap(b"key", "1.2.826").map("1.2.3")
    assert UidMap(b"key", "2.25").map("1.2.3") == UidMap(b"key").map("1.2.3")


def test_an_empty_key() -> None:
    with pytest.raises(ValueError, match="key is empty"):
        UidMap(b"")


def test_the_key_is_not_printed() -> None:
    assert "hidden" not in repr(UidMap(b"hidden"))


def reference(instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = MRImageStorage
    item.ReferencedSOPInstanceUID = instance
    return item


def test_references_meet_what_they_refer_to() -> None:
    """Across data sets, inside SourceImageSequence and ReferencedSeriesSequence."""
    source, derived = slices(AXIAL)[0], slices(AXIAL, "derived")[0]
    derived.SourceImageSequence = [reference(source.SOPInstanceUID)]
    series = Dataset()
    series.SeriesInstanceUID = source.SeriesInstanceUID
    series.ReferencedInstanceSequence = [reference(source.SOPInstanceUID)]
    derived.ReferencedSeriesSequence = [series]
    derived.FailedSOPInstanceUIDList = [source.SOPInstanceUID, derived.SOPInstanceUID]
    source, derived = deidentify(source, UIDS), deidentify(derived, UIDS)
    assert derived.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    referred = derived.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID
    instance = referred.ReferencedInstanceSequence[0]
    assert instance.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert instance.ReferencedSOPClassUID == MRImageStorage
    assert list(derived.FailedSOPInstanceUIDList) == [source.SOPInstanceUID, derived.SOPInstanceUID]
    assert source.FrameOfReferenceUID == derived.FrameOfReferenceUID
    assert source.StudyInstanceUID == derived.StudyInstanceUID
    assert source.SeriesInstanceUID != derived.SeriesInstanceUID
    assert source.StudyInstanceUID != uid("study")


def test_uids_that_the_table_does_not_list() -> None:
    dataset = Dataset()
    dataset.VolumeFrameOfReferenceUID = SECRET_UID
    dataset.OriginalSpecializedSOPClassUID = "1.3.46.670589.11.0.0.12.1"
    dataset.ContextUID = "1.2.840.10008.6.1.99999"
    result = deidentify(dataset, UIDS)
    assert result.VolumeFrameOfReferenceUID == UIDS.map(SECRET_UID)
    assert result.OriginalSpecializedSOPClassUID == dataset.OriginalSpecializedSOPClassUID
    assert result.ContextUID == dataset.ContextUID


def test_names_dates_and_addresses_that_the_table_does_not_list() -> None:
    dataset = Dataset()
    dataset.EvaluatorName = SECRET
    dataset.SecondaryReviewDate = "19570703"
    dataset.SecondaryReviewTime = "112233"
    dataset.StudyUpdateDateTime = "19570703112233"
    dataset.RetrieveURL = f"https://{SECRET}"
    result = deidentify(dataset, UIDS)
    for keyword in dataset.dir():
        assert result[keyword].is_empty


def test_file_meta_agrees_with_the_data_set(tmp_path: Path) -> None:
    dataset = slices(AXIAL)[0]
    save(paint([dataset], 0)[0], tmp_path / "a.dcm")
    content = bytearray((tmp_path / "a.dcm").read_bytes())
    content[:9] = SECRET.encode()
    (tmp_path / "a.dcm").write_bytes(content)
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.SourceApplicationEntityTitle = SECRET
    dataset.file_meta.ImplementationVersionName = SECRET
    dataset.file_meta.PrivateInformationCreatorUID = SECRET_UID
    dataset.file_meta.PrivateInformation = SECRET.encode()
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    result = deidentify(dataset, UIDS)
    assert result.file_meta.MediaStorageSOPInstanceUID == result.SOPInstanceUID
    result.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    read = pydicom.dcmread(tmp_path / "b.dcm")
    assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID
    assert read.SOPInstanceUID == UIDS.map(dataset.SOPInstanceUID)
    assert read.file_meta.MediaStorageSOPClassUID == read.SOPClassUID == MRImageStorage
    assert read.PixelData == dataset.PixelData
    assert SECRET.encode() not in (tmp_path / "b.dcm").read_bytes()
    assert SECRET_UID.encode() not in (tmp_path / "b.dcm").read_bytes()


def test_private_attributes_go_at_every_depth() -> None:
    def with_private(inner: Dataset | None) -> Dataset:
        made = Dataset()
        made.Manufacturer = "kept"
        block = made.private_block(0x0029, f"{SECRET} CREATOR", create=True)
        block.add_new(0x10, "LO", SECRET)
        block.add_new(0x11, "SQ", [reference(SECRET_UID)])
        if inner is not None:
            made.SourceImageSequence = [inner]
        return made

    result = deidentify(with_private(with_private(with_private(None))), UIDS)
    assert SECRET.encode() not in saved(result)
    assert SECRET_UID.encode() not in saved(result)
    assert result.SourceImageSequence[0].SourceImageSequence[0].Manufacturer == "kept"


def test_what_nobody_can_check_goes() -> None:
    """Unknown tags, bytes where text is due, text where a sequence is, encrypted attributes."""
    encrypted = Dataset()
    encrypted.EncryptedContent = SECRET.encode()
    elements = [
        DataElement(0x00180001, "LO", SECRET),
        DataElement(0x00080000, "UL", 1234),
        DataElement(tag_for_keyword("Manufacturer"), "OB", SECRET.encode()),
        DataElement(tag_for_keyword("ManufacturerModelName"), "PN", SECRET),
        DataElement(tag_for_keyword("DerivationCodeSequence"), "LO", SECRET),
        DataElement(tag_for_keyword("SoftwareVersions"), "SQ", [reference(SECRET_UID)]),
        DataElement(tag_for_keyword("SeriesInstanceUID"), "OB", SECRET.encode()),
        DataElement(tag_for_keyword("SourceImageSequence"), "OB", SECRET.encode()),
        DataElement(tag_for_keyword("EncryptedAttributesSequence"), "SQ", [encrypted]),
    ]
    dataset = Dataset()
    for element in elements:
        dataset[element.tag] = element
    result = deidentify(dataset, UIDS)
    assert not {element.tag for element in elements} & set(result.keys())


def test_values_that_cannot_be_parsed_go() -> None:
    dataset = Dataset()
    for keyword, vr in (("EchoTime", "DS"), ("InstanceNumber", "IS"), ("Rows", "US")):
        tag = Tag(keyword)
        dataset._dict[tag] = pydicom.dataelem.RawDataElement(
            tag, vr, 9, SECRET.encode(), 0, False, True, is_raw=True
        )
    result = deidentify(dataset, UIDS)
    assert not {"EchoTime", "InstanceNumber", "Rows"} & set(result.dir())


def test_sequences_nested_without_end() -> None:
    with pytest.raises(ImageReadError, match="nests sequences too deeply"):
        deidentify(nested(Dataset(), 2000), UIDS)


def test_patients_stay_apart() -> None:
    def of(patient_id: str, name: str, study: str) -> Dataset:
        dataset = Dataset()
        dataset.PatientID, dataset.PatientName, dataset.StudyInstanceUID = patient_id, name, study
        return deidentify(dataset, UIDS)

    first, again = of("77", "Doe^A", "1.2"), of("77 ", "DOE^A", "1.3")
    assert first.PatientID == again.PatientID == UIDS.pseudonym("77")
    assert first.PatientName == f"{first.PatientID}^"
    assert of("78", "Doe^A", "1.2").PatientID != first.PatientID
    nameless, another = of("", "", "1.2"), of("", "", "1.3")
    assert nameless.PatientID != another.PatientID
    assert nameless.PatientID == of("", "", "1.2").PatientID


def test_what_it_says_of_itself() -> None:
    earlier = Dataset()
    earlier.CodeValue, earlier.CodingSchemeDesignator = "113105", "DCM"
    earlier.CodeMeaning = "Clean Descriptors Option"
    dataset = Dataset()
    dataset.PatientIdentityRemoved = "NO"
    dataset.DeidentificationMethod = [SECRET, SECRET]
    dataset.LongitudinalTemporalInformationModified = "UNMODIFIED"
    dataset.DeidentificationMethodCodeSequence = [earlier]
    once = deidentify(dataset, UIDS)
    for result in (once, deidentify(once, UIDS)):
        assert result.PatientIdentityRemoved == "YES"
        assert result.DeidentificationMethod == METHOD
        assert result.LongitudinalTemporalInformationModified == "REMOVED"
        codes = [item.CodeValue for item in result.DeidentificationMethodCodeSequence]
        assert codes == ["113105", "113100"]
    code = once.DeidentificationMethodCodeSequence[1]
    assert code.CodingSchemeDesignator == "DCM"
    assert code.CodeMeaning == "Basic Application Confidentiality Profile"
    assert len(METHOD) <= 64


def coded(**values: Any) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113105", "DCM"
    code.CodeMeaning = "Clean Descriptors Option"
    for keyword, value in values.items():
        element = DataElement(keyword, dictionary_VR(keyword), None)
        element._value = value  # as read: pydicom checks nothing
        code.add(element)
    return code


def test_codes_of_an_earlier_deidentification_hold_nothing_else() -> None:
    block = coded(CodingSchemeVersion="01", PatientName=SECRET, ContextUID="1.2.840.10008.6.1.1")
    block.private_block(0x0029, SECRET, create=True).add_new(0x10, "LO", SECRET)
    block.SourceImageSequence = [reference(SECRET_UID)]
    dataset = Dataset()
    dataset.DeidentificationMethodCodeSequence = [block, coded()]
    before = copy.deepcopy(dataset)
    expected = [coded(CodingSchemeVersion="01"), coded()]
    assert deidentification_codes(dataset) == expected
    assert dataset == before
    found = deidentify(dataset, UIDS).DeidentificationMethodCodeSequence
    assert found[:2] == expected
    assert [code.CodeValue for code in found] == ["113105", "113105", "113100"]


@pytest.mark.parametrize(
    "values",
    [
        {"CodeValue": ""},
        {"CodeValue": "1" * 17},
        {"CodeValue": ["113105", "113106"]},
        {"CodingSchemeDesignator": None},
        {"CodingSchemeDesignator": "D" * 17},
        {"CodeMeaning": " "},
        {"CodeMeaning": "m" * 65},
        {"CodeMeaning": "Größe"},
        {"CodeMeaning": "two\nlines"},
        {"CodeMeaning": 7},
    ],
)
def test_codes_that_are_none_are_left_out(values: dict[str, Any]) -> None:
    dataset = Dataset()
    dataset.DeidentificationMethodCodeSequence = [coded(**values), coded(), Dataset()]
    assert deidentification_codes(dataset) == [coded()]


def test_a_version_of_a_code_that_is_none_is_left_out() -> None:
    dataset = Dataset()
    dataset.DeidentificationMethodCodeSequence = [coded(CodingSchemeVersion="1" * 17)]
    assert deidentification_codes(dataset) == [coded()]


@pytest.mark.parametrize("vr", ["LO", "OB"])
def test_no_sequence_of_codes(vr: str) -> None:
    dataset = Dataset()
    assert deidentification_codes(dataset) == []
    tag = tag_for_keyword("DeidentificationMethodCodeSequence")
    assert tag is not None
    dataset[tag] = DataElement(tag, vr, SECRET if vr == "LO" else SECRET.encode())
    assert deidentification_codes(dataset) == []


def rich(dataset: Dataset) -> Dataset:
    """Add what real images say of a patient in many places."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientComments = "Allergic to marzipan (Zoë)"
    dataset.OtherPatientNames = ["Zephyrine^Née", "Quisenberry"]
    dataset.OperatorsName = "Popplewell^Operator"
    dataset.InstitutionAddress = "1 Eulalia Road"
    dataset.DeviceSerialNumber = "MARGRAVE7"
    dataset.AcquisitionDateTime = "20190823101733"
    dataset.ImageComments = "Quisenberry again"
    dataset.DerivationDescription = "Whimsical derivation"
    dataset.ReferencedStudySequence = [reference(uid("study"))]
    dataset.SourceImageSequence = [reference(uid("source"))]
    dataset.SourceImageSequence[0].PatientID = "ZQ-7741903"
    request = Dataset()
    request.RequestedProcedureDescription = "Whimsical request"
    request.StudyInstanceUID = uid("study")
    dataset.RequestAttributesSequence = [request]
    agent = Dataset()
    agent.CodeValue, agent.CodingSchemeDesignator, agent.CodeMeaning = "1", "99", "Agent"
    agent.ContextUID = "1.2.840.10008.6.1.1"
    dataset.DerivationCodeSequence = [agent]
    block = dataset.private_block(0x0029, "MARZIPAN", create=True)
    block.add_new(0x10, "OB", b"Quisenberry^Zephyrine ")
    overlay = {0x0010: ("US", 20), 0x0011: ("US", 32), 0x0040: ("CS", "G"), 0x0050: ("SS", [1, 1])}
    overlay |= {0x0100: ("US", 1), 0x0102: ("US", 0), 0x3000: ("OW", b"quisenberry." * 7)}
    overlay |= {0x4000: ("LT", "Quisenberry")}
    for number, (vr, value) in overlay.items():
        dataset.add_new((0x6000, number), vr, value)
    return dataset


def image(kind: str) -> Dataset:
    scan = CT if "ct" in kind else AXIAL
    datasets = paint(slices(scan), 0)
    return enhanced(datasets) if "enhanced" in kind else datasets[0]


KINDS = ["mr", "ct", "enhanced mr", "enhanced ct"]


def found_secrets(content: bytes) -> set[str]:
    return {secret for secret in SECRETS if secret.encode() in content.lower()}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_original_survives_in_a_rich_image(tmp_path: Path, kind: str) -> None:
    dataset = rich(image(kind))
    if "enhanced" in kind:
        content = dataset.PerFrameFunctionalGroupsSequence[0].FrameContentSequence[0]
        content.FrameComments = "Quisenberry"
        content.FrameAcquisitionDateTime = "20190823101733"
    save(dataset, tmp_path / "a.dcm")
    assert found_secrets((tmp_path / "a.dcm").read_bytes()) == set(SECRETS)
    result = deidentify(pydicom.dcmread(tmp_path / "a.dcm"), UidMap(b"key", "1.2.826"))
    result.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    assert not found_secrets((tmp_path / "b.dcm").read_bytes())
    read = pydicom.dcmread(tmp_path / "b.dcm")
    assert read.PixelData == dataset.PixelData
    for keyword in ("Manufacturer", "Modality", "ImageType", "PatientPosition", "SeriesNumber"):
        assert read[keyword].value == dataset[keyword].value
    assert not [tag for tag in read.keys() if tag.group & 0xFF00 == 0x6000]  # noqa: SIM118


@pytest.mark.parametrize("kind", KINDS)
def test_geometry_survives(kind: str) -> None:
    dataset = rich(image(kind))
    result = deidentify(dataset, UIDS)
    if "enhanced" not in kind:
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            assert result[keyword].value == dataset[keyword].value
        return
    for frame, original in zip(
        result.PerFrameFunctionalGroupsSequence,
        dataset.PerFrameFunctionalGroupsSequence,
        strict=True,
    ):
        assert frame.PlanePositionSequence == original.PlanePositionSequence
    shared = result.SharedFunctionalGroupsSequence[0]
    assert shared == dataset.SharedFunctionalGroupsSequence[0]


def test_the_original_stays_as_it_is(tmp_path: Path) -> None:
    dataset = rich(image("enhanced mr"))
    save(dataset, tmp_path / "a.dcm")
    before = copy.deepcopy(dataset)
    result = deidentify(dataset, UIDS)
    for element in result.iterall():
        if element.VM > 1 and element.VR != "SQ":
            element.value[0] = element.value[1]
    result.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [9, 9]
    result.file_meta.TransferSyntaxUID = "1.2"
    assert dataset == before
    assert dataset.file_meta == before.file_meta


def test_names_in_other_alphabets(tmp_path: Path) -> None:
    """The character set stays, and what is kept is still written in it."""
    dataset = image("mr")
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    dataset.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    dataset.Manufacturer = "東京"
    save(dataset, tmp_path / "a.dcm")
    result = deidentify(pydicom.dcmread(tmp_path / "a.dcm"), UIDS)
    result.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    content = (tmp_path / "b.dcm").read_bytes()
    assert "山田".encode("iso2022_jp") in (tmp_path / "a.dcm").read_bytes()
    assert "山田".encode("iso2022_jp") not in content
    assert b"Yamada" not in content
    assert pydicom.dcmread(tmp_path / "b.dcm").Manufacturer == "東京"


def test_bad_values_are_not_quoted_in_warnings(caplog: pytest.LogCaptureFixture) -> None:
    """pydicom's warnings about values would show them."""
    path = get_testdata_file("badVR.dcm", download=False)
    assert path is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
    dataset.add(DataElement("InstanceNumber", "IS", "1"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        deidentify(dataset, UIDS)
    assert not caught
    assert not caplog.records


def test_several_threads(tmp_path: Path) -> None:
    dataset = rich(image("enhanced mr"))
    expected = saved(deidentify(dataset, UIDS))
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(saved(deidentify(dataset, UIDS))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


DCIODVFY = shutil.which("dciodvfy")


def complaints(path: Path) -> set[str]:
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    return {line for line in done.stderr.splitlines() if line.startswith(("Error", "Warning"))}


def valid_image(kind: str) -> Dataset:
    """A classic phantom that dciodvfy says nothing of."""
    dataset = image(kind)
    if kind == "mr":
        dataset.ScanOptions = ""
        dataset.EchoTrainLength = "1"
        dataset.SequenceVariant = "SK"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        del dataset.RescaleSlope, dataset.RescaleIntercept
    return dataset


def check_no_new_complaint(folder: Path, dataset: Dataset) -> None:
    save(dataset, folder / "a.dcm")
    result = deidentify(pydicom.dcmread(folder / "a.dcm"), UIDS)
    result.save_as(folder / "b.dcm", enforce_file_format=True)
    assert complaints(folder / "b.dcm") <= complaints(folder / "a.dcm")


@pytest.mark.external
@pytest.mark.skipif(not DCIODVFY, reason="needs dciodvfy (dicom3tools)")
@pytest.mark.parametrize("kind", ["mr", "ct"])
def test_a_valid_image_stays_valid(tmp_path: Path, kind: str) -> None:
    save(valid_image(kind), tmp_path / "a.dcm")
    assert complaints(tmp_path / "a.dcm") == set()
    result = deidentify(pydicom.dcmread(tmp_path / "a.dcm"), UIDS)
    result.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    assert complaints(tmp_path / "b.dcm") == set()


@pytest.mark.external
@pytest.mark.skipif(not DCIODVFY, reason="needs dciodvfy (dicom3tools)")
def test_foreign_elements_in_a_code_are_no_complaint(tmp_path: Path) -> None:
    dataset = valid_image("mr")
    dataset.DeidentificationMethodCodeSequence = [coded(PatientSex="O", Manufacturer="kept")]
    save(dataset, tmp_path / "a.dcm")
    result = deidentify(pydicom.dcmread(tmp_path / "a.dcm"), UIDS)
    result.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    assert complaints(tmp_path / "b.dcm") == set()


@pytest.mark.external
@pytest.mark.skipif(not DCIODVFY, reason="needs dciodvfy (dicom3tools)")
@pytest.mark.parametrize("kind", KINDS)
def test_no_new_complaint_of_a_rich_image(tmp_path: Path, kind: str) -> None:
    check_no_new_complaint(tmp_path, rich(image(kind)))


@pytest.mark.external
@pytest.mark.skipif(not DCIODVFY, reason="needs dciodvfy (dicom3tools)")
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "examples_overlay.dcm"])
def test_no_new_complaint_of_a_real_image(tmp_path: Path, name: str) -> None:
    path = get_testdata_file(name, download=False)
    assert path is not None
    check_no_new_complaint(tmp_path, pydicom.dcmread(path))
