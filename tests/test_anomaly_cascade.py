"""An anomaly model as the edge of a cascade: with defects, from good parts alone, beside a VLM; measured and pushed."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from typer.testing import CliRunner

from hf_inspect import Inspector, files
from hf_inspect.anomaly import Settings, fit
from hf_inspect.calibrate import calibrate
from hf_inspect.cascade import (
    CalibrationScores,
    Composite,
    Promise,
    alone,
    composite_of,
    fit_certified,
    fit_composite,
    policy_from_dict,
)
from hf_inspect.cli import app
from hf_inspect.data import class_ids, load_split, read_task
from hf_inspect.errors import DataError
from hf_inspect.export import export
from hf_inspect.hub import check, pull
from hf_inspect.reports.evaluate import cascade_report, edge_report, named_classes, played
from hf_inspect.schema import Prediction, TaskSpec
from hf_inspect.scoring import Answers, Scores, read_rows
from tests import tiny_anomaly
from tests.serving import Brightness, serving
from tests.tiny_anomaly import RANDOM, SIDE

RISK = {"escape": 0.2, "overkill": 0.2}
NOTHING = "Of escapes nothing can be promised yet, and the system never says good: 0 calibration defects are too few"


def exported(folder, good, defects, shares):
    """A data set, and the export of a model that was fitted to its good parts."""
    data = tiny_anomaly.built_parts(folder, good, defects, shares)
    torch.manual_seed(0)
    fit(Settings(RANDOM, ("blocks.1",), SIDE, keep=0.95, smooth=2.0), data).save(folder / "model")
    export(folder / "model", folder / "edge", data=data)
    return data, folder / "edge"


def command(*given):
    done = CliRunner().invoke(app, list(map(str, given)))
    assert done.exit_code == 0, done.output
    return done.output


def calibrated(folder, data, edge):
    risks = [str(one) for name, risk in RISK.items() for one in (f"--{name}", risk)]
    return command("calibrate", "--edge", edge, "--data", data, "--out", folder / "cascade", *risks)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Parts and defects in every split, the edge, and a cascade of it."""
    folder = tmp_path_factory.mktemp("mixed")
    data, edge = exported(folder, 100, 80, "20/25/30/25")
    calibrated(folder, data, edge)
    return data, edge, folder / "cascade"


@pytest.fixture(scope="module")
def goods(tmp_path_factory):
    """Good parts alone, the edge, its cascade, and what calibrating it said."""
    folder = tmp_path_factory.mktemp("goods")
    data, edge = exported(folder, 120, 0, "20/25/35/20")
    return data, edge, folder / "cascade", calibrated(folder, data, edge)


def contents(data, split, name):
    rows, task = load_split(data, split), read_task(data)
    own = np.array(class_ids(rows, task)) == task.index(name)
    return [image["bytes"] for image, here in zip(rows["image"], own, strict=True) if here]


def verdicts(cascade, images, **settings):
    return list(Inspector.from_pretrained(cascade, **settings).inspect(images))


def test_with_defects_it_decides_both_sides_and_says_where(mixed):
    data, _, cascade = mixed
    stated = files.read_json(cascade / "cascade.json")
    assert (stated["task"]["kind"], list(stated["policies"])) == ("anomaly", ["certified"])
    assert stated["maps"]["low"] < stated["maps"]["high"]
    for name, side in (("good", "good"), ("blot", "defect")):
        found = verdicts(cascade, contents(data, "test", name))
        labels = [one.label for one in found]
        assert labels.count(side) >= 0.8 * len(labels)
        assert all(one.evidence["edge"].map.shape == (SIDE, SIDE) for one in found)
        assert all(one.class_name == one.label for one in found if one.decided_by == "edge")
        row = found[0].to_dict()["evidence"]["edge"]
        assert row["map_highest"] == pytest.approx(float(found[0].evidence["edge"].map.max()))
        assert "map" not in row


def test_good_parts_alone_promise_overkill_and_of_escapes_nothing(goods, mixed):
    data, _, cascade, said = goods
    policy = Inspector.from_pretrained(cascade).policy
    assert (policy.composite, policy.limits.low, policy.limits.defects) == (Composite(None), None, 0)
    for words in (
        NOTHING, "for an escape of at most 20.00%, it takes 17.",
        "The system says defect to at most 20.00% of good parts: above",
        "This bound holds with confidence 97.50%", "All else is undecided: a person looks.",
        "With the fallback 'pass' such parts may be escapes",
    ):  # fmt: skip
        assert words in policy.statement
        assert words in said
    assert "both with" not in policy.statement
    bad = contents(mixed[0], "test", "blot")
    found = verdicts(cascade, [*contents(data, "test", "good"), *bad])
    assert {one.label for one in found} == {"undecided", "defect"}
    assert [one.label for one in found[-len(bad) :]].count("defect") >= 0.9 * len(bad)
    assert {one.reason for one in found if one.label == "undecided"} == {
        "not above the defect limit, and too few calibration defects to say good"
    }
    shipped = verdicts(cascade, contents(data, "test", "good"), fallback="pass")
    assert {(one.label, one.decided_by) for one in shipped} <= {("good", "rule"), ("defect", "edge")}


def test_a_plan_says_how_many_defects_are_wanted(goods, tmp_path):
    given = ["--scores", goods[2] / "calibration.jsonl", "--escape", 0.2, "--overkill", 0.2, "--prevalence", 0.01]
    said = command("plan", *given, "--plot", tmp_path / "plan.png")
    assert "until 17 more labelled defects are in the calibration split, of escapes nothing can be promised" in said
    assert "With these scores no part is called good, so none is shipped unless a person says so." in said
    assert "| 0 | 42 |" in said
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("which", ["mixed", "goods"])
def test_it_is_measured_described_pushed_and_comes_back(which, request, hub, tmp_path):
    data, _, cascade, *_ = request.getfixturevalue(which)
    results, picture = cascade / "results.json", tmp_path / "roc.png"
    said = command("eval", "cascade", cascade, "--data", data, "--out", results, "--plot", picture)
    assert "cascade `certified`" in said
    assert "Its severity is " in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    measured = files.read_json(results)
    assert (measured["edge"]["kind"], "classes" in measured["edge"]) == ("anomaly", False)
    assert measured["cascade"]["certified"]["overkill"]["low"] <= RISK["overkill"]
    command("card", cascade)
    card = (cascade / "README.md").read_text()
    assert ("nothing promised yet" in card, NOTHING in card) == (which == "goods", which == "goods")
    assert "(promised: at most 20.0%), of the good parts" in card or which == "goods"
    assert "edge/openvino_model.bin" in check(cascade)
    command("push", cascade, "acme/anomaly")
    back = pull("acme/anomaly")
    images = [row["image"]["bytes"] for row in load_split(data, "test")][:12]
    one, two = verdicts(cascade, images), verdicts("acme/anomaly", images)
    assert [(a.label, a.severity) for a in one] == [(b.label, b.severity) for b in two]
    assert files.read_json(back / "cascade.json") == files.read_json(cascade / "cascade.json")


class Blots(Brightness):
    """A VLM of the data set's own classes that sees how much of an image is dark."""

    def predict(self, images):
        dark = [float(np.clip(0.1 + 6 * (image < 60).mean(), 0.0, 0.95)) for image in images]
        return [Prediction(x, tuple(x if one == "defect" else 1 - x for one in self.task.dispositions)) for x in dark]


def test_it_is_fused_with_a_vlm_that_names_the_class(mixed, tmp_path):
    data, edge, _ = mixed
    with serving(Blots(read_task(data))) as url:
        stated = calibrate(edge, url, data, tmp_path / "both", **RISK)
        assert TaskSpec.from_dict(stated["vlm_task"], "cascade.json").same_as(read_task(data))
        forced = fused(tmp_path / "both", stated)
        inspector = Inspector.from_pretrained(tmp_path / "both", vlm=url, deadline=20)
        inspector.policy = forced
        found = list(inspector.inspect(contents(data, "test", "blot")))
    named = {(one.label, one.class_name) for one in found if one.decided_by == "both"}
    assert ("defect", "blot") in named
    with pytest.raises(DataError, match="answer different questions"):
        Inspector(inspector.edge, forced, vlm=Blots(TaskSpec.of(["crack", "dent"], [])))
    Inspector(inspector.edge, forced, vlm=inspector.edge)


def fused(cascade, stated):
    """The policy of a cascade's own scores that asks the VLM about every part."""
    policy = policy_from_dict(stated["policies"]["certified"])
    rows = read_rows(cascade / "calibration.jsonl")
    composite = composite_of(rows, policy.promise)
    if composite.vlm is None:
        platt = dataclasses.replace(composite.edge, slope=1.0, intercept=0.0)
        composite = Composite(composite.edge, platt, dataclasses.replace(platt, scale="plain"), 0.5)
    composite = dataclasses.replace(composite, early_good=None, early_defect=None)
    return CalibrationScores.from_rows(rows).certified(composite, policy.promise)


def test_the_overkill_promised_from_good_parts_alone_holds_as_often_as_stated():
    """Distances of no known scale: of 1,000 redraws of 60 good parts, at most 2.5 % may reject more than 10 %."""
    rng, promise = np.random.default_rng(0), Promise()
    population = np.sort(rng.lognormal(3, 2, 200_000))
    assert fit_composite(population[:50], None, np.zeros(50, int), np.arange(50), promise, (0, 60)) == Composite(None)
    held = []
    for _ in range(1000):
        limits = alone(rng.choice(population, 60), np.zeros(60, int), np.arange(60), promise)
        assert limits.low is None
        held.append(1 - np.searchsorted(population, limits.high, "right") / len(population) <= promise.overkill)
    assert binomtest(sum(held), 1000, 0.975, alternative="less").pvalue > 0.001


def test_a_distance_is_no_share_even_where_all_are_small():
    rng = np.random.default_rng(1)
    rows = [
        {"split": split, "label": side, "group": i, "edge": {"severity": float(x)}}
        for split in ("validation", "calibration")
        for i, (side, x) in enumerate([("good", x) for x in rng.uniform(0.01, 0.3, 40)]
                                      + [("defect", x) for x in rng.uniform(0.2, 0.9, 40)])
    ]  # fmt: skip
    scales = [composite_of(rows, Promise(), distance).edge.scale for distance in (False, True)]
    assert scales == ["odds", "plain"]


def test_where_no_class_is_known_right_is_the_side():
    """Of two kinds of defects an anomaly model names none: its good and defect count, and no class is made up."""
    task = TaskSpec.of(["crack", "good", "dent"], ["good"])
    classes, severity = np.array([0, 1, 2, 2, 1]), np.array([0.9, 0.1, 0.8, 0.2, np.nan])
    nothing = np.full((5, 3), np.nan)
    scores = Scores(
        task, None, np.arange(5), list("abcde"), classes, np.arange(5), np.full(5, np.nan),
        {"edge": Answers(severity, nothing)}, [], "",
    )  # fmt: skip
    y = np.repeat([1, 0], 200)
    policy = alone_policy(np.where(y, 0.6, 0.3) + np.tile(np.linspace(-0.1, 0.1, 200), 2), y)
    assert named_classes(scores, played(scores, policy)).tolist() == [-1] * 5
    report = cascade_report(scores, policy, 0.5)
    assert (report["accuracy"]["k"], report["minus_edge_only"]["value"]) == (3, 0.0)
    assert "minus_edge_only" not in cascade_report(scores, policy, None)
    assert edge_report(scores, 0.5)["accuracy"]["k"] == 3


def alone_policy(severity, labels):
    return fit_certified(Composite(None), severity, None, labels, np.arange(len(labels)), Promise())


def test_a_policy_of_the_edge_s_own_severity_comes_back_as_it_was():
    policy = alone_policy(np.linspace(1, 500, 100), np.zeros(100, int))
    assert policy_from_dict(policy.to_dict()) == policy
    assert policy.first([600.0, 3.0]).codes.tolist() == [1, -1]
    assert policy.limits.high < 500
