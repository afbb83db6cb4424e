from __future__ import annotations

import numpy as np
import pytest

from medp2p.errors import ImageReadError
from medp2p.hashes import hash_path
from medp2p.io import read_volume, write_volume
from medp2p.volume import Volume

HEADERS = {
    "mr.nhdr": "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
    "sizes: 4 5 3\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: raw\n"
    "space origin: (0,0,0)\ndata file: mr.raw\n",
    "mr.mhd": "ObjectType = Image\nNDims = 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    "Offset = 0 0 0\nElementSpacing = 1 1 1\nDimSize = 4 5 3\nElementType = MET_SHORT\n"
    "ElementDataFile = mr.raw\n",
}


@pytest.mark.parametrize("header", HEADERS)
def test_the_hash_of_an_image_counts_the_file_with_its_voxels(tmp_path, header):
    path = tmp_path / header
    path.write_text(HEADERS[header])
    hashes = set()
    for value in (1, 2):
        path.with_suffix(".raw").write_bytes(np.full(60, value, np.int16).tobytes())
        assert read_volume(path).array.max() == value
        hashes.add(hash_path(path))
    assert len(hashes) == 2


def test_the_hash_of_an_image_without_its_voxels_is_an_error(tmp_path):
    write_volume(Volume(np.zeros((4, 5, 3), np.int16), np.eye(4)), tmp_path / "mr.mhd")
    (tmp_path / "mr.zraw").unlink()
    with pytest.raises(ImageReadError, match="data file named by ElementDataFile is missing"):
        hash_path(tmp_path / "mr.mhd")
