"""Compressed pixels: a codec that is missing, hangs or ends is an error of one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dicom_phantoms import AXIAL, falsely_compressed
from pydicom.uid import HTJ2KLossless, JPEGLosslessSV1

from medp2p.errors import ImageReadError
from medp2p.io import dicom_codecs, read_volume


def test_a_missing_codec_is_named(tmp_path: Path) -> None:
    falsely_compressed(HTJ2KLossless)(tmp_path, 0)
    code = (
        "import sys\n"
        "sys.modules['pylibjpeg'] = None\n"
        "from medp2p.io import read_volume\n"
        f"read_volume({str(tmp_path)!r})\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'medp2p[codecs]'" in result.stderr.splitlines()[-1]


def test_a_codec_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    falsely_compressed(JPEGLosslessSV1)(tmp_path, 0)
    monkeypatch.setattr(dicom_codecs, "MAX_SECONDS_PER_FILE", 0)
    with pytest.raises(ImageReadError, match="cannot be decoded"):
        read_volume(tmp_path)
    assert AXIAL.shape[2] == len(list(tmp_path.iterdir()))


def test_gdcm_s_own_package_is_never_asked() -> None:
    """It ends the process at some damaged images; here it need not even be installed."""
    for transfer_syntax in (JPEGLosslessSV1, HTJ2KLossless):
        assert dicom_codecs.codec_is_available(transfer_syntax)
    assert "gdcm" not in sys.modules
