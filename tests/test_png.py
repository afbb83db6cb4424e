"""8-bit pictures: reading and writing, both layouts of pix2pix, and the whole job on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import refused, run
from PIL import Image
from skimage.metrics import structural_similarity

import medp2p.config as config_module
import medp2p.volume as volume_module
from medp2p.config import Config, ImageSettings, load_config
from medp2p.errors import ConfigError, EvaluationError, ImageReadError, ManifestError, OutputError
from medp2p.evaluation import evaluate_pair
from medp2p.io import read_grid, read_modality, read_volume, write_volume
from medp2p.manifest import dicom_options
from medp2p.metrics import PICTURE_PROFILE, PROFILES, choose_profile, ssim_2d
from medp2p.preparation.plan import Plan
from medp2p.preparation.planning import make_preparation_plan
from medp2p.preparation.png_pairs import plan_of_pictures
from medp2p.preprocessing import (
    body_mask,
    check_modality,
    decode,
    encode,
    find_value_range,
    from_unit,
    to_unit,
)
from medp2p.store import PreparedData
from medp2p.volume import Volume

GREY = ImageSettings(modality="8-bit")
TINY = (
    "--preset", "pix2pix_png", "--set", "slices.size=[32,32]", "--set", "method.generator.levels=3",
    "--set", "method.generator.channels=4", "--set", "method.discriminator.channels=4",
    "--set", "training.epochs=1", "--set", "training.decay_epochs=0",
    "--set", "training.batch_size=3",
)  # fmt: skip


def ramp(rows: int = 20, columns: int = 30) -> np.ndarray:
    """A picture whose every pixel tells its row and column, (rows, columns)."""
    return (np.arange(rows)[:, None] * 8 + np.arange(columns) * 3).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def blobs(number: int, shape: tuple[int, int] = (36, 40)) -> tuple[np.ndarray, np.ndarray]:
    """A picture and what it should become."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[: shape[0], : shape[1]]
    row, column = rng.uniform(10, 26, 2)
    a = (230 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 90)).astype(np.uint8)
    return a, (255 - a).astype(np.uint8)


def side_by_side(folder: Path) -> Path:
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for n in range(1, count + 1):
            save(folder / split / f"{n}.png", np.hstack(blobs(len(split) * 10 + n)))
    return folder


def in_folders(folder: Path) -> Path:
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for n in range(1, count + 1):
            for name, pixels in zip("AB", blobs(len(split) * 10 + n), strict=True):
                save(folder / name / split / f"{n}.png", pixels)
    return folder


def config(**data: object) -> Config:
    assignments = [f"data.{key}={value}" for key, value in data.items()]
    return load_config(preset="pix2pix_png", assignments=assignments)


# --- files -------------------------------------------------------------------------------


def test_columns_run_left_and_rows_back(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "a.png", ramp()))
    assert volume.shape == (30, 20, 1)
    assert volume.orientation == "LPS"
    assert volume.modality == "8-bit"
    assert volume.array.dtype == np.uint8
    assert volume.array[7, 3, 0] == 3 * 8 + 7 * 3
    np.testing.assert_array_equal(volume.spacing_mm, 1)
    assert read_grid(tmp_path / "a.png").difference(volume.grid) is None
    assert read_modality(tmp_path / "a.png") == "8-bit"


def test_written_pictures_are_read_again_bit_for_bit(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "a.png", ramp()))
    write_volume(volume, tmp_path / "b.png")
    write_volume(volume, tmp_path / "c.png")
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "b.png")), ramp())
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    values = volume.with_array(volume.array.astype(np.float32) * 2 - 100.4)
    write_volume(values, tmp_path / "d.png")
    expected = np.rint(ramp().astype(np.float32) * 2 - 100.4).clip(0, 255)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "d.png")), expected)


def test_modality_survives_nifti(tmp_path: Path) -> None:
    write_volume(read_volume(save(tmp_path / "a.png", ramp())), tmp_path / "a.nii.gz")
    again = read_volume(tmp_path / "a.nii.gz")
    assert again.modality == "8-bit"
    write_volume(again, tmp_path / "b.png")
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "b.png")), ramp())


def test_halves_of_a_picture(tmp_path: Path) -> None:
    a, b = blobs(1)
    path = save(tmp_path / "ab.png", np.hstack([a, b]))
    for half, expected in (("left", a), ("right", b)):
        volume = read_volume(path, dicom=dicom_options(half))
        np.testing.assert_array_equal(volume.array[:, :, 0].T, expected)
        assert read_grid(path, dicom=dicom_options(half)).difference(volume.grid) is None
    with pytest.raises(ImageReadError, match="expected left or right"):
        read_volume(path, dicom=dicom_options("top"))
    with pytest.raises(ImageReadError, match="31 columns, expected an even number"):
        read_volume(save(tmp_path / "odd.png", ramp(8, 31)), dicom=dicom_options("left"))


def test_equal_channels_and_palettes_are_grey(tmp_path: Path) -> None:
    grey = ramp()
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    for path in (
        save(tmp_path / "rgb.png", np.dstack([grey] * 3)),
        save(tmp_path / "rgba.png", opaque),
        tmp_path / "palette.png",
    ):
        np.testing.assert_array_equal(read_volume(path).array[:, :, 0].T, grey)
    bits = read_volume(tmp_path / "bits.png").array[:, :, 0].T
    np.testing.assert_array_equal(bits, np.where(grey > 100, 255, 0))


def test_what_is_no_grey_8_bit_png_is_refused(tmp_path: Path) -> None:
    grey = ramp()
    colour = np.dstack([grey, grey, grey // 2])
    glass = np.dstack([grey, grey, grey, np.full_like(grey, 200)])
    deep = save(tmp_path / "deep.png", grey.astype(np.uint16) * 100)
    cut = save(
        tmp_path / "cut.png", np.random.default_rng(0).integers(0, 255, (90, 90)).astype("u1")
    )
    cut.write_bytes(cut.read_bytes()[:4000])
    jpeg = save(tmp_path / "a.jpg", grey)
    disguised = tmp_path / "b.png"
    disguised.write_bytes(jpeg.read_bytes())
    for path, said in (
        (save(tmp_path / "colour.png", colour), "in colour"),
        (save(tmp_path / "glass.png", glass), "transparent"),
        (deep, "16 bits"),
        (cut, "cut short"),
        (jpeg, "a JPEG"),
        (disguised, "not a PNG file"),
    ):
        with pytest.raises(ImageReadError, match=said):
            read_volume(path)
    with pytest.raises(ImageReadError, match="8-bit"):
        read_volume(save(tmp_path / "grey.png", grey), modality="CT")


def test_volumes_are_no_pictures(tmp_path: Path) -> None:
    nominal = np.diag([-1.0, -1, 1, 1])
    for volume, said in (
        (Volume(np.zeros((4, 4, 1)), nominal, modality="CT"), "this is CT"),
        (Volume(np.zeros((4, 4, 2)), nominal, modality="8-bit"), "one slice"),
        (Volume(np.zeros((4, 4, 1)), np.diag([-2.0, -1, 1, 1]), modality="8-bit"), "place"),
        (Volume(np.full((4, 4, 1), np.nan), nominal, modality="8-bit"), "NaN"),
    ):
        with pytest.raises(OutputError, match=said):
            write_volume(volume, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


# --- values ------------------------------------------------------------------------------


def test_every_grey_level_comes_back_exactly() -> None:
    volume = Volume(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), np.eye(4), modality="8-bit")
    inside = body_mask(volume, "8-bit")
    assert inside.all()
    value_range = find_value_range(volume, inside, GREY)
    assert value_range == (0, 255)
    unit = to_unit(volume.array, value_range, GREY)
    assert (unit.min(), unit.max()) == (-1, 1)
    again = from_unit(decode(encode(unit)), value_range)
    np.testing.assert_array_equal(np.rint(again), volume.array)
    assert np.abs(again - volume.array).max() < 0.01


def test_scans_and_pictures_are_kept_apart() -> None:
    scan = Volume(np.full((4, 4, 1), 900.0), np.eye(4))
    with pytest.raises(ImageReadError, match="not grey levels"):
        check_modality(scan, GREY, "source")
    picture = Volume(np.zeros((4, 4, 1)), np.eye(4), modality="8-bit")
    with pytest.raises(ImageReadError, match="this is 8-bit"):
        check_modality(picture, ImageSettings(modality="MR"), "source")
    with pytest.raises(ConfigError, match="no place in space"):
        load_config(assignments=["preprocessing.source.modality=8-bit"])


def test_ssim_is_that_of_scikit_image() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 256, (2, 1, 40, 33)).astype(float)
    expected = structural_similarity(a[0], b[0], data_range=255)
    assert ssim_2d(a, b) == pytest.approx(expected, abs=1e-12)
    turned = ssim_2d(np.moveaxis(a, 0, 2), np.moveaxis(b, 0, 2), np.ones((40, 33, 1)))
    assert turned == pytest.approx(expected, abs=1e-12)
    assert ssim_2d(a, a) == 1
    for shape in ((2, 40, 33), (1, 6, 33)):
        with pytest.raises(EvaluationError, match="one slice"):
            ssim_2d(np.zeros(shape), np.zeros(shape))


def test_one_word_and_one_range_for_pictures() -> None:
    assert config_module.EIGHT_BIT == volume_module.EIGHT_BIT == GREY.modality
    assert PICTURE_PROFILE.value_range == config_module.EIGHT_BIT_RANGE
    assert choose_profile("8-bit") is PICTURE_PROFILE


def test_grey_levels_are_named_and_never_taken_for_hu(tmp_path: Path) -> None:
    a, b = (read_volume(save(tmp_path / f"{n}.png", ramp() // n)) for n in (1, 2))
    result = evaluate_pair(a, b, None, PICTURE_PROFILE)
    assert result.values["mae"] == pytest.approx(np.mean(ramp() - ramp() // 2), rel=1e-6)
    assert "grey levels" in result.profile.description
    with pytest.raises(EvaluationError, match="--profile 8-bit"):
        evaluate_pair(a, b, None, PROFILES["synthrad2025"])


# --- pairs -------------------------------------------------------------------------------


def described(plan: Plan) -> list[tuple[str, str | None]]:
    return [(pair.case, pair.stated.split) for pair in plan.pairs if pair.stated]


def test_both_layouts_say_the_same(tmp_path: Path) -> None:
    side = plan_of_pictures(side_by_side(tmp_path / "side"), config())
    folders = plan_of_pictures(in_folders(tmp_path / "folders"), config())
    expected = [
        *((f"train_{n}", "train") for n in (1, 2, 3)),
        ("val_1", "validation"),
        *((f"test_{n}", "test") for n in (1, 2)),
    ]
    assert described(side) == expected
    assert sorted(described(folders)) == sorted(expected)
    assert not side.left_out
    assert all(pair.aligned for pair in (*side.pairs, *folders.pairs))


def test_names_turn_the_direction(tmp_path: Path) -> None:
    side, folders = side_by_side(tmp_path / "side"), in_folders(tmp_path / "folders")
    back = config(sources="[B]", target="A")
    turned = plan_of_pictures(side, back).pairs[0]
    assert (turned.sources["B"].series, turned.target.series) == ("right", "left")
    turned = plan_of_pictures(folders, back).pairs[0]
    assert "/B/" in turned.sources["B"].path.as_posix()
    assert "/A/" in turned.target.path.as_posix()


def test_broken_pairs_are_left_out_with_a_reason(tmp_path: Path) -> None:
    folder = in_folders(tmp_path)
    (folder / "B" / "train" / "1.png").unlink()
    save(folder / "B" / "train" / "2.png", ramp(8, 8))
    (folder / "A" / "train" / "3.png").write_bytes(b"nothing")
    plan = plan_of_pictures(folder, config())
    reasons = {left.patient: left.reason for left in plan.left_out}
    assert set(reasons) == {"train_1", "train_2", "train_3"}
    assert "there is no" in reasons["train_1"]
    assert "40×36 and 8×8 pixels" in reasons["train_2"]
    assert "not a PNG file" in reasons["train_3"]
    assert len(plan.pairs) == 3


def test_patients_by_pattern_and_splits_at_random(tmp_path: Path) -> None:
    for n in range(4):
        save(tmp_path / f"p{n // 2}_{n}.png", np.hstack(blobs(n)))
    plan = plan_of_pictures(tmp_path, config(patient_pattern="(p[0-9]+)_"))
    assert [pair.patient for pair in plan.pairs] == ["p0", "p0", "p1", "p1"]
    assert [split for _, split in described(plan)] == [None] * 4
    with pytest.raises(ManifestError, match="finds no patient"):
        plan_of_pictures(tmp_path, config(patient_pattern="(q[0-9]+)_"))


def test_folders_without_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"expected A/train/1\.png"):
        plan_of_pictures(tmp_path, config())
    with pytest.raises(ManifestError, match="not a folder"):
        plan_of_pictures(tmp_path / "nowhere", config())


def test_pictures_without_their_preset_are_told_of_it(tmp_path: Path) -> None:
    in_folders(tmp_path)
    with pytest.raises(ManifestError, match="--preset pix2pix_png"):
        make_preparation_plan(tmp_path, load_config())


def test_layouts_prepare_the_same_voxels(capsys, tmp_path: Path) -> None:
    prepared = []
    for layout in (side_by_side, in_folders):
        folder = layout(tmp_path / layout.__name__)
        output = tmp_path / f"{layout.__name__} prepared"
        assert run(capsys, "prepare", folder, output, "--preset", "pix2pix_png", "-j", 1)[0] == 0
        prepared.append(PreparedData(output))
    first, second = prepared
    assert {case.name: case.split for case in first.cases} == {
        case.name: case.split for case in second.cases
    }
    by_name = {case.name: case for case in second.cases}
    for case in first.cases:
        np.testing.assert_array_equal(first.source(case), second.source(by_name[case.name]))
        np.testing.assert_array_equal(first.target(case), second.target(by_name[case.name]))
        assert first.mask(case).all()
    a, _ = blobs(51)
    grey = np.rint(from_unit(decode(first.source(first.cases[0])), (0.0, 255.0)))
    np.testing.assert_array_equal(grey[0, 0, ::-1, ::-1], a)


def test_from_pictures_to_pictures(capsys, tmp_path: Path) -> None:
    folder = in_folders(tmp_path / "pairs")
    prepared, model = tmp_path / "prepared", tmp_path / "run" / "model.safetensors"
    assert run(capsys, "prepare", folder, prepared, "--preset", "pix2pix_png", "-j", 1)[0] == 0
    code, out, err = run(capsys, "train", prepared, tmp_path / "run", *TINY, "--device", "cpu")
    assert code == 0, err
    source, result = folder / "A" / "test" / "1.png", tmp_path / "b.png"
    assert run(capsys, "translate", source, result, "--model", model)[0] == 0
    translated = read_volume(result)
    assert translated.grid.difference(read_volume(source).grid) is None
    assert translated.array.std() > 0
    truth = folder / "B" / "test" / "1.png"
    code, out, _ = run(capsys, "evaluate", result, truth, "--profile", "8-bit")
    assert code == 0
    assert "MAE (grey levels)" in out
    assert "8-bit picture" in refused(capsys, "evaluate", result, truth)
    double = save(tmp_path / "double.png", np.hstack(blobs(61)))
    save(tmp_path / "left.png", blobs(61)[0])
    for path, options in ((double, ("--series", "left")), (tmp_path / "left.png", ())):
        output = tmp_path / f"of {path.name}"
        assert run(capsys, "translate", path, output, "--model", model, *options)[0] == 0
    assert (tmp_path / "of double.png").read_bytes() == (tmp_path / "of left.png").read_bytes()
