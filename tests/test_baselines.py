"""Baselines against medians that NumPy takes of the training cases' voxels."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from conftest import find_cases, prepare_cases, write_case

from medp2p.baselines import INTENSITY_BINS, Baselines, fit_baselines, predict_case
from medp2p.errors import PreparedDataError
from medp2p.preprocessing import decode
from medp2p.store import PreparedData

HALF_CODE = 0.5 / 16384


@pytest.fixture(scope="module")
def cases(case_folder, tiny_config, tmp_path_factory):
    """The toy cases, but with a CT twice as dense where training must not look."""
    folder = tmp_path_factory.mktemp("dense")
    cases = []
    for case in find_cases(case_folder, tiny_config):
        if case.split != "train":
            ct = nib.load(case.target)
            dense = (2 * ct.get_fdata() + 900).clip(-1000, 3000).astype(np.int16)
            target = folder / f"{case.name}.nii.gz"
            nib.save(nib.Nifti1Image(dense, ct.affine), target)
            case = replace(case, target=target)
        cases.append(case)
    return cases


@pytest.fixture(scope="module")
def data(cases, tiny_config, tmp_path_factory) -> PreparedData:
    folder = tmp_path_factory.mktemp("baselines") / "data"
    prepare_cases(cases, folder, tiny_config)
    return PreparedData(folder)


@pytest.fixture(scope="module")
def baselines(data) -> Baselines:
    return fit_baselines(data)


def body_values(data: PreparedData, *splits: str) -> tuple[np.ndarray, np.ndarray]:
    """Unit values of the source and the target inside the bodies of some splits."""
    chosen = [case for case in data.cases if case.split in splits]
    bodies = [data.mask(case) > 0 for case in chosen]
    sources = [decode(data.source(c)[0][b]) for c, b in zip(chosen, bodies, strict=True)]
    targets = [decode(data.target(c)[b]) for c, b in zip(chosen, bodies, strict=True)]
    return np.concatenate(sources), np.concatenate(targets)


def median(values: np.ndarray) -> float:
    """A value of the sample with half of it on either side."""
    return float(np.quantile(values, 0.5, method="inverted_cdf"))


def predict(baselines: Baselines, name: str, source: np.ndarray) -> np.ndarray:
    return baselines.predictors()[name](source.reshape(1, 1, 1, -1)).ravel()


def test_the_constant_is_the_median_of_the_training_bodies(baselines, data):
    source, target = body_values(data, "train")
    prediction = predict(baselines, "constant", source)
    np.testing.assert_allclose(prediction, median(target), atol=HALF_CODE)
    everything = body_values(data, "train", "validation", "test")[1]
    assert abs(median(everything) - median(target)) > 100 * HALF_CODE
    assert abs(np.quantile(target, 0.25) - median(target)) > 100 * HALF_CODE


def test_each_intensity_gets_the_median_of_its_bin(baselines, data):
    """Bins of equal width between -1 and 2, the lower edge inside."""
    source, target = body_values(data, "train")
    edges = np.linspace(-1, 2, INTENSITY_BINS + 1)
    bins = np.searchsorted(edges, source.astype(np.float64), side="right") - 1
    assert bins.min() == 0
    filled = np.unique(bins)
    assert len(filled) > 50
    expected = np.zeros(INTENSITY_BINS)
    for number in filled:
        expected[number] = median(target[bins == number])
    prediction = predict(baselines, "intensity", source)
    np.testing.assert_allclose(prediction, expected[bins], atol=HALF_CODE)
    assert prediction.std() > 0.05


def test_bins_divide_the_source_s_range_evenly():
    numbered = np.arange(INTENSITY_BINS, dtype=np.float32)
    baselines = Baselines(0.0, numbered, (-1024.0, 3071.0))
    centres = (-1 + 3 * (numbered + 0.5) / INTENSITY_BINS).astype(np.float32)
    np.testing.assert_array_equal(predict(baselines, "intensity", centres), numbered)
    outermost = np.array([-1.0, 2.0], np.float32)
    np.testing.assert_array_equal(predict(baselines, "intensity", outermost), numbered[[0, -1]])


def test_an_intensity_that_training_never_saw_gets_the_constant(baselines, data):
    source, _ = body_values(data, "train")
    unseen = np.array([1.99, 2.0], np.float32)
    assert source.max() < 1.9
    np.testing.assert_array_equal(
        predict(baselines, "intensity", unseen), predict(baselines, "constant", unseen)
    )


@pytest.mark.parametrize("name", ["constant", "intensity"])
def test_no_shift_of_a_baseline_lowers_its_training_error(baselines, data, name):
    source, target = body_values(data, "train")
    prediction = predict(baselines, name, source)
    error = np.abs(prediction - target).mean()
    for shift in (-0.1, -0.01, -0.001, 0.001, 0.01, 0.1):
        assert np.abs(prediction + shift - target).mean() > error


def test_a_case_is_predicted_in_hu_on_its_own_grid(baselines, data, cases, tiny_config):
    [case] = [case for case in cases if case.split == "test"]
    results = predict_case(baselines, case, tiny_config.preprocessing)
    source, body = nib.load(case.sources["mr"]), nib.load(case.mask).get_fdata() > 0
    hu = (median(body_values(data, "train")[1]) + 1) / 2 * 4095 - 1024
    for result in results.values():
        assert (result.modality, result.units) == ("CT", "HU")
        assert result.array.shape == source.shape
        np.testing.assert_allclose(result.affine, source.affine)
        assert (result.array[~body] == -1024).all()
    np.testing.assert_allclose(results["constant"].array[body], hu, atol=0.2)
    bone = body & (nib.load(case.target).get_fdata() > 2000)
    tissue = body & (source.get_fdata() > 250)
    prediction = results["intensity"].array
    assert np.median(prediction[bone]) == pytest.approx(900, abs=30)
    assert np.median(prediction[tissue]) == pytest.approx(40, abs=5)


def test_data_without_training_cases_are_refused(case_folder, tiny_config, tmp_path):
    write_case(tmp_path / "cases" / "only", 1)
    [case] = find_cases(tmp_path / "cases", tiny_config)
    prepare_cases([replace(case, split="test")], tmp_path / "data", tiny_config)
    with pytest.raises(PreparedDataError, match="split 'train'"):
        fit_baselines(PreparedData(tmp_path / "data"))
