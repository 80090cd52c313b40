"""A fitted model against scikit-learn on the same features, and the quick features that a CPU fits by."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from hf_inspect import data as sets
from hf_inspect.anomaly import Settings, fit, graph
from hf_inspect.anomaly.graph import quick_patches
from hf_inspect.anomaly.predictor import tensor
from hf_inspect.images import Preprocess, load
from tests import tiny_anomaly
from tests.tiny_anomaly import RANDOM, SIDE

SETTINGS = Settings(RANDOM, ("blocks.1", "blocks.2"), SIDE, pool=2, keep=0.95, keep_patches=0.9, hold_out=0.0)


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    return tiny_anomaly.built_mvtec(tmp_path_factory.mktemp("mvtec"), {"grid": (24, 6, 8)})


@pytest.fixture(scope="module")
def fitted(grids):
    torch.manual_seed(0)
    return fit(SETTINGS, grids, "grid").model


def shown(model, data, split):
    rgbs = [load(row["bytes"]).rgb for row in sets.load_split(data, split)["image"]]
    return tensor(rgbs, Preprocess.from_dict(model.config.preprocess), "cpu")


def left_over(features, fresh, keep):
    """Squared reconstruction error by scikit-learn's PCA."""
    pca = PCA(keep, svd_solver="full").fit(features)
    return ((fresh - pca.inverse_transform(pca.transform(fresh))) ** 2).sum(1)


def test_scores_and_maps_are_those_of_scikit_learns_pca_on_the_networks_features(fitted, grids):
    with torch.inference_mode():
        good, test = (fitted.patches(shown(fitted, grids, f"grid/{split}")) for split in ("train", "test"))
        scores = fitted(shown(fitted, grids, "grid/test")).scores.numpy()
        by_patch = fitted.patch.error(test.permute(0, 2, 3, 1).flatten(0, 2)).numpy()
        pooled = [torch.nn.functional.avg_pool2d(one, 2).flatten(1).double().numpy() for one in (good, test)]
    np.testing.assert_allclose(scores, left_over(*pooled, 0.95), rtol=1e-4)
    flat = [one.permute(0, 2, 3, 1).flatten(0, 2).double().numpy() for one in (good, test)]
    np.testing.assert_allclose(by_patch, left_over(*flat, 0.9), rtol=1e-3, atol=1e-4 * by_patch.max())


def test_quick_features_are_those_of_the_model_for_any_number_of_images(fitted, grids):
    pixels = shown(fitted, grids, "grid/test")
    quick = quick_patches(fitted, SIDE, SIDE, graph.WORTH)
    first, rest = quick(pixels[:7]), quick(pixels[7:])
    with torch.inference_mode():
        wanted = fitted.patches(pixels)
    torch.testing.assert_close(torch.cat([first, rest]), wanted, rtol=1e-4, atol=1e-4)


def test_a_fit_by_quick_features_scores_as_the_other(fitted, grids, monkeypatch):
    monkeypatch.setattr(graph, "WORTH", 1)
    torch.manual_seed(0)
    other = fit(SETTINGS, grids, "grid").model
    with torch.inference_mode():
        one, two = (each(shown(fitted, grids, "grid/test")).scores for each in (fitted, other))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=0)


def test_few_images_and_bfloat16_are_left_to_torch(fitted):
    assert quick_patches(fitted, SIDE, SIDE, graph.WORTH - 1) == fitted.patches
    assert quick_patches(fitted, SIDE, SIDE, graph.WORTH) != fitted.patches
    fitted.config.bf16 = True
    try:
        assert quick_patches(fitted, SIDE, SIDE, graph.WORTH) == fitted.patches
    finally:
        fitted.config.bf16 = False


def test_a_network_that_openvino_cannot_take_is_left_to_torch_and_this_is_said(fitted, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no such operation\nat length")

    monkeypatch.setattr(graph, "converted", fail)
    with pytest.warns(UserWarning, match="so torch computes its features: no such operation$"):
        assert quick_patches(fitted, SIDE, SIDE, graph.WORTH) == fitted.patches


@pytest.mark.parametrize("batch", [1, 5])
def test_the_size_of_batches_changes_nothing(fitted, grids, batch):
    torch.manual_seed(0)
    other = fit(replace(SETTINGS, batch=batch), grids, "grid").model
    with torch.inference_mode():
        one, two = (each(shown(fitted, grids, "grid/test")).scores for each in (fitted, other))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=0)
