"""What the header of a synthetic CT or MR image says.

Patient, study and frame of reference come from the source by an allow-list, as the bytes that
were read; everything else is written new. Nothing is invented: what the source lacks is empty.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import quote

from pydicom import Dataset
from pydicom.charset import decode_bytes, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag, Tag
from pydicom.uid import CTImageStorage, MRImageStorage

from medp2p.dicom_source import DicomSource, SourceImage
from medp2p.errors import ConfigError, OutputError
from medp2p.io.dicom_deidentify import deidentification_codes
from medp2p.io.dicom_files import quiet_pydicom
from medp2p.io.dicom_uids import check_uid_root

NOTICE = "SYNTHETIC - NOT FOR DIAGNOSTIC USE"

MAX_TEXT = 64
"""Characters of a name, an id or a description (LO, and each group of PN; PS3.5 6.2)."""

_REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientPosition",
    "PositionReferenceIndicator",
)
"""Taken from the source, empty where it has none (type 2; PS3.3 C.7.1.1, C.7.2.1, C.7.3.1,
C.7.4.1)."""

_OPTIONAL = (
    "IssuerOfPatientID",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDescription",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "LongitudinalTemporalInformationModified",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
"""Taken from the source where it has them. What was ever compressed with a loss stays marked as
such in all that is derived from it (PS3.3 C.7.6.1.1.5)."""

SHARED_UIDS = ("StudyInstanceUID", "FrameOfReferenceUID")
"""What puts a result beside its source."""

_DUMMIES = {
    "PatientName": "SYNTHETIC^IMAGE",
    "StudyDate": "19000101",
    "StudyTime": "000000",
    "StudyID": "SYNTHETIC",
}
"""Where there is no source; a DICOMDIR cannot be made without a study's date, time and id."""

_UNPAIRED = """
    ABDOMEN ABDOMENPELVIS AORTA BACK BLADDER BRAIN CEREBELLUM CERVIX CHEST CHESTABDOMEN
    CHESTABDPELVIS CIRCLEOFWILLIS COCCYX COLON CORONARYARTERY CSPINE CTSPINE DUODENUM ESOPHAGUS
    FACE GALLBLADDER HEAD HEADNECK HEART ILEUM ILIUM JAW JEJUNUM LARYNX LIVER LSPINE LSSPINE
    MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE PANCREAS
    PELVIS PENIS PHARYNX PROSTATE RECTUM SCALP SKULL SPINE SPLEEN SSPINE STERNUM STOMACH THYMUS
    THYROID TLSPINE TONGUE TRACHEA TSPINE URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY
"""
_WITHOUT_SIDE = frozenset(_UNPAIRED.split())
"""Body parts, by their terms in PS3.16 annex L, that no Laterality goes with."""

_CHINESE_ESCAPE = "\x1b$)A"  # ISO 2022 IR 58 (PS3.3 C.12.1.1.2)
_TEXT_VRS = ("LO", "SH", "PN")
_LONGEST_VALUE = 1024
_NUMBER = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?"
_VALID = {
    "AS": r"\d{3}[DWMY]",
    "CS": r"[A-Z0-9_ ]{1,16}(\\[A-Z0-9_ ]{1,16})*",
    "DA": r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])",
    "DS": rf"(?=.{{1,16}}(\\|$)){_NUMBER}(\\{_NUMBER})*",
    "TM": r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?",
    "UI": r"[0-9.]{1,64}",
}
_ALLOWED = {
    "PatientSex": ("M", "F", "O"),
    "Laterality": ("R", "L"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "LongitudinalTemporalInformationModified": ("UNMODIFIED", "MODIFIED", "REMOVED"),
    "LossyImageCompression": ("00", "01"),
}
_BODY_PART = r"[A-Z0-9_ ]{1,16}"
_POSITION = r"[HF]F(S|P|DR|DL)|[LR]F[PS]|[AP]FD[RL]"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DicomOutput:
    """What a written series says beside its voxels.

    Attributes:
        model_name: File name of the model.
        model_hash: The model's hash as `medp2p info` prints it, 64 hexadecimal digits.
        settings: What else decides the voxels, such as the mask; goes into the UIDs of a seed.
        series_description: Name of the series; None says that it is synthetic.
        series_number: Its number in the study, below 2^31; None is 1000 more than the source's.
        uid_root: Root of new UIDs; None is 2.25.
        seed: UIDs follow from this text, the source's images, the model and the grid instead of
            from the whole result, so that a re-run is recognized. Needs a DICOM source.
        patient_id: PatientID, only without a DICOM source; None is an obvious dummy.
        patient_name: PatientName, only without a DICOM source; None is an obvious dummy.
        body_part: BodyPartExamined, only where a DICOM source does not state it.
        deidentify_key: Secret for `medp2p.io.dicom_deidentify`; None keeps the patient.
        allow_burned_in: Accept a source whose pixels hold text (BurnedInAnnotation YES).
    """

    model_name: str | None = None
    model_hash: str | None = None
    settings: str = ""
    series_description: str | None = None
    series_number: int | None = None
    uid_root: str | None = None
    seed: str | None = None
    patient_id: str | None = None
    patient_name: str | None = None
    body_part: str | None = None
    deidentify_key: bytes | None = None
    allow_burned_in: bool = False


def check_output(
    options: DicomOutput, source: DicomSource | None, name: str = "the DICOM source"
) -> None:
    """Refuse options that cannot be written, or that contradict the source.

    Args:
        options: The user's labels.
        source: What is to be translated.
        name: What to call the source in messages.

    Raises:
        ConfigError: Naming the option.
        OutputError: If the source's pixels hold text, which translation may carry over.
    """
    for option in ("series_description", "patient_id", "patient_name"):
        _check_text(option, getattr(options, option))
    if options.uid_root is not None:
        check_uid_root(options.uid_root)
    if options.body_part is not None and not re.fullmatch(_BODY_PART, options.body_part):
        raise ConfigError(
            "the body part is not of 1 to 16 capital letters, digits and underscores; "
            "name it like HEAD or PELVIS"
        )
    if options.series_number is not None and not 0 <= options.series_number < 2**31:
        raise ConfigError(f"series number {options.series_number}, expected 0 to {2**31 - 1}")
    if options.model_hash is not None and not re.fullmatch(r"[0-9a-f]{64}", options.model_hash):
        raise ConfigError("the model's hash is not of 64 hexadecimal digits")
    if source is None:
        if options.seed is not None:
            raise ConfigError(
                "a seed makes UIDs from a DICOM source, and this source is none; leave it out, "
                "the same result always gets the same UIDs"
            )
        return
    if options.patient_id is not None or options.patient_name is not None:
        raise ConfigError(f"{name}: says who the patient is; leave out the patient's id and name")
    if options.body_part is not None and _body_part(source.header):
        raise ConfigError(f"{name}: states the body part; leave the option out")
    if stated(source.header, "BurnedInAnnotation") == "YES" and not options.allow_burned_in:
        raise OutputError(
            f"{name}: has text burned into its pixels (BurnedInAnnotation YES), which may name "
            "the patient; take images without it, or pass --allow-burned-in"
        )


def kept_from_source(header: Dataset, name: str) -> Dataset:
    """Return what a derived image keeps of its source: patient, study, frame of reference.

    Texts are kept as they are, with the character set they were read with. Dates, numbers and
    codes that the standard does not allow become empty, with a warning.

    Args:
        header: The source's.
        name: What to call the result in the warning.

    Returns:
        A data set whose elements are raw bytes, without UIDs that the source lacks.
    """
    kept = Dataset()
    _warn_of_invalid(header, name)
    for keyword in (*_REQUIRED, *_OPTIONAL):
        value = _valid_bytes(header, keyword)
        if value or keyword in _REQUIRED:
            _put_raw(kept, keyword, value)
    for keyword in SHARED_UIDS:
        if stated(header, keyword):
            _put_raw(kept, keyword, _raw_bytes(header, keyword))
    charset = _raw_bytes(header, "SpecificCharacterSet")
    if _is_charset(charset) or not all(_is_ascii(element) for element in kept.elements()):
        _put_raw(kept, "SpecificCharacterSet", charset)
    codes = deidentification_codes(header)
    if codes:
        kept.DeidentificationMethodCodeSequence = codes
    if stated(kept, "PatientIdentityRemoved") == "YES" and not _says_method(kept):
        kept.DeidentificationMethod = "not stated by the source"
    if stated(header, "BurnedInAnnotation") == "YES":
        kept.BurnedInAnnotation = "YES"
    return kept


def made_up_patient(options: DicomOutput) -> Dataset:
    """Return what stands for patient and study where the source is no DICOM series."""
    made = Dataset()
    for keyword in _REQUIRED:
        setattr(made, keyword, _DUMMIES.get(keyword))
    if options.patient_name:
        made.PatientName = options.patient_name
    if options.patient_id:
        made.PatientID = options.patient_id
    return made


def add_labels(
    image: Dataset, modality: str, options: DicomOutput, source: DicomSource | None
) -> None:
    """Add what all slices say of themselves: that they are synthetic, and what made them.

    Args:
        image: From `kept_from_source` or `made_up_patient`.
        modality: ``"CT"`` or ``"MR"``.
        options: The user's labels.
        source: What was translated.
    """
    image.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    image.Modality = modality
    image.SyntheticData = "YES"
    image.ImageComments = NOTICE
    image.SeriesDescription = options.series_description or f"SYNTHETIC {modality}"
    image.SeriesNumber = _series_number(options, source)
    _add_body_part(image, options, source)
    if "BurnedInAnnotation" not in image:
        image.BurnedInAnnotation = "NO"
    image.DerivationDescription = _derivation(modality, options)
    _add_equipment(image, options)
    image.ContributingEquipmentSequence = _contributors(options, source)
    if modality == "CT":
        image.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        image.AcquisitionNumber = None
        image.KVP = None
        image.RescaleSlope = "1"
        image.RescaleIntercept = "0"
        image.RescaleType = "HU"
        return
    image.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    image.ScanningSequence = "RM"
    image.SequenceVariant = "NONE"
    for keyword in (
        "ScanOptions",
        "MRAcquisitionType",
        "RepetitionTime",
        "EchoTime",
        "EchoTrainLength",
    ):
        setattr(image, keyword, None)


def add_source_series(image: Dataset, source: DicomSource) -> None:
    """Name the sources' images by series (PS3.3 C.12.2), where their UIDs can be used."""
    named = []
    for each in (source, *source.others):
        series_uid = stated(each.header, "SeriesInstanceUID")
        references = [_reference(images[0]) for images in _by_instance(each.images)]
        if series_uid and references:
            series = Dataset()
            series.SeriesInstanceUID = series_uid
            series.ReferencedInstanceSequence = references
            named.append(series)
    if named:
        image.ReferencedSeriesSequence = named


def source_sequence(images: Iterable[SourceImage], preserved: bool) -> list[Dataset]:
    """Make a SourceImageSequence (PS3.3 C.7.6.1.1.4).

    Args:
        images: What a slice was made from.
        preserved: Whether every pixel lies where the source's lies.
    """
    items = []
    for frames in _by_instance(images):
        item = _reference(frames[0])
        numbers = [image.frame for image in frames if image.frame is not None]
        if numbers:
            item.ReferencedFrameNumber = numbers
        item.SpatialLocationsPreserved = "YES" if preserved else "NO"
        item.PurposeOfReferenceCodeSequence = [
            _code("121322", "Source image for image processing operation")
        ]
        items.append(item)
    return items


def widen_character_set(image: Dataset) -> None:
    """Turn a data set into UTF-8, so that it can hold any text (PS3.5 6.1.2.3).

    Raises:
        OutputError: If texts of the source are not in the character set that it states.
    """
    terms = _terms(_raw_bytes(image, "SpecificCharacterSet"))
    if terms == ["ISO_IR 192"]:
        return
    encodings = [python_encoding.get(term, "") for term in terms]
    encodings = ["ascii" if name == "iso8859" else name for name in encodings]
    for element in [*image.elements()]:
        if isinstance(element, RawDataElement) and element.VR in _TEXT_VRS:
            text = _decoded(element.value or b"", encodings)
            image[element.tag] = _raw_element(element.tag, element.VR, text.encode())
    image.SpecificCharacterSet = "ISO_IR 192"


def encoded(image: Dataset) -> dict[BaseTag, bytes]:
    """Encode each element of a data set by itself, explicit VR little endian, by rising tag.

    What is no raw bytes is ASCII, unless `widen_character_set` made the data set UTF-8.
    """
    return {tag: _encoded_element(image.get_item(tag), ["utf8"]) for tag in sorted(image.keys())}


def stated(header: Dataset, keyword: str) -> str:
    """Return a code or UID of a header where it is well formed, else an empty text."""
    return _valid_bytes(header, keyword).strip(b" \0").decode("latin-1").upper()


def _series_number(options: DicomOutput, source: DicomSource | None) -> int:
    if options.series_number is not None:
        return options.series_number
    number = _raw_bytes(source.header, "SeriesNumber").strip(b" \0") if source else b""
    return 1000 + (int(number) if re.fullmatch(rb"\d{1,8}", number) else 0)


def _derivation(modality: str, options: DicomOutput) -> str:
    name = f" with model {quote(options.model_name, safe=' ')[:300]}" if options.model_name else ""
    digest = f" (model hash {options.model_hash})" if options.model_hash else ""
    return f"Synthetic {modality} computed by medp2p {version('medp2p')}{name}{digest}. {NOTICE}"


def _add_equipment(item: Dataset, options: DicomOutput) -> None:
    item.Manufacturer = "medp2p"
    item.ManufacturerModelName = "medp2p"
    own_version = f"medp2p {version('medp2p')}"
    item.SoftwareVersions = [options.model_hash, own_version] if options.model_hash else own_version


def _contributors(options: DicomOutput, source: DicomSource | None) -> list[Dataset]:
    """The software, and the scanner of the source where it is named (PS3.3 C.12.1.1.5)."""
    software = Dataset()
    _add_equipment(software, options)
    software.PurposeOfReferenceCodeSequence = [_code("109102", "Processing Equipment")]
    maker = _ascii_text(source.header, "Manufacturer") if source else ""
    if not source or not maker:
        return [software]
    scanner = Dataset()
    scanner.Manufacturer = maker
    model = _ascii_text(source.header, "ManufacturerModelName")
    if model:
        scanner.ManufacturerModelName = model
    scanner.PurposeOfReferenceCodeSequence = [_code("109101", "Acquisition Equipment")]
    return [software, scanner]


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue = value
    code.CodingSchemeDesignator = "DCM"
    code.CodeMeaning = meaning
    return code


def _reference(image: SourceImage) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = image.sop_class_uid
    item.ReferencedSOPInstanceUID = image.sop_instance_uid
    return item


def _by_instance(images: Iterable[SourceImage]) -> list[list[SourceImage]]:
    """Frames by the file they lie in; those without UIDs that can be referred to are left out."""
    found: dict[str, list[SourceImage]] = {}
    for image in images:
        if all(
            re.fullmatch(_VALID["UI"], u) for u in (image.sop_class_uid, image.sop_instance_uid)
        ):
            found.setdefault(image.sop_instance_uid, []).append(image)
    return list(found.values())


def _body_part(header: Dataset) -> str:
    part = stated(header, "BodyPartExamined")
    return part if re.fullmatch(_BODY_PART, part) else ""


def _add_body_part(image: Dataset, options: DicomOutput, source: DicomSource | None) -> None:
    """State the body part, and its side, empty where unknown, unless it has none (C.7.3.1)."""
    part = options.body_part or (_body_part(source.header) if source else "")
    if part:
        image.BodyPartExamined = part
    if part not in _WITHOUT_SIDE:
        image.Laterality = stated(source.header, "Laterality") if source else ""


def _check_text(option: str, text: str | None) -> None:
    if text is None:
        return
    if not text.strip() or len(text) > MAX_TEXT or "\\" in text or not text.isprintable():
        raise ConfigError(
            f"the {option.replace('_', ' ')} has {len(text)} characters or one that DICOM does "
            f"not allow, expected 1 to {MAX_TEXT} without backslashes and line breaks"
        )


def _ascii_text(header: Dataset, keyword: str) -> str:
    value = _valid_bytes(header, keyword).strip(b" \0")
    text = value.decode("latin-1")
    plain = text.isascii() and text.isprintable() and "\\" not in text and len(text) <= MAX_TEXT
    return text if plain else ""


def _warn_of_invalid(header: Dataset, name: str) -> None:
    invalid = [
        keyword
        for keyword in (*_REQUIRED, *_OPTIONAL, *SHARED_UIDS)
        if _raw_bytes(header, keyword).strip(b" \0") and not _valid_bytes(header, keyword)
    ]
    if invalid:
        _logger.warning(
            "%s: left out, as the source's values are not allowed in DICOM: %s",
            name,
            ", ".join(invalid),
        )


def _valid_bytes(header: Dataset, keyword: str) -> bytes:
    """Bytes of an element; none where the standard does not allow them."""
    value = _raw_bytes(header, keyword)
    text = value.strip(b" \0").decode("latin-1")
    if not text or _is_valid(keyword, text):
        return value
    if _is_valid(keyword, text.upper()):
        return value.upper()
    return b""


def _is_valid(keyword: str, text: str) -> bool:
    if len(text) > _LONGEST_VALUE:
        return False
    if keyword in ("PatientSize", "PatientWeight") and not text.strip(" +.0Ee"):
        return False  # 0 stands for unknown
    if keyword in _ALLOWED:
        return text in _ALLOWED[keyword]
    if keyword == "PatientPosition":
        return re.fullmatch(_POSITION, text) is not None
    pattern = _VALID.get(dictionary_VR(keyword))
    return pattern is None or re.fullmatch(pattern, text) is not None


def _raw_bytes(header: Dataset, keyword: str) -> bytes:
    """The bytes of a text as they were read, or as pydicom encodes a value that was set."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in header:
        return b""
    element = header.get_item(tag)
    if isinstance(element, RawDataElement):
        return element.value or b""
    if isinstance(element.value, bytes):
        return element.value
    with quiet_pydicom:
        values = element.value if element.VM > 1 else [element.value]
        text = "\\".join("" if value is None else str(value) for value in values)
        if text.isascii():
            return text.encode()
        terms = _terms(_raw_bytes(header, "SpecificCharacterSet"))
        encodings = [python_encoding.get(term, "iso8859") for term in terms]
        return _encoded_element(element, encodings)[8:]


def _terms(charset: bytes) -> list[str]:
    """The terms of a SpecificCharacterSet; ``[""]`` if there is none."""
    return [term.strip() for term in charset.strip(b" \0").decode("latin-1").split("\\")]


def _is_charset(value: bytes) -> bool:
    """Whether all terms are known; ``ISO_IR 6`` is the default, which is not stated."""
    terms = _terms(value)
    return terms not in ([""], ["ISO_IR 6"]) and all(term in python_encoding for term in terms)


def _is_ascii(element: DataElement | RawDataElement) -> bool:
    return bytes(element.value or b"").isascii()


def _says_method(image: Dataset) -> bool:
    return "DeidentificationMethod" in image or "DeidentificationMethodCodeSequence" in image


def _encoded_element(element: DataElement | RawDataElement, encodings: list[str]) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, element, encodings)
    return buffer.getvalue()


def _put_raw(image: Dataset, keyword: str, value: bytes) -> None:
    tag = Tag(keyword)
    image[tag] = _raw_element(tag, dictionary_VR(tag), value)


def _raw_element(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    padded = value + (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    return RawDataElement(tag, vr, len(padded), padded, 0, False, True)


def _decoded(value: bytes, encodings: list[str]) -> str:
    with quiet_pydicom:
        text = "\ufffd" if "" in encodings else decode_bytes(value, encodings, set(b"\\^=\r\n\t\f"))
    text = text.replace(_CHINESE_ESCAPE, "")  # pydicom 3.0 leaves it in
    if "\ufffd" in text or "\x1b" in text:
        raise OutputError(
            "the source has texts that are not in the character set it states, so they cannot be "
            "brought into one set with your label; keep to unaccented letters (ASCII) in labels"
        )
    return text
