"""Folds of train and the siblings calibrated on them: who is held out where, and what their answers may decide."""

import numpy as np
import pytest

from hf_inspect import files
from hf_inspect.calibrate import calibrate
from hf_inspect.cascade import CalibrationScores, Promise, composite_of, fit_composite
from hf_inspect.data import Rules, build, read_manifest, read_task
from hf_inspect.data.folds import images_of_fold
from hf_inspect.errors import DataError
from hf_inspect.scoring import read_rows
from hf_inspect.vlm import VLM
from tests.raw import classes
from tests.scripted import brightness_engine
from tests.test_calibrate import RISK, Own

OPTIONS = {"license": "cc0-1.0", "group_rule": r"(\d+)"}
PROMISE = Promise(0.05, 0.10, 0.95)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A set of 300 groups of a good part and a dented one, whole and as each of two folds."""
    folder = tmp_path_factory.mktemp("folds")
    classes(folder / "raw", {"dent": 300, "good": 300})
    for name, rules in (("whole", Rules()), ("first", Rules(fold="1/2")), ("second", Rules(fold="2/2"))):
        build("folder", folder / name, src=folder / "raw", options=OPTIONS, rules=rules)
    return folder


@pytest.fixture
def certify(built, tmp_path, monkeypatch):
    """Calibrates on one of the sets, into a folder of its name."""
    edge = brightness_engine(tmp_path / "edge", task=read_task(built / "whole"))
    files.write_json(tmp_path / "base" / "config.json", {"architectures": ["TinyForConditionalGeneration"]})
    files.write_bytes(tmp_path / "base" / "model.safetensors", b"\x02\0\0\0\0\0\0\0{}")
    monkeypatch.setattr(VLM, "from_pretrained", lambda *given: Own(read_task(built / "whole")))

    def run(name, siblings=(), **more):
        where = [tmp_path / sibling for sibling in siblings]
        calibrate(edge, (tmp_path / "base", None), built / name, tmp_path / name, siblings=where, **RISK | more)
        return tmp_path / name

    return run


def placed(folder):
    """Split and group of each image of a built set, by its content."""
    return {one["sha256"]: (one["split"], one["group"]) for one in read_manifest(folder)["images"]}


def test_every_group_of_train_is_held_out_once_and_nothing_else_is(built):
    whole, folds = placed(built / "whole"), [placed(built / name) for name in ("first", "second")]
    train = {content for content, (split, _) in whole.items() if split == "train"}
    held = [{content for content, (split, _) in fold.items() if split == "calibration"} for fold in folds]
    assert held[0] | held[1] == train
    assert not held[0] & held[1]
    assert abs(len(held[0]) - len(held[1])) <= 4
    for fold, out in zip(folds, held, strict=True):
        assert {content for content, (split, _) in fold.items() if split == "train"} == train - out
        assert {whole[one][1] for one in out}.isdisjoint({whole[one][1] for one in train - out})
        kept = {content for content, (split, _) in fold.items() if split == "validation"}
        assert kept == {content for content, (split, _) in whole.items() if split == "validation"}
        assert set(fold) == train | kept


def test_what_a_fold_leaves_out_is_accounted_for(built):
    manifest, whole = read_manifest(built / "first"), read_manifest(built / "whole")["counts"]["default"]
    n = sum(sum(whole[split].values()) for split in ("calibration", "test"))
    left = manifest["accounting"]["files"]["left_out"]
    assert left["images of calibration and test, which a fold does not have"]["n"] == n
    assert any("Fold 1/2" in note for note in manifest["notes"])


def test_a_fold_is_found_again_in_the_manifest_of_the_whole_in_whatever_order(built):
    images = read_manifest(built / "whole")["images"]
    assert images_of_fold(images, "2/2") == read_manifest(built / "second")["images"]
    turned = images_of_fold(images[::-1], "2/2")
    assert turned[::-1] == read_manifest(built / "second")["images"]


@pytest.mark.parametrize("fold", ["0/2", "3/2", "1", "1/1", "a/b", "-1/2", "1/2/3", ""])
def test_what_is_no_fold_is_a_sentence(fold):
    with pytest.raises(DataError, match="is no fold; the first of two is 1/2"):
        Rules(fold=fold)


def test_a_fold_has_no_folders_and_no_more_folds_than_groups(built, tmp_path):
    with pytest.raises(DataError, match="writes the test split, which a fold does not have"):
        build("folder", tmp_path / "x", src=built / "raw", options=OPTIONS, rules=Rules(fold="1/2"), folders=True)
    with pytest.raises(DataError, match=r"train has 16\d groups; give fewer folds"):
        build("folder", tmp_path / "x", src=built / "raw", options=OPTIONS, rules=Rules(fold="1/900"))


def test_siblings_answers_are_kept_and_choose_the_composite_with_validation(certify):
    certify("first"), certify("second")
    folder = certify("whole", ["first", "second"])
    rows = read_rows(folder / "calibration.jsonl")
    assert set(dict.fromkeys(row["split"] for row in rows)) == {
        "validation", "calibration", "out of fold 1/2", "out of fold 2/2"
    }  # fmt: skip
    promise = Promise(*RISK.values())
    of = [CalibrationScores.from_rows(rows, f"out of fold {fold}") for fold in ("1/2", "2/2")]
    fitting, sampled = (CalibrationScores.from_rows(rows, split) for split in ("validation", "calibration"))
    wanted = fit_composite(
        fitting.edge, fitting.cloud, fitting.labels, fitting.groups, promise, sampled.sizes,
        siblings=[(one.edge, one.cloud, one.labels, one.groups) for one in of],
    )  # fmt: skip
    assert composite_of(rows, promise) == wanted
    stated = files.read_json(folder / "cascade.json")["policies"]["certified"]["composite"]
    assert stated["edge_share"] == wanted.edge_share


def test_a_sibling_of_other_data_or_whose_answers_were_changed_is_refused(certify, built, tmp_path):
    other = certify("first")
    stated = files.read_json(other / "cascade.json")
    for change in ({"fold": "2/2"}, {"fold": None}, {"data": "0" * 64}):
        files.write_json(other / "cascade.json", stated | {"calibration": stated["calibration"] | change})
        with pytest.raises(DataError, match="was not calibrated on a fold of"):
            certify("whole", ["first"])
    files.write_json(other / "cascade.json", stated)
    rows = (other / "calibration.jsonl").read_text()
    (other / "calibration.jsonl").write_text(rows.replace('"good"', '"dent"', 1))
    with pytest.raises(DataError, match=r"is not the one that its cascade.json states"):
        certify("whole", ["first"])


def test_two_siblings_of_one_fold_are_refused(certify, tmp_path):
    certify("first").rename(tmp_path / "again")
    certify("first")
    with pytest.raises(DataError, match="Two siblings are of one fold"):
        certify("whole", ["first", "again"])
    assert not (tmp_path / "whole").exists()


def test_siblings_of_an_edge_alone_are_refused(certify, built, tmp_path):
    sibling = certify("first")
    with pytest.raises(DataError, match="no VLM is given; leave them out"):
        calibrate(tmp_path / "edge", None, built / "whole", tmp_path / "alone", siblings=[sibling], **RISK)


def test_the_whole_set_s_own_calibration_is_no_sibling_s(certify, tmp_path):
    certify("whole").rename(tmp_path / "first")
    with pytest.raises(DataError, match="was not calibrated on a fold of"):
        certify("whole", ["first"])


def sample(rng, n, edge_lies=0.0):
    """Severities of edge and VLM, labels and groups of n parts; of `edge_lies` of the defects the edge sees nothing."""
    y = (np.arange(n) % 3 == 0).astype(int)
    edge, vlm = (rng.normal(np.where(y, 2.0, -2.0), 1.0) for _ in range(2))
    edge[(y == 1) & (rng.random(n) < edge_lies)] -= 6
    return 1 / (1 + np.exp(-edge)), 1 / (1 + np.exp(-vlm)), y, np.arange(n)


def test_what_few_validation_parts_do_not_show_siblings_do():
    """The edge misses one defect in ten, and none of validation's: alone it says nothing against the edge."""
    rng = np.random.default_rng(3)
    validation = sample(rng, 240)
    blind = fit_composite(*validation, PROMISE, (122, 271))
    told = fit_composite(*validation, PROMISE, (122, 271), siblings=[sample(rng, 1400, edge_lies=0.1)])
    assert told.edge_share < blind.edge_share


def test_a_sibling_s_scale_is_its_own():
    """Its severities mean what its own parts say they mean; a monotone change of them decides nothing."""
    rng = np.random.default_rng(4)
    validation, (edge, vlm, y, groups) = sample(rng, 240), sample(rng, 900)
    odds = np.log(edge / (1 - edge))
    stretched = 1 / (1 + np.exp(-(0.3 * odds - 1)))
    one, other = (
        fit_composite(*validation, PROMISE, (122, 271), siblings=[(x, vlm, y, groups)]) for x in (edge, stretched)
    )
    assert one.edge_share == other.edge_share
    assert (one.early_good, one.early_defect) == pytest.approx((other.early_good, other.early_defect), abs=0.02)


def test_a_sibling_without_both_classes_or_a_vlm_is_a_sentence():
    rng = np.random.default_rng(5)
    validation, (edge, vlm, y, groups) = sample(rng, 240), sample(rng, 300)
    for given in ((edge, None, y, groups), (edge, vlm, np.zeros_like(y), groups)):
        with pytest.raises(DataError, match="A sibling answered for no good part"):
            fit_composite(*validation, PROMISE, (122, 271), siblings=[given])
