from __future__ import annotations

import itertools
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import make_pair, oblique_affine

import medp2p
from medp2p.checkpoint import Model, ModelCard, load_model
from medp2p.config import Config, ImageSettings, PreprocessingSettings, SliceSettings, load_config
from medp2p.errors import GeometryError, ImageReadError, MedP2PError
from medp2p.inference import Translator, make_translator, predict_volume, tile_starts, translate
from medp2p.volume import Volume

CPU = torch.device("cpu")
RANGE_MM = (-60.0, 60.0)
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*order)
]


def identity_translator(spacing=(None, None, None), plane="axial", size=(32, 32)) -> Translator:
    """A translator whose network returns its input; values within ±60 pass unchanged."""
    image = ImageSettings(modality="CT", hu_range=RANGE_MM)
    config = Config(
        preprocessing=PreprocessingSettings(source=image, target=image, spacing_mm=spacing),
        slices=SliceSettings(plane=plane, size=size),
        method={"generator": {"levels": 3}, "discriminator": {"layers": 1}},
    )
    card = ModelCard(config, ("ct",), RANGE_MM)
    model = Model(torch.nn.Identity(), card, "none")
    return Translator(model, CPU, lambda slices: slices, batch_size=7)


def coordinates(shape, affine) -> np.ndarray:
    """World position of every voxel, (3, I, J, K), computed by nibabel."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return np.moveaxis(nib.affines.apply_affine(affine, index), -1, 0)


def centred(affine, shape) -> np.ndarray:
    moved = affine.copy()
    moved[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return moved


def turned(affine, shape, codes) -> tuple[np.ndarray, tuple[int, ...]]:
    """The affine and shape that nibabel gives the grid in another orientation."""
    change = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
    )
    moved = nib.orientations.apply_orientation(np.zeros(shape), change)
    return affine @ nib.orientations.inv_ornt_aff(change, shape), moved.shape


def largest_error_in_voxels(translator, affine, shape) -> float:
    """Translate each world coordinate as an image; compare away from the outermost two layers."""
    truth = coordinates(shape, affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0).min()
    inner = tuple(slice(2, -2) if n > 4 else slice(None) for n in shape)
    errors = []
    for values in truth:
        assert np.abs(values).max() < 60
        source = Volume(values.astype(np.float32), affine)
        result = translator(source, "none")
        np.testing.assert_array_equal(result.affine, affine)
        assert result.array.shape == shape
        assert result.array.dtype == np.float32
        errors.append(np.abs(result.array - values)[inner].max() / spacing)
    return max(errors)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_keeps_every_voxel_in_place(codes):
    shape = (25, 22, 11)
    affine, turned_shape = turned(centred(oblique_affine((2.1, 1.9, 3.3)), shape), shape, codes)
    translator = identity_translator(spacing=(1.5, 2.5, None))
    assert largest_error_in_voxels(translator, affine, turned_shape) < 0.01


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(
    "spacing", [(None, None, None), (1.0, 1.0, None), (3.0, 3.0, 3.0), (0.7, 1.3, 2.2)]
)
def test_planes_and_training_spacings_keep_every_voxel_in_place(plane, spacing):
    affine = centred(oblique_affine((1.2, 1.0, 2.7), (21, 13, -32)), (41, 37, 13))
    translator = identity_translator(spacing, plane, size=(16, 24))
    assert largest_error_in_voxels(translator, affine, (41, 37, 13)) < 0.01


def test_a_shift_by_a_tenth_of_a_voxel_is_seen():
    """The check above can fail."""
    affine = centred(oblique_affine((1.2, 1.0, 2.7)), (20, 20, 9))
    translator = identity_translator()
    shifted = Translator(translator.model, CPU, lambda slices: slices + 0.1 / 60, 7)
    assert largest_error_in_voxels(shifted, affine, (20, 20, 9)) > 0.05


@pytest.mark.parametrize(("have", "want"), [(10, 16), (16, 16), (17, 16), (40, 16), (64, 16)])
def test_tiles_cover_everything_with_overlap(have, want):
    starts = tile_starts(have, want)
    assert starts[0] == 0
    assert starts[-1] + min(have, want) == have
    for a, b in itertools.pairwise(starts):
        assert 0 < b - a <= 0.75 * want


@pytest.mark.parametrize("shape", [(3, 5, 60), (1, 33, 17), (4, 16, 16), (2, 50, 50)])
def test_padding_and_tiling_are_undone_exactly(shape):
    unit = np.random.default_rng(0).uniform(-1, 1, (1, *shape)).astype(np.float32)
    settings = SliceSettings(size=(16, 16))
    result = predict_volume(lambda slices: slices, unit, settings, CPU, batch_size=3)
    np.testing.assert_allclose(result, unit[0], atol=1e-6)


def test_tiles_are_blended_without_a_seam():
    """Tiles that disagree by their own mean give a ramp, not a step."""
    unit = np.zeros((1, 1, 16, 60), dtype=np.float32)
    unit[..., 30:] = 1

    def mean_of_tile(slices):
        return slices.mean(dim=(2, 3), keepdim=True).expand(-1, 1, 16, 16)

    result = predict_volume(mean_of_tile, unit, SliceSettings(size=(16, 16)), CPU, 8)
    assert np.abs(np.diff(result[0, 8])).max() < 0.3


def test_a_stack_reaches_the_network_in_the_order_of_training(prepared_folder):
    from medp2p.dataset import SliceBatches
    from medp2p.preprocessing import decode
    from medp2p.store import PreparedData

    data = PreparedData(prepared_folder)
    case = data.cases[0]
    settings = SliceSettings(stack=3, size=(48, 48), minimum_mask_fraction=0)
    seen = []

    def remember(slices):
        seen.append(slices.clone())
        return slices[:, :1]

    predict_volume(remember, decode(data.source(case)), settings, CPU, batch_size=4)
    batches = SliceBatches(data, [case], settings, CPU)
    every = list(range(case.shape[0]))
    assert torch.equal(torch.cat(seen), batches.gather(every, torch.Generator()).source)


@pytest.fixture(scope="module")
def model(trained_run) -> Model:
    return load_model(trained_run / "model.safetensors")


@pytest.fixture
def scan() -> Volume:
    return Volume(make_pair(9)[0], np.diag([-1.5, -1.5, 3.0, 1.0]))


def test_a_translated_scan_is_a_ct_in_hu_with_air_around_it(model, scan):
    result = medp2p.translate(scan, model, precision="fp32")
    assert (result.modality, result.units, result.path) == ("CT", "HU", None)
    body = make_pair(9)[2] > 0
    assert result.array.min() >= -1024
    assert result.array.max() <= 3071
    assert (result.array[~body][::7] == -1024).mean() > 0.9
    assert result.array[body].std() > 10
    whole = translate(scan, model, mask="none", precision="fp32")
    assert (whole.array[~body] == -1024).mean() < 0.5
    np.testing.assert_array_equal(
        whole.array[body & (result.array > -1024)], result.array[body & (result.array > -1024)]
    )


def test_batch_size_and_bf16_change_little(model, scan):
    exact = translate(scan, model, precision="fp32", batch_size=16).array
    single = translate(scan, model, precision="fp32", batch_size=1).array
    fast = translate(scan, model, precision="bf16").array
    np.testing.assert_allclose(single, exact, atol=0.1)
    assert np.abs(fast - exact).mean() < 25
    assert not np.array_equal(fast, exact)


def test_validation_and_translation_predict_the_same(model, prepared_folder, case_folder):
    """The model's own validation MAE is that of its translation of the validation case."""
    from medp2p.io import read_volume
    from medp2p.metrics import masked_mae
    from medp2p.store import PreparedData

    [case] = PreparedData(prepared_folder).split("validation")
    folder = case_folder / case.name
    mask = read_volume(folder / "mask.nii.gz")
    result = translate(read_volume(folder / "mr.nii.gz"), model, mask=mask, precision="fp32")
    target = read_volume(folder / "ct.nii.gz").array
    mae = masked_mae(result.array, target, mask.array > 0)
    assert mae == pytest.approx(model.card.metrics["validation_mae_hu"], rel=1e-3)


def test_wrong_inputs_are_refused(model, scan):
    ct = scan.with_array(make_pair(9)[1])
    with pytest.raises(ImageReadError, match="look like a CT"):
        translate(ct, model)
    with pytest.raises(MedP2PError, match="1 source"):
        translate([scan, scan], model)
    with pytest.raises(ImageReadError, match=r"contrast|no body"):
        translate(scan.with_array(np.zeros(scan.shape, np.float32)), model)
    other = Volume(np.ones(scan.shape, np.uint8), np.eye(4), modality="MASK")
    with pytest.raises(GeometryError, match="not on the grid"):
        translate(scan, model, mask=other)
    with pytest.raises(ImageReadError, match="0 voxels"):
        translate(scan, model, mask=scan.with_array(np.zeros(scan.shape, np.uint8)))
    with pytest.raises(MedP2PError, match="not available"):
        make_translator(model, device="cuda:7")


def test_translation_loads_neither_monai_nor_lightning(trained_run, scan, tmp_path):
    nib.save(nib.Nifti1Image(scan.array, scan.affine), tmp_path / "mr.nii.gz")
    code = (
        "import sys\n"
        "from medp2p.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'monai', 'lightning', 'lightning_fabric', 'pytorch_lightning', 'torch'}))\n"
    )
    model = str(trained_run / "model.safetensors")
    arguments = ["translate", str(tmp_path / "mr.nii.gz"), str(tmp_path / "ct.nii.gz"), "-m", model]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "['torch']"


def test_ct_to_mr_gives_mr_units():
    config = load_config(
        preset="ct_to_mr", assignments=["slices.size=[32,32]", "method.generator.levels=4"]
    )
    card = ModelCard(config, ("ct",), (0.0, 800.0))
    model = Model(torch.nn.Identity(), card, "none")
    translator = Translator(model, CPU, lambda slices: slices, 8)
    ct = Volume(make_pair(9)[1], np.diag([1.0, 1.0, 3.0, 1.0]))
    result = translator(ct)
    assert (result.modality, result.units) == ("MR", None)
    assert result.array.min() == 0.0
    with pytest.raises(ImageReadError, match="not CT numbers"):
        translator(ct.with_array(make_pair(9)[0]))
