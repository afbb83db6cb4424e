from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from conftest import oblique_affine
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medp2p.alignment import Alignment
from medp2p.config import AuditSettings, ImageSettings
from medp2p.io import read_volume
from medp2p.preparation.audit import VALUES, PairAudit, audit_pair
from medp2p.preparation.block_matching import common_view, misalignment, mutual_information
from medp2p.registration import Registration, Starts
from medp2p.report.pair_picture import EDGE_COLOUR, pair_picture
from medp2p.resources import resource_folder
from medp2p.volume import Volume

MR, CT = ImageSettings(modality="MR"), ImageSettings(modality="CT")


@cache
def head(number: int) -> tuple[Volume, Volume, np.ndarray]:
    folder = resource_folder("sample_data") / f"head_{number:03}"
    mr, ct = (read_volume(folder / f"{name}.nii.gz") for name in ("mr", "ct"))
    return mr, ct, read_volume(folder / "mask.nii.gz").array > 0


def audit(
    source, target, source_body, target_body, matrix=None, *, found=None, images=(MR, CT), **names
):
    alignment = Alignment(np.eye(4) if matrix is None else matrix)
    return audit_pair(
        source, target, source_body, target_body, alignment, found, images, AuditSettings(), **names
    )


def displaced(volume: Volume, body: np.ndarray, degrees: float, mm: float) -> np.ndarray:
    centre = volume.affine[:3, :3] @ np.argwhere(body).mean(axis=0) + volume.affine[:3, 3]
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0, 0.8])).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + mm * np.array([0.48, 0.6, 0.64])
    return matrix


def mean_displacement(volume: Volume, body: np.ndarray, matrix: np.ndarray) -> float:
    points = np.argwhere(body) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    moved = points @ matrix[:3, :3].T + matrix[:3, 3]
    return float(np.linalg.norm(moved - points, axis=1).mean())


def registration(**changes: object) -> Registration:
    values = {
        "alignment": Alignment.identity(),
        "turned_degrees": 4.0,
        "shifted_mm": 11.0,
        "mutual_information_before": 0.1,
        "mutual_information_after": 0.5,
        "overlap": 1.0,
        "last_step_mm": 0.2,
        "starts": Starts(chosen=0.5, runner_up=0.25, headers=0.5, headers_apart_mm=0.0),
    }
    return Registration(**{**values, **changes})


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_pair_in_place_is_used(number):
    mr, ct, body = head(number)
    found = audit(mr, ct, body, body)
    assert (found.verdict, found.reasons) == ("use", ())
    assert found.values["residual_mm"] < 1
    assert found.values["surface_mm"] == 0
    assert found.values["body_dice"] == 1
    assert found.values["body_covered"] == 1


@pytest.mark.parametrize(("degrees", "mm"), [(0, 1.5), (0, 4), (2, 0), (3, 2)])
def test_the_residual_is_near_the_truth(degrees, mm):
    mr, ct, body = head(1)
    matrix = displaced(mr, body, degrees, mm)
    found = audit(mr, ct, body, body, matrix)
    truth = mean_displacement(mr, body, matrix)
    assert found.values["residual_mm"] == pytest.approx(truth, abs=1.0)
    assert found.verdict == ("check" if truth > 3 else "use")
    aligned = audit(mr, ct, body, body)
    for name in ("mutual_information_nats", "normalized_mutual_information", "edge_agreement"):
        assert found.values[name] < aligned.values[name]


@pytest.mark.parametrize(("degrees", "mm"), [(0, 20), (30, 10), (90, 0), (180, 5)])
def test_images_far_from_each_other_are_rejected(degrees, mm):
    mr, ct, body = head(1)
    found = audit(mr, ct, body, body, displaced(mr, body, degrees, mm))
    assert found.verdict == "reject"
    assert "parts are not found" in found.reasons[0]
    assert found.values["lost_parts"] > 0.6


def test_the_ct_of_somebody_else_is_not_used():
    mr, _, body = head(1)
    for other in (2, 3, 4):
        _, ct, other_body = head(other)
        shift = np.eye(4)
        shift[:3, 3] = _centre(ct, other_body) - _centre(mr, body)
        found = audit(mr, ct, body, other_body, shift)
        assert found.verdict in ("check", "reject")
        assert "another patient" in " ".join(found.reasons)


def _centre(volume: Volume, body: np.ndarray) -> np.ndarray:
    return volume.affine[:3, :3] @ np.argwhere(body).mean(axis=0) + volume.affine[:3, 3]


def test_before_is_where_the_headers_are():
    mr, ct, body = head(1)
    matrix = displaced(mr, body, 5, 10)
    moved = dataclasses.replace(ct, affine=matrix @ ct.affine)
    found = audit(mr, moved, body, body, matrix)
    assert found.verdict == "use"
    values = found.values
    assert values["mutual_information_before_nats"] < 0.6 * values["mutual_information_nats"]


def test_what_registration_did_counts():
    mr, ct, body = head(1)
    found = audit(mr, ct, body, body, found=registration(turned_degrees=31.0))
    assert found.verdict == "check"
    assert found.reasons[0].startswith("turned by 31° against the headers")
    assert found.values["turned_degrees"] == 31
    assert found.values["start_margin"] == 0.5
    noted = audit(mr, ct, body, body, found=registration(notes=("not deformed: it folds",)))
    assert noted.reasons == ("not deformed: it folds",)
    assert audit(mr, ct, body, body, found=registration()).verdict == "use"


def test_swapped_images_are_rejected():
    mr, ct, body = head(1)
    found = audit(ct, mr, body, body)
    assert found.verdict == "reject"
    assert found.reasons[0].startswith("the images are swapped")
    assert len(found.reasons) == 1


def test_a_target_that_is_no_ct_is_rejected():
    mr, _, body = head(1)
    found = audit(mr, mr.with_array(mr.array * 3), body, body)
    assert found.verdict == "reject"
    assert "looks like MR, expected CT" in found.reasons[0]


def test_a_ct_without_its_offset_is_rejected_with_that_reason():
    mr, ct, body = head(1)
    for target_body in (body, np.ones_like(body)):
        stored = ct.with_array((ct.array.astype(np.int32) + 1024).clip(0, 4095).astype(np.uint16))
        found = audit(mr, stored, body, target_body)
        assert found.verdict == "reject"
        assert "an offset of 1024 is missing" in found.reasons[0]
        assert f"0..{stored.array.max()}" in found.reasons[0]


def test_a_ct_in_other_units_is_in_question():
    mr, ct, body = head(1)
    wrong = ct.with_array((ct.array.astype(np.float32) + 500).clip(-1000))
    found = audit(mr, wrong, body, body)
    assert found.verdict == "check"
    assert "is it in HU?" in " ".join(found.reasons)


def test_little_in_common_is_rejected():
    mr, ct, body = head(1)
    slab = Volume(ct.array[:, :, :6], ct.affine, modality="CT", units="HU")
    found = audit(mr, slab, body, body[:, :, :6])
    assert found.verdict == "reject"
    assert any("of the source's body, expected at least 50%" in r for r in found.reasons)


def test_empty_and_tiny_masks_are_reasons_and_no_exceptions():
    mr, ct, body = head(1)
    nothing = np.zeros_like(body)
    assert audit(mr, ct, nothing, body).reasons == (
        "the source has no body: its mask is empty; repair the mask or remove it",
    )
    assert audit(mr, ct, body, nothing).verdict == "reject"
    tiny = nothing.copy()
    tiny[40:42, 40:42, 18] = True
    found = audit(mr, ct, tiny, body)
    assert found.verdict in ("check", "reject")
    assert found.values["residual_mm"] is None


def test_reasons_call_an_image_by_its_name():
    mr, ct, body = head(1)
    found = audit(mr, ct, body, np.zeros_like(body), target_name="t2")
    assert found.reasons == ("the t2 has no body: its mask is empty; repair the mask or remove it",)


def test_scattered_and_distant_bodies_are_reasons_and_no_exceptions():
    rng = np.random.default_rng(0)
    fine = Volume(rng.uniform(0, 900, (120, 120, 120)).astype(np.float32), np.eye(4))
    scattered = np.zeros(fine.shape, dtype=bool)
    scattered[::5, ::5, ::5] = True
    found = audit(fine, fine, scattered, scattered, images=(MR, MR))
    assert found.reasons == (
        "the source's body mask is scattered voxels, expected a body; repair the mask",
    )
    mr, ct, body = head(1)
    far = np.eye(4)
    far[0, 3] = 1000.0
    found = audit(mr, ct, body, body, far)
    assert found.verdict == "reject"
    assert found.values["body_covered"] == 0


def test_constant_images_are_no_exceptions():
    body = np.zeros((30, 30, 20), dtype=bool)
    body[5:25, 5:25, 4:16] = True
    flat = Volume(np.full(body.shape, 7.0, np.float32), np.eye(4))
    found = audit(flat, flat, body, body, images=(MR, MR))
    assert found.verdict == "check"
    assert "parts of the body can be compared" in found.reasons[0]


def test_a_single_slice_is_measured_in_its_plane():
    mr, ct, body = head(1)
    flat = [Volume(v.array[:, :, 14:15], v.affine, v.modality) for v in (mr, ct)]
    outline = body[:, :, 14:15]
    assert audit(*flat, outline, outline).values["residual_mm"] < 1
    shift = np.eye(4)
    shift[0, 3] = 4.0
    found = audit(*flat, outline, outline, shift)
    assert found.values["residual_mm"] == pytest.approx(4, abs=0.8)
    assert found.verdict == "check"


def test_mr_against_mr_and_grey_pictures():
    mr, ct, body = head(1)
    other = mr.with_array(np.sqrt(mr.array.max() - mr.array.astype(np.float32)) * body)
    assert audit(mr, other, body, body, images=(MR, MR)).verdict == "use"
    grey = [_grey(mr), _grey(ct)]
    found = audit(*grey, body, body)
    assert (found.verdict, found.reasons) == ("use", ())


def _grey(volume: Volume) -> Volume:
    values = volume.array.astype(np.float32)
    return volume.with_array(
        np.rint(255 * (values - values.min()) / np.ptp(values)).astype(np.uint8)
    )


def test_oblique_and_thick_slices_are_measured_too():
    mr, ct, body = head(2)
    affine = oblique_affine((2.6, 2.8, 6.1))
    turned = [dataclasses.replace(v, affine=affine) for v in (mr, ct)]
    assert audit(*turned, body, body).verdict == "use"
    matrix = displaced(turned[0], body, 0, 4)
    found = audit(*turned, body, body, matrix)
    assert found.values["residual_mm"] == pytest.approx(4, abs=1)


def test_padding_is_no_image():
    mr, ct, body = head(1)
    padded = ct.array.astype(np.int16)
    padded[:, :, :8] = -3024
    found = audit(mr, ct.with_array(padded), body, body)
    share = body[:, :, 8:].sum() / body.sum()
    assert found.values["body_covered"] == pytest.approx(share, abs=0.03)
    assert found.values["target_padding"] == pytest.approx(8 / ct.shape[2])
    assert found.values["target_lowest"] == -1024
    assert found.verdict == "use"


def test_a_loose_mask_is_in_question():
    mr, ct, body = head(1)
    loose = ndimage.binary_dilation(body, iterations=4)
    found = audit(mr, ct, loose, loose)
    assert found.verdict == "check"
    assert [r for r in found.reasons if "target's body mask is air" in r]
    assert found.values["target_loose_mask"] > 0.2
    tight = audit(mr, ct, body, body)
    assert tight.values["target_loose_mask"] < 0.1


def test_metal_and_clipped_values_are_counted():
    mr, ct, body = head(1)
    values = ct.array.astype(np.int16)
    inside = np.argwhere(ndimage.binary_erosion(body, iterations=8))[:150]
    values[tuple(inside.T)] = 8000
    found = audit(mr, ct.with_array(values), body, body)
    voxel_cm3 = abs(np.linalg.det(ct.affine[:3, :3])) / 1000
    assert found.values["metal_cm3"] == pytest.approx(150 * voxel_cm3, rel=0.1)
    assert found.values["target_clipped_high"] == pytest.approx(150 / body.sum(), rel=0.1)
    assert "of metal" in " ".join(found.reasons)
    narrow = ImageSettings(modality="CT", hu_range=(-500, 700))
    clipped = audit(mr, ct, body, body, images=(MR, narrow))
    assert "outside hu_range -500..700" in " ".join(clipped.reasons)
    window = ImageSettings(modality="CT", hu_range=(-60, 60))
    assert audit(mr, ct, body, body, images=(MR, window)).verdict == "use"


def test_every_value_is_defined_and_survives_json():
    mr, ct, body = head(1)
    found = audit(mr, ct, body, body, found=registration())
    defined = {key.format(side=side) for key in VALUES for side in ("source", "target")}
    mr_only = {"source_clipped_low", "source_clipped_high"}
    assert set(found.values) == defined - mr_only
    text = json.dumps(dataclasses.asdict(found), allow_nan=False)
    assert PairAudit.from_json(json.loads(text)) == found
    assert audit(mr, ct, body, body, found=registration()) == found


def test_nothing_of_the_audit_loads_torch():
    code = (
        "import sys, medp2p.preparation.audit\n"
        "print([name for name in ('torch', 'monai', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mutual_information_of_an_image_with_itself_is_its_entropy():
    mr, _, body = head(1)
    view = common_view(mr, mr, body, body, Alignment.identity())
    nats, normalized = mutual_information(view)
    assert normalized == pytest.approx(1)
    assert 2 < nats < np.log(16)


def test_parts_that_are_lost_make_the_residual_a_lower_bound():
    mr, ct, body = head(1)
    view = common_view(mr, ct, body, body, Alignment(displaced(mr, body, 180, 0)))
    found = misalignment(view)
    assert found is not None
    assert found.residual_mm >= 3 * view.grid.spacing_mm.min()


def test_the_picture_is_small_true_to_scale_and_the_same_again():
    mr, ct, body = head(1)
    jpeg = pair_picture(mr, ct, body, Alignment.identity())
    assert jpeg == pair_picture(mr, ct, body, Alignment.identity())
    assert len(jpeg) < 60_000
    picture = np.asarray(Image.open(io.BytesIO(jpeg)))
    x, y, z = (np.ptp(np.argwhere(body), axis=0)) * mr.spacing_mm + 16
    size = np.minimum((x, y, z), (np.array(mr.shape) - 1) * mr.spacing_mm)
    heights = size[[1, 2, 2]] / size.max() * 160
    assert picture.shape[0] == pytest.approx(heights.sum() + 4, abs=8)
    amber = np.abs(picture.astype(int) - EDGE_COLOUR).sum(axis=2) < 120
    quarter = picture.shape[1] // 4
    assert amber[:, 3 * quarter :].mean() > 0.01
    assert amber[:, : 2 * quarter].mean() < 0.001


def test_the_picture_shows_the_front_up_and_the_right_on_the_left():
    array = np.zeros((40, 40, 40), np.float32)
    array[34:38, 2:6, :] = 100  # right, back
    volume = Volume(array, np.diag([1.0, 1, 1, 1]), modality="MR")
    body = np.ones(array.shape, dtype=bool)
    jpeg = pair_picture(volume, volume, body, Alignment.identity())
    axial = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))[:150, :150].astype(int)
    row, column = np.argwhere(axial > 128).mean(axis=0)
    assert row > 120
    assert column < 40


def test_a_picture_of_images_without_contrast_or_body_is_no_exception():
    flat = Volume(np.zeros((9, 8, 1), np.int16), np.eye(4))
    nothing = np.zeros((9, 8, 1), dtype=bool)
    assert Image.open(io.BytesIO(pair_picture(flat, flat, nothing, Alignment.identity())))
