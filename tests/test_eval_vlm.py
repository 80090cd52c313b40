"""The evaluation of a VLM: its answers survive a kill, figures of n classes in any order, pictures and tables."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_inspect import demo, files, prompts
from hf_inspect.cli import main
from hf_inspect.data import build, questions_of, read_manifest, read_task, record_history, write_history
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.metrics import class_report, fit_temperature, softmax, with_temperature
from hf_inspect.reports import evaluate_vlm, model_summary, results_table, timing, vlm_table, write_comparison
from hf_inspect.schema import TaskSpec
from hf_inspect.scoring import read_rows
from hf_inspect.vlm import VLM, Asking
from tests import raw, tiny
from tests.test_solar import COUNTS as SOLAR_COUNTS

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "model_cards" / "examples" / "elpv_vlm"
FIGURES = ("accuracy", "auroc", "escapes", "overkill", "macro_f1", "calibration")


@pytest.fixture(scope="module")
def solar(tmp_path_factory):
    """Six classes of 20 images each."""
    folder, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("solar") / "data"
    raw.classes(folder / "panels", dict.fromkeys(SOLAR_COUNTS, 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(folder / ".cache"))
        build("solar_panels", out, src=folder, accept_license=True)
    return out


@pytest.fixture
def data(solar, tmp_path):
    return shutil.copytree(solar, tmp_path / "data")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(tiny.loud_base(tmp_path_factory.mktemp("base") / "base"))


@pytest.fixture(scope="module")
def adapter(base, solar, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapter") / "adapter"
    tiny.random_adapter(Path(base), out, questions_of(solar).question())
    return out


@pytest.fixture
def plain(monkeypatch):
    """float32, so that figures do not depend on which images share a batch."""
    monkeypatch.setattr("hf_inspect.vlm.model.fast_dtype", lambda: torch.float32)


@pytest.fixture
def asked(monkeypatch):
    """How many images each forward was asked about."""
    counts, log_p = [], VLM.log_p

    def counting(self, inputs):
        counts.append(len(inputs["input_ids"]) // self.asking.rows)
        if len(counts) == counting.dies_at:
            raise KeyboardInterrupt
        return log_p(self, inputs)

    counting.dies_at = None
    monkeypatch.setattr(VLM, "log_p", counting)
    monkeypatch.setattr("hf_inspect.scoring._AT_ONCE", 8)
    return counts, counting


def spoil(data, split, at):
    """Cut the image `at` of a split's Parquet short; returns its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (path,) = (data / "data").glob(f"*{split}*.parquet")
    table = pq.read_table(path)
    column = table.column("image").to_pylist()
    column[at]["bytes"] = column[at]["bytes"][:40]
    place = table.schema.get_field_index("image")
    field = table.schema.field("image")
    pq.write_table(table.set_column(place, field, pa.array(column, field.type)), path)
    return column[at]["path"]


def test_six_classes_end_to_end_beside_zero_shot(data, base, adapter, tmp_path, capsys, monkeypatch, plain):
    plot = tmp_path / "plot.png"
    run = ["hf-inspect", "eval", "vlm", "--model", base, "--data", str(data)]
    for more in (["zero"], ["adapter", "--adapter", str(adapter), "--plot", str(plot)]):
        name, *options = more
        options += ["--beside", str(tmp_path / "zero.json")] if options else []
        monkeypatch.setattr("sys.argv", [*run, "--out", str(tmp_path / f"{name}.json"), *options])
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    assert "VLM zero-shot" in printed
    assert "VLM with adapter" in printed
    assert "| Snow-Covered |" in printed
    assert "images of validation" in printed
    zero, own = (files.read_json(tmp_path / f"{name}.json") for name in ("zero", "adapter"))
    n = sum(read_manifest(data)["counts"]["default"]["test"].values())
    task = read_task(data)
    for results in (zero, own):
        report = results["vlm"]
        assert results["task"] == task.to_dict() == report["question"]["task"]
        assert report["n"] == n == np.sum(report["confusion"]["counts"])
        assert list(report["classes"]) == list(task.classes) == list(SOLAR_COUNTS)
        assert sum(one["recall"]["k"] for one in report["classes"].values()) == report["accuracy"]["k"]
        assert sum(one["precision"]["n"] for one in report["classes"].values()) == n
        assert report["escapes"]["n"] + report["overkill"]["n"] == n
        assert report["overkill"]["n"] == results["data"]["counts"]["Clean"]
        assert report["calibration"]["fitted_on"]["split"] == "validation"
        assert results["environment"]["versions"]["torch"]
    assert (zero["vlm"]["adapter"], own["vlm"]["adapter"]) == (None, adapter.name)
    assert zero["vlm"]["identity"] != own["vlm"]["identity"]
    of_base = files.sha256(Path(base) / "model.safetensors")
    of_adapter = files.sha256(adapter / "adapter_model.safetensors")
    assert zero["inputs"]["models"] == {"model.safetensors": of_base}
    assert own["inputs"]["models"] == {"adapter_model.safetensors": of_adapter}
    assert not [path for path in (base, str(adapter)) if path in json.dumps([zero, own])]
    assert [r["data"]["evaluations_of_this_split"] for r in (zero, own)] == [1, 2]
    assert min(Image.open(plot).size) >= 600


def evaluated(base, data, out, *, adapter=None, split="test", **how):
    asking = Asking(**{"batch_size": 4} | how)
    return evaluate_vlm(base, adapter and str(adapter), data, split, out, asking=asking)


def test_a_killed_evaluation_goes_on_and_asks_no_image_twice(data, base, tmp_path, asked, plain, monkeypatch):
    counts, switch = asked
    monkeypatch.setattr(timing, "speed", lambda inspect, sample: {})  # which asks about some images again
    undisturbed = evaluated(base, data, tmp_path / "whole.jsonl")["vlm"]
    whole, out = sum(counts), tmp_path / "scores.jsonl"
    counts.clear()
    switch.dies_at = 5
    with pytest.raises(KeyboardInterrupt):
        evaluated(base, data, out)
    switch.dies_at = None
    kept = len(read_rows(out)) - 1
    with out.open("a") as file:
        file.write('{"source": "ind')  # torn by the kill
    counts.clear()
    again = evaluated(base, data, out)["vlm"]
    assert kept > 0
    assert sum(counts) == whole - kept
    for key in FIGURES:
        assert json.dumps(again[key]) == json.dumps(undisturbed[key])
    counts.clear()
    assert json.dumps(evaluated(base, data, out, batch_size=16)["vlm"]["auroc"]) == json.dumps(again["auroc"])
    assert not counts  # all is there, and the number of images in a batch is no other question


def test_an_evaluation_that_is_read_again_is_counted_once(data, base, tmp_path, asked, plain):
    def times(out):
        return evaluated(base, data, tmp_path / out, batch_size=16)["data"]["evaluations_of_this_split"]

    assert [times("a.jsonl"), times("a.jsonl")] == [1, 1]
    assert [times("b.jsonl"), times("a.jsonl")] == [2, 2]
    (tmp_path / "a.jsonl").unlink()
    assert times("a.jsonl") == 3
    counts, switch = asked
    counts.clear()
    switch.dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        times("killed.jsonl")
    switch.dies_at = None
    assert [times("killed.jsonl"), times("killed.jsonl")] == [4, 4]


@pytest.mark.parametrize("how", [{"crops": 5}, {"normalise": True}, {"imgsz": 96}, {"mode": "generate"}])
def test_scores_of_another_way_to_ask_are_refused(data, base, tmp_path, plain, how):
    out = tmp_path / "scores.jsonl"
    evaluated(base, data, out, split="validation")
    with pytest.raises(DataError, match=r"another run \(other predictors\)"):
        evaluated(base, data, out, split="validation", **how)


def test_no_order_of_an_adapter_s_classes_changes_a_figure(data, base, solar, tmp_path, plain):
    """The same words and weights, trained on the classes in three orders: every figure by class name is the same."""
    question, found = questions_of(solar).question(), []
    names = question.task.classes
    for i, order in enumerate((names, names[::-1], (*names[3:], *names[:3]))):
        out = tmp_path / f"adapter{i}"
        task = TaskSpec.of(order, question.task.good)
        tiny.random_adapter(Path(base), out, prompts.Question(question.system, question.text, task))
        results = evaluated(base, data, tmp_path / f"{i}.jsonl", adapter=out)
        found.append([json.dumps(results["vlm"][key]) for key in (*FIGURES, "classes", "confusion")])
        assert files.read_json(out / "prompt.json")["task"]["classes"][0]["name"] == order[0]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_broken_image_is_listed_and_the_others_are_scored(data, base, solar, tmp_path, batch_size, plain):
    adapter, history = tmp_path / "adapter", record_history(solar, {"train": None})
    tiny.random_adapter(Path(base), adapter, questions_of(solar).question(), history=history)
    name = spoil(data, "test", 7)
    results = evaluated(base, data, tmp_path / "scores.jsonl", adapter=adapter, batch_size=batch_size)
    report = results["vlm"]
    assert report["n"] == sum(results["data"]["counts"].values()) - 1
    ((source, reason),) = [one.values() for one in report["not_scored"]]
    assert source == name
    assert "damaged image" in reason
    assert f"1 images could not be read and are not in n:\n  {name}" in model_summary(report)


def test_generated_answers_are_read_exactly(data, base, tmp_path, monkeypatch, plain):
    said = iter(["Clean", " Dusty\n", "Clean panel", "clean"] * 40)
    monkeypatch.setattr(VLM, "generate", lambda self, inputs: [next(said) for _ in inputs["input_ids"]])
    report = evaluated(base, data, tmp_path / "scores.jsonl", mode="generate")["vlm"]
    assert report["unreadable"]["k"] == report["n"] // 2 == sum(row[-1] for row in report["confusion"]["counts"])
    assert report["accuracy"]["n"] == report["n"]
    assert report["calibration"] == {"why": "generated answers carry no probability"}
    assert "could not be read and count as wrong" in model_summary(report)


def test_no_temperature_is_fitted_on_the_split_measured(data, base, tmp_path, plain):
    report = evaluated(base, data, tmp_path / "scores.jsonl", split="validation")["vlm"]
    assert report["calibration"]["why"] == "the split measured is the one it would be fitted on"
    assert 0 <= report["calibration"]["error"] <= 1


def test_two_classes_defect_first_have_their_escapes_the_right_way_round(elpv, base, tmp_path, plain):
    data = shutil.copytree(elpv, tmp_path / "elpv")
    asked = questions_of(elpv).question()
    reports = []
    for names in (("good", "defect"), ("defect", "good")):
        own = tmp_path / names[0]
        task = TaskSpec.of(names, good=["good"])
        tiny.random_adapter(Path(base), own, prompts.Question(asked.system, asked.text, task))
        out = tmp_path / f"{names[0]}.jsonl"
        results = evaluated(base, data, out, adapter=own, split="validation", batch_size=64)
        reports.append(results["vlm"])
        rows = [row for row in read_rows(out)[1:] if row["class"] == "defect"]
        passed = sum(row["vlm"]["probabilities"][0] > 0.5 for row in rows)  # the data set's order: good first
        assert results["vlm"]["escapes"]["k"] == passed
        assert results_table(results).splitlines()[2].startswith("| VLM with adapter |")
    report = reports[0]
    assert report["escapes"]["n"] == results["data"]["counts"]["defect"]
    assert report["escapes"]["k"] + report["overkill"]["k"] == report["n"] - report["accuracy"]["k"]
    assert 0 < report["escapes"]["k"] + report["overkill"]["k"] < report["n"]
    assert report["auroc"]["n"] == report["n"]
    for key in FIGURES:
        assert json.dumps(reports[0][key]) == json.dumps(reports[1][key])


@pytest.mark.parametrize("broken", [("ok", "no"), ("good", "defect", "dirty")])
def test_an_adapter_of_other_classes_is_refused_with_both_printed(elpv, base, tmp_path, plain, broken):
    own = tmp_path / "adapter"
    tiny.random_adapter(Path(base), own, prompts.Question("Look.", "Good?", TaskSpec.of(broken, good=broken[:1])))
    with pytest.raises(DataError, match=rf"(?s)answer different questions.*defect \(defect\).*{broken[1]}"):
        evaluated(base, elpv, tmp_path / "scores.jsonl", adapter=own, split="validation")


def test_an_image_that_the_base_or_the_adapter_saw_is_refused(data, base, solar, tmp_path, plain):
    history, question = record_history(solar, {"test": None}), questions_of(solar).question()
    own = tmp_path / "adapter"
    tiny.random_adapter(Path(base), own, question, history=history)
    with pytest.raises(LeakageError, match=r"\w.*, .*\w.*, .*\w.*, \.\.\."):
        evaluated(base, data, tmp_path / "a.jsonl", adapter=own)
    tuned = shutil.copytree(base, tmp_path / "tuned")
    write_history(tuned, history)
    plain_adapter = tmp_path / "plain"
    tiny.random_adapter(tuned, plain_adapter, question)
    with pytest.raises(LeakageError, match="an ancestor of it was trained on"):
        evaluated(str(tuned), data, tmp_path / "b.jsonl", adapter=plain_adapter)
    (tuned / "trained_on.json").unlink()
    report = evaluated(str(tuned), data, tmp_path / "c.jsonl", adapter=plain_adapter)["vlm"]
    assert report["history"]["unknown"] == ["tuned"]
    assert "Not known is what tuned saw" in model_summary(report)


def test_a_temperature_lowers_the_likelihood_s_loss_and_keeps_the_answers():
    rng = np.random.default_rng(0)
    p = softmax(rng.normal(0, 1, (500, 3)))
    labels = [rng.choice(3, p=row) for row in p]
    sure = with_temperature(p, 0.25)
    assert fit_temperature(sure, labels) == pytest.approx(4, rel=0.2)
    assert (sure.argmax(1) == p.argmax(1)).all()


def test_a_class_report_adds_up():
    report = class_report([0, 0, 1, 2], [0, 1, -1, 2], ["a", "b", "c"])
    assert report["confusion"]["counts"] == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert (report["accuracy"]["k"], report["unreadable"]["k"]) == (2, 1)
    assert (report["classes"]["a"]["recall"]["value"], report["classes"]["b"]["precision"]["n"]) == (0.5, 1)
    assert report["classes"]["b"]["precision"]["value"] == 0
    for labels, answers in (([3], [0]), ([0], [3]), ([0, 1], [0])):
        with pytest.raises(DataError):
            class_report(labels, answers, ["a", "b", "c"])


def test_results_of_other_splits_or_of_the_same_kind_are_not_drawn(tmp_path):
    report = {"adapter": None, "crops": 1, "mode": "rank", "history": {"data": []}}
    one = {"data": {"fingerprint": "x", "split": "test"}, "vlm": report}
    for other, message in ((one, "differ in"), (one | {"data": {"fingerprint": "y", "split": "test"}}, "same split")):
        files.write_json(tmp_path / "other.json", other)
        with pytest.raises(DataError, match=message):
            write_comparison(tmp_path / "plot.png", one, tmp_path / "other.json")


def test_readme_s_table_and_picture_are_made_from_the_committed_results(tmp_path):
    names = ("zero_shot_1", "zero_shot_5", "adapter_1", "adapter_5")
    results = {name: files.read_json(EXAMPLES / f"{name}.json") for name in names}
    readme = (ROOT / "README.md").read_text()
    table = readme.split("<!-- vlm -->\n")[1].split("\n<!-- /vlm -->")[0]
    assert table == vlm_table(one["vlm"] for one in results.values())
    assert len({json.dumps([one["data"]["fingerprint"], one["data"]["split"]]) for one in results.values()}) == 1
    own = files.sha256(demo.assets() / "adapter" / "adapter_model.safetensors")
    measured = [one["inputs"]["models"].get("adapter_model.safetensors") for one in results.values()]
    assert measured == [None, None, own, own]
    write_comparison(tmp_path / "classes.png", results["adapter_1"], EXAMPLES / "zero_shot_1.json")
    kept, made = (np.asarray(Image.open(p / "classes.png").convert("L"), float) for p in (EXAMPLES, tmp_path))
    assert kept.shape == made.shape
    assert np.abs(kept - made).mean() < 1.0  # of 255: another matplotlib may set letters otherwise
