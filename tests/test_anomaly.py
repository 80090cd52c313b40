"""Features, subspaces and the model: scikit-learn's figures, and what may change nothing."""

from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, IncrementalPCA

from hf_inspect import data as sets
from hf_inspect import files, scoring
from hf_inspect.anomaly import AnomalyDetector, Fitting, Settings, fit
from hf_inspect.anomaly.model import SubspaceLayer, _by_position
from hf_inspect.anomaly.network import new_network
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.images import load
from tests import tiny_anomaly
from tests.tiny_anomaly import RANDOM, SIDE

SETTINGS = Settings(RANDOM, ("blocks.2",), SIDE, pool=2, keep=0.95)


def rows(n=300, d=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (n, d)) @ (rng.normal(0, 1, (d, d)) * np.linspace(3, 0.05, d)) + rng.normal(0, 5, d)


def falling(n=300, d=200, seed=0):
    """Rows whose deviations fall by a tenth from one direction to the next, so that a few hold nearly all."""
    axes = np.linalg.qr(np.random.default_rng(9).normal(0, 1, (d, d)))[0]
    return np.random.default_rng(seed).normal(0, 1, (n, d)) * 0.9 ** np.arange(d) @ axes + 3.0


def fitted_to(x, keep=0.95, batch=300, **more):
    fitting = Fitting(keep, **more)
    for start in range(0, len(x), batch):
        fitting.add(x[start : start + batch])
    return fitting.done()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Parts of two classes with a validation split that holds both."""
    return tiny_anomaly.built_parts(tmp_path_factory.mktemp("parts"), 60, 30)


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    """Two categories in MVTec AD's layout, with masks and no validation."""
    counts = {"grid": (24, 6, 8), "wood": (12, 4, 4)}
    return tiny_anomaly.built_mvtec(tmp_path_factory.mktemp("mvtec"), counts)


@pytest.fixture(scope="module")
def detector(parts, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "model"
    fit(SETTINGS, parts).save(folder)
    return AnomalyDetector.from_pretrained(folder)


def pictures(data, split):
    return [load(row["bytes"]).rgb for row in sets.load_split(data, split)["image"]]


@pytest.mark.parametrize("keep", [0.9, 0.99, 7])
def test_the_error_is_that_of_scikit_learns_pca(keep):
    x, fresh = rows(), torch.from_numpy(rows(50)).float()
    pca = PCA(keep, svd_solver="full").fit(x)
    layer = SubspaceLayer.of(fitted_to(x, keep))
    assert layer.components.shape == pca.components_.shape
    centred = fresh.numpy().astype(np.float64)
    left = ((centred - pca.inverse_transform(pca.transform(centred))) ** 2).sum(1)
    np.testing.assert_allclose(layer.error(fresh).numpy(), left, rtol=1e-4)
    inside = (pca.transform(centred) ** 2 / pca.explained_variance_).sum(1)
    np.testing.assert_allclose(layer.mahalanobis(fresh).numpy(), inside, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("d", [40, 200], ids=["fewer dimensions than a chunk has rows", "more of them"])
def test_incremental_equals_one_shot_whatever_the_batches_and_the_order(batch, d):
    x, fresh = falling(d=d), torch.from_numpy(falling(50, d, seed=1)).float()
    whole = SubspaceLayer.of(fitted_to(x, most=1000)).error(fresh)
    chunked = fitted_to(x, batch=batch, most=64)  # five chunks
    for other in (chunked, fitted_to(x[np.random.default_rng(0).permutation(300)], batch=batch, most=64)):
        np.testing.assert_allclose(SubspaceLayer.of(other).error(fresh).numpy(), whole.numpy(), rtol=1e-3)
    assert (chunked.components == fitted_to(x, most=64).components).all()


def test_a_chunk_is_taken_in_as_by_scikit_learns_incremental_pca():
    x, keep = falling(256, 200), 12
    theirs = IncrementalPCA(64, batch_size=64).fit(x)
    ours = fitted_to(x, keep, most=64)
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_[:keep], rtol=1e-4)
    np.testing.assert_allclose(ours.mean, theirs.mean_, atol=1e-5)
    assert ours.share == pytest.approx(theirs.explained_variance_ratio_[:keep].sum(), rel=1e-4)
    np.testing.assert_allclose(np.abs((ours.components * theirs.components_[:keep]).sum(1)), 1.0, atol=1e-4)


def test_no_more_components_are_followed_than_asked():
    found = fitted_to(rows(300, 60), 0.999, most=12)
    assert len(found.components) <= 12
    assert found.share < 0.999  # it says what it keeps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fitted_to(rows(1)), "1 feature came"),
        (lambda: Fitting(0.9).done(), "0 feature came"),
        (lambda: fitted_to(np.ones((9, 4)) * 7.3), "all 9 features are the same"),
        (lambda: fitted_to(np.array([[1.0, np.nan], [1.0, 2.0]])), "1 of 2 features are not finite"),
        (lambda: fitted_to(rows(5), 5), "5 components are asked of 5 features .* at most 4"),
        (
            lambda: fitted_to(rows(60)[:, :3] @ np.ones((3, 9)), 4),
            "4 components are asked, and the 60 features vary in 1",
        ),
        (lambda: Fitting(1.5), "keep is 1.5"),
        (lambda: Fitting(0), "keep is 0"),
    ],
)
def test_what_no_subspace_can_be_made_of_is_said(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_a_model_says_the_same_from_its_folder_in_any_batch_and_order(detector, parts):
    shown = pictures(parts, "test")
    said = detector.predict(shown)
    assert all(one.map.shape == (SIDE, SIDE) and one.map.min() >= 0 for one in said)
    severity = np.array([one.severity for one in said])
    np.testing.assert_allclose([one.severity for one in detector.predict(shown, 3)], severity, atol=1e-4)
    np.testing.assert_allclose([one.severity for one in detector.predict(shown[::-1])][::-1], severity, atol=1e-4)
    again = AnomalyDetector.from_pretrained(detector.folder)
    assert [one.severity for one in again.predict(shown)] == severity.tolist()
    assert again.identity == detector.identity
    assert (detector.folder / "model.safetensors").is_file()


def test_the_folder_says_what_it_saw_and_what_its_score_means(detector, parts):
    assert (detector.task.kind, detector.task.score.kind) == ("anomaly", "probability")
    counts = sets.read_head(parts)["counts"]["default"]
    assert detector.task.score.goods == counts["validation"]["good"]
    (source,) = detector.history.sources
    assert source.images == counts["train"]["good"] + sum(counts["validation"].values())  # no training defect
    with pytest.raises(LeakageError, match="trained on"):
        sets.refuse_seen(detector.history, parts, "validation", "the model")
    sets.refuse_seen(detector.history, parts, "test", "the model")


def test_scoring_asks_it_about_a_classification_set(detector, parts, tmp_path):
    found = scoring.run({"anomaly": detector}, parts, "test", tmp_path / "scores.jsonl")
    severity = found.answers["anomaly"].severity
    assert severity[found.labels == 1].mean() > severity[found.labels == 0].mean()
    said = [one.severity for one in detector.predict(pictures(parts, "test"))]
    np.testing.assert_allclose(severity, said, atol=1e-4)


def test_without_validation_good_parts_are_held_out_and_the_model_says_so(grids):
    found = fit(SETTINGS, grids, "grid")
    assert (found.task.score.kind, found.task.score.of) == ("quantile", "train, held out of the fit")
    assert found.figures["fitted"] + found.figures["held_out"] == 24
    assert found.history.sources[0].images == 24
    few = fit(replace(SETTINGS, hold_out=0.0), grids, "wood")
    assert few.task.score.kind == "distance"
    assert few.figures["fitted"] == 12


@pytest.mark.parametrize("score", ["mahalanobis", "patches"])
def test_the_other_scores_find_the_blots_and_maps_show_where(grids, tmp_path, score):
    torch.manual_seed(0)
    fit(replace(SETTINGS, score=score, layers=("blocks.1", "blocks.2"), smooth=2.0), grids, "grid").save(tmp_path / "m")
    model = AnomalyDetector.from_pretrained(tmp_path / "m")
    test = sets.load_split(grids, "grid/test")
    said = model.predict([load(row["bytes"]).rgb for row in test["image"]])
    defect = np.array(test["label"]) == 1
    assert len(said) == 14
    if score == "patches":
        severity = np.array([one.severity for one in said])
        assert severity[defect].mean() > severity[~defect].mean()
        for one, mask in zip(said, test.cast_column("mask", datasets.Image())["mask"], strict=True):
            if mask is not None:
                inside = np.asarray(mask.convert("L")) > 0
                assert one.map[inside].mean() > 1.5 * one.map[~inside].mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ("blocks.9",)}, r"no layer 'blocks.9'; the network has conv_stem, .*blocks\.0, "),
        ({"layers": ()}, "No layer is named; the network has"),
        ({"pool": 99}, "pool is 99, and the layers have 8 x 8 positions"),
        ({"score": "mood"}, "score is 'mood'; give one of fre, mahalanobis, patches"),
        ({"keep": 500}, "500 components are asked of"),
        ({"hold_out": 1.0}, "hold_out is 1.0"),
        ({"layers": ("global_pool",)}, "without positions"),
    ],
)
def test_settings_that_cannot_be_are_said(grids, change, message):
    with pytest.raises(DataError, match=message):
        fit(replace(SETTINGS, **change), grids, "grid")


def test_one_good_image_is_enough_for_patches_alone(tmp_path):
    data = tiny_anomaly.built_mvtec(tmp_path, {"grid": (1, 2, 2)})
    with pytest.raises(DataError, match="has 1 good images to fit to, and the score 'fre' takes at least 2"):
        fit(SETTINGS, data, "grid")
    assert fit(replace(SETTINGS, score="patches"), data, "grid").task.score.kind == "distance"


def test_a_folder_that_is_no_anomaly_model_is_refused(tmp_path):
    files.write_json(tmp_path / "config.json", {"model_type": "bert"})
    with pytest.raises(DataError, match="holds no anomaly model"):
        AnomalyDetector.from_pretrained(tmp_path)


def test_a_transformers_network_gives_tokens_by_position(grids, tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path / "dino")
    settings = Settings(str(tmp_path / "dino"), ("encoder.layer.0", "encoder.layer.2"), 56, pool=1, bf16=True)
    fit(settings, grids, "grid").save(tmp_path / "model")
    model = AnomalyDetector.from_pretrained(tmp_path / "model")
    assert model.model.config.patch[1] == 48
    assert model.predict(pictures(grids, "grid/test")[:2])[0].map.shape == (56, 56)
    assert model.history.unknown == ("dino",)


def test_the_layers_of_a_network_of_stages_with_channels_last_are_read_right():
    network, _ = new_network("random:test_efficientnet", SIDE)
    assert not network.training
    grid = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    assert (_by_position(grid.permute(0, 2, 3, 1), True) == grid).all()
    tokens = torch.cat([torch.zeros(2, 1, 3), grid[:, :, :, :4].flatten(2).transpose(1, 2)], 1)
    assert (_by_position(tokens, False) == grid[:, :, :, :4]).all()


def test_scoring_asks_it_about_classes_of_other_names(tmp_path):
    from hf_inspect.data import build

    data = tiny_anomaly.built_parts(tmp_path, 40, 20)
    fit(SETTINGS, data).save(tmp_path / "model")
    (tmp_path / "raw" / "good").rename(tmp_path / "raw" / "fine")
    options = {"license": "cc0-1.0", "good": "fine", "shares": "0/0/0/100"}
    build("folder", tmp_path / "other", src=tmp_path / "raw", options=options)
    model = AnomalyDetector.from_pretrained(tmp_path / "model")
    found = scoring.run({"anomaly": model}, tmp_path / "other", "test", tmp_path / "s.jsonl", fitting=True)
    assert found.task.classes != model.task.classes
    assert np.isfinite(found.answers["anomaly"].severity).all()
    assert np.isnan(found.answers["anomaly"].probabilities).all()
