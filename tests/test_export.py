import json
import shutil
import sys
from contextlib import nullcontext

import numpy as np
import pytest

from hf_inspect import files
from hf_inspect.data import load_split, write_history
from hf_inspect.errors import DataError, MissingExtraError, ParityError
from hf_inspect.export import export_student
from hf_inspect.export import student as command
from hf_inspect.export.int8 import CALIBRATION_IMAGES, ranks, stratified
from hf_inspect.export.parity import FP32, INT8, described, refuse_beyond, refuse_few
from hf_inspect.images import load
from hf_inspect.runtime import INSPECT, MODEL, TRAINED_ON, Engine
from hf_inspect.schema import BINARY, History, TaskSpec
from hf_inspect.students import load_student, new_student
from hf_inspect.tasks import TASKS
from hf_inspect.tasks.classification import of_probabilities
from tests import tiny_edge


@pytest.fixture(scope="module")
def contents():
    return [row["bytes"] for row in load_split(tiny_edge.data(), "validation")["image"]]


def severities(folder, contents):
    """P(defect) of an exported folder's engine, an image."""
    return np.array([answer.severity for answer in Engine.from_pretrained(folder).predict(contents)])


@pytest.fixture(scope="module")
def by_pipeline(contents):
    """P(defect) of the torch student by transformers' own pipeline and preprocessing."""
    from PIL import Image
    from transformers import pipeline

    ask = pipeline("image-classification", model=str(tiny_edge.student()), device="cpu")
    answers = ask([Image.fromarray(load(content).rgb) for content in contents], top_k=2)
    return np.array([next(a["score"] for a in answer if a["label"] == "defect") for answer in answers])


def test_fp32_answers_as_the_pipeline_of_transformers(contents, by_pipeline):
    found = severities(tiny_edge.exported(int8=False), contents)
    assert len(found) == 120
    np.testing.assert_allclose(found, by_pipeline, atol=1e-4)
    assert 40 < (found > 0.5).sum() < 80


def test_int8_stays_within_its_limits(contents, by_pipeline):
    folder = tiny_edge.exported(int8=True)
    found = severities(folder, contents)
    report = json.loads((folder / INSPECT).read_text())["parity"]
    assert report["flips"] == {"k": int(((found > 0.5) != (by_pipeline > 0.5)).sum()), "n": 120}
    assert report["flips"]["k"] <= 1
    assert report["max_change"] == pytest.approx(np.abs(found - by_pipeline).max(), abs=1e-4)
    assert report["max_change"] > 1e-3, "the weights are not quantized"
    assert report["thresholds"][0]["at"] == 0.5
    assert len(report["thresholds"]) == 3
    for one in report["thresholds"]:
        assert (one["passed"]["n"], one["rejected"]["n"]) == (60, 60)
        assert max(one["passed"]["k"], one["rejected"]["k"]) <= 1
    assert report["accuracy"]["before"]["k"] - report["accuracy"]["after"]["k"] <= 0.005 * 120
    sizes = [(tiny_edge.exported(int8) / "openvino_model.bin").stat().st_size for int8 in (True, False)]
    assert sizes[0] < 0.4 * sizes[1]


@pytest.mark.parametrize("folder", [tiny_edge.exported, lambda int8: files.shipped("assets") / "elpv" / "edge_int8"])
def test_int8_weights_take_half_of_the_range(folder):
    """A processor without VNNI adds pairs of products up in 16 bits: 2 * 255 * 64 fits in, 2 * 255 * 127 does not."""
    import openvino

    network = openvino.Core().read_model(folder(int8=True) / MODEL)
    constants = [one for one in network.get_ops() if one.get_type_name() == "Constant"]
    weights = [one.data.astype(int) for one in constants if one.get_element_type() == openvino.Type.i8]
    assert len(weights) >= 10
    largest = max(np.abs(one).max() for one in weights)
    assert 32 < largest <= 64


@pytest.mark.parametrize("int8", [False, True])
def test_inspect_json_says_everything(int8):
    folder = tiny_edge.exported(int8)
    info = json.loads((folder / INSPECT).read_text())
    assert (info["format"], info["task"]) == (2, BINARY.to_dict())
    assert info["weights"] == ("int8" if int8 else "fp32")
    assert (info["precision"], info["licence"]) == ("f32", "cc0-1.0")
    assert info["trained_on"] == {"data": [{"name": "tiny", "fingerprint": "f" * 64, "images": 96}], "unknown": []}
    assert (info["preprocess"]["height"], info["preprocess"]["mean"]) == (tiny_edge.SIDE, [0.5, 0.5, 0.5])
    assert set(info["files"]) == {MODEL, "openvino_model.bin", TRAINED_ON}
    assert info["parity"]["limits"]["flips"] == (0.01 if int8 else 0.0)
    assert info["parity"]["data"] == "f" * 64
    assert (folder / TRAINED_ON).read_text() == (tiny_edge.student() / TRAINED_ON).read_text()


@pytest.mark.parametrize("int8", [False, True])
def test_optimums_own_class_opens_the_folder(int8, contents):
    from optimum.intel import OVModelForImageClassification
    from PIL import Image
    from transformers import AutoConfig, AutoImageProcessor

    folder = tiny_edge.exported(int8)
    model = OVModelForImageClassification.from_pretrained(folder, ov_config={"INFERENCE_PRECISION_HINT": "f32"})
    inputs = AutoImageProcessor.from_pretrained(folder)([Image.fromarray(load(c).rgb) for c in contents[:8]])
    theirs = model(**inputs).logits.softmax(-1)[:, 1].numpy()
    np.testing.assert_allclose(severities(folder, contents[:8]), theirs, atol=1e-4)
    assert model.config.id2label == AutoConfig.from_pretrained(folder).id2label == {0: "good", 1: "defect"}


# The gate.


def broken_preprocessing(monkeypatch, **changes):
    """Make the export state another preprocessing than the student's."""
    honest = command._describe

    def describe(*arguments):
        info = honest(*arguments)
        return info | {"preprocess": info["preprocess"] | changes}

    monkeypatch.setattr(command, "_describe", describe)


def test_wrong_preprocessing_is_caught_and_nothing_written(tmp_path, monkeypatch):
    broken_preprocessing(monkeypatch, std=[0.4, 0.5, 0.5])
    with pytest.raises(ParityError, match=r"P\(class\) changes by up to .*Nothing was written"):
        export_student(tiny_edge.student(), tmp_path / "out", data=tiny_edge.data(), int8=False)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_export_leaves_the_older_one(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with files.staged_folder(out) as stage:
        (stage / INSPECT).write_text("older")
    broken_preprocessing(monkeypatch, mean=[0.9, 0.9, 0.9])
    with pytest.raises(ParityError):
        export_student(tiny_edge.student(), out, data=tiny_edge.data(), int8=False)
    assert {p.name for p in out.iterdir()} == {INSPECT, files.MARKER}
    assert (out / INSPECT).read_text() == "older"


def test_ranges_that_clip_defects_are_caught(tmp_path, monkeypatch):
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

    monkeypatch.setattr(Ranges, "MINMAX", Ranges.MEAN_MINMAX)  # NNCF's default
    with pytest.raises(ParityError, match=r"decisions flip .*accuracy falls by .*Nothing was written; keep FP32"):
        export_student(tiny_edge.student(), tmp_path / "out", data=tiny_edge.data(), int8=True)
    assert list(tmp_path.iterdir()) == []


def report(flips, change, lost, n=400):
    accuracy = {"before": {"k": 350}, "after": {"k": 350 - lost}}
    return {"flips": {"k": flips, "n": n}, "max_change": change, "accuracy": accuracy, "thresholds": [], "classes": {}}


@pytest.mark.parametrize(
    ("limits", "passes"), [(FP32, report(0, 1e-3, 0)), (INT8, report(4, 0.9, 2)), (INT8, report(0, 0.0, -3))]
)
def test_the_limits_themselves_pass(limits, passes, tmp_path):
    refuse_beyond(passes, limits, tmp_path)


@pytest.mark.parametrize(
    ("limits", "breaks", "words"),
    [
        (FP32, report(1, 1e-4, 0), r"1 of 400 decisions flip \(0\.25%; limit 0\.00%\)"),
        (FP32, report(0, 1.1e-3, 0), r"P\(class\) changes by up to 0\.0011 \(limit 0\.001\)"),
        (FP32, report(0, float("nan"), 0), "changes by up to nan"),
        (INT8, report(5, 0.2, 0), r"5 of 400 decisions flip \(1\.25%; limit 1\.00%\)"),
        (INT8, report(3, 0.2, 3), r"accuracy falls by 3 of 400 \(0\.75%; limit 0\.50%\)"),
    ],
)
def test_a_broken_limit_is_named(limits, breaks, words, tmp_path):
    with pytest.raises(ParityError, match=words):
        refuse_beyond(breaks, limits, tmp_path)


def compared(before, after, defect):
    """The report of severities (n,) before and after an export, of the task good and defect."""
    answers = [of_probabilities(np.stack([1 - p, p], 1), BINARY) for p in (before, after)]
    return TASKS[BINARY.kind].compare(BINARY, defect.astype(np.int64), *answers) | {"split": "validation"}


@pytest.fixture
def lopsided():
    """Severities of 990 good parts and 10 defects, well apart but for what a test moves; which are defects."""
    defect = np.arange(1000) < 10
    return np.where(defect, 0.9, 0.1) + np.random.default_rng(0).uniform(-0.02, 0.02, 1000), defect


def test_half_of_few_defects_do_not_pass_for_being_few_among_all(lopsided, tmp_path):
    before, defect = lopsided
    after = np.where(np.arange(1000) < 5, 0.45, before)
    found = compared(before, after, defect)
    assert found["flips"]["k"] <= INT8.flips * 1000
    lost = found["accuracy"]["before"]["k"] - found["accuracy"]["after"]["k"]
    assert lost <= INT8.accuracy_fall * 1000
    words = r"5 of 10 \(50\.0%; 18\.7% to 81\.3%\) defects newly pass at severity 0\.5 .*; limit 2%\)"
    with pytest.raises(ParityError, match=words):
        refuse_beyond(found, INT8, tmp_path)
    assert "5 of 10 (50.0%" in described(found)


def test_good_parts_are_counted_by_themselves_too(lopsided, tmp_path):
    before, defect = 1 - lopsided[0], ~lopsided[1]  # ten good parts among 1,000
    after = np.where(np.arange(1000) < 3, 0.55, before)
    with pytest.raises(ParityError, match=r"3 of 10 \(30\.0%.*\) good parts are newly rejected at severity 0\.5 "):
        refuse_beyond(compared(before, after, defect), INT8, tmp_path)


def test_what_moves_at_a_cascade_s_threshold_counts_though_nothing_does_at_a_half(tmp_path):
    """40 defects from 0.2 to 0.98: a cascade at an escape of 5 % decides between the second and the third of them."""
    defect = np.arange(240) < 40
    before = np.where(defect, np.linspace(0.2, 0.98, 40)[np.arange(240) % 40], 0.05)
    after = np.where(defect & (before < 0.45), before - 0.12, before)
    found = compared(before, after, defect)
    assert found["flips"]["k"] == 0
    at_half, low, high = found["thresholds"]
    assert (at_half["at"], at_half["passed"]["k"]) == (0.5, 0)
    inner = np.sort(before[defect])
    assert low["at"] == pytest.approx((inner[1] + inner[2]) / 2)
    assert low["passed"]["k"] == ((before >= low["at"]) & (after < low["at"]) & defect).sum() > 1
    with pytest.raises(ParityError, match=r"defects newly pass at severity 0\.\d+ \(5% of the defects lie below"):
        refuse_beyond(found, INT8, tmp_path)
    assert high["at"] == 0.05, "the good parts are all alike"


def test_no_threshold_is_an_image_s_own_severity():
    """It would be crossed by any change whatever, and each FP32 export refused."""
    rng = np.random.default_rng(3)
    for n in (1, 7, 20, 40, 101):
        defect = np.arange(2 * n) < n
        before = np.where(defect, rng.uniform(0.3, 1, 2 * n), rng.uniform(0, 0.6, 2 * n))
        found = compared(before, before - 1e-9, defect)
        for one in found["thresholds"]:
            assert one["at"] not in before
            assert (one["passed"]["k"], one["rejected"]["k"]) == (0, 0)
        below, above = (found["thresholds"][i]["at"] for i in (1, 2))
        assert (before[defect] < below).sum() == int(0.05 * n)
        assert (before[~defect] > above).sum() == int(0.10 * n)


def test_a_move_too_small_to_matter_is_no_crossing(tmp_path):
    """A sure student: all good parts lie near 0, and a tenth of them above a threshold among the noise there."""
    defect = np.arange(120) < 60
    before = np.where(defect, 0.99, np.linspace(1e-5, 2e-4, 120))
    after = np.where(defect, 0.99, before + 3e-4)
    found = compared(before, after, defect)
    assert found["thresholds"][2]["at"] < 2e-4
    refuse_beyond(found, INT8, tmp_path)
    with pytest.raises(ParityError, match="good parts are newly rejected"):
        refuse_beyond(compared(before, np.where(defect, 0.99, before + 0.02), defect), INT8, tmp_path)


def test_one_class_of_several_taken_for_another_is_named(tmp_path):
    task = TaskSpec.of(("good", "crack", "dent"), good=["good"])
    classes = np.repeat([0, 1, 2], [950, 40, 10])
    sure = np.eye(3)[classes] * 0.85 + 0.05
    swapped = np.where((np.arange(1000) >= 998)[:, None], sure[:, [0, 2, 1]], sure)  # two of ten dents look like cracks
    answers = [of_probabilities(p, task) for p in (sure, swapped)]
    found = TASKS[task.kind].compare(task, classes, *answers)
    assert (found["flips"]["k"], found["classes"]["dent"]["k"]) == (2, 2)
    with pytest.raises(ParityError, match=r"2 of 10 \(20\.0%; .*\) images of dent are taken for another class"):
        refuse_beyond(found, INT8, tmp_path)


class Rows:
    """A split of so many good images and defects, as `class_ids` reads it."""

    def __init__(self, good, defects):
        self.ids = [0] * good + [1] * defects

    def __len__(self):
        return len(self.ids)


@pytest.mark.parametrize(("good", "defects"), [(3, 0), (40, 9), (9, 40), (0, 50)])
def test_int8_is_not_judged_on_a_few_images_or_on_one_side(good, defects, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_inspect.export.parity.load_split", lambda data, split: Rows(good, defects))
    monkeypatch.setattr("hf_inspect.export.parity.class_ids", lambda rows, task: rows.ids)
    with pytest.raises(DataError, match=r"an INT8 export is judged by at least 10 of each; build .* or export FP32"):
        export_student(tiny_edge.student(), tmp_path / "out", data=tiny_edge.data(), int8=True)
    assert list(tmp_path.iterdir()) == []
    student = load_student(tiny_edge.student())
    with nullcontext() if good and defects else pytest.warns(UserWarning, match="how the export answers these was not"):
        refuse_few(student, tmp_path, "validation", FP32)


# Calibration images.


def test_calibration_images_are_stratified_seeded_and_distinct():
    labels = (np.random.default_rng(1).random(1443) < 0.3).astype(int)
    chosen = stratified(labels, CALIBRATION_IMAGES)
    assert len(chosen) == len(set(chosen.tolist())) == CALIBRATION_IMAGES
    assert abs(labels[chosen].mean() - labels.mean()) < 1 / CALIBRATION_IMAGES
    assert chosen.tolist() == stratified(labels, CALIBRATION_IMAGES).tolist()
    assert sorted(stratified(labels[:50], CALIBRATION_IMAGES).tolist()) == list(range(50))


def test_no_order_of_the_classes_changes_which_images_calibrate():
    rows = load_split(tiny_edge.data(), "train")
    task = TaskSpec(BINARY.classes[::-1], BINARY.dispositions[::-1])
    chosen = [stratified(ranks(rows, one), 20).tolist() for one in (BINARY, task)]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 20
    assert sum(rows[chosen[0]]["label"]) == 10


def weights_of(op):
    """The constant a convolution's weights are stored in, before they are scaled back to float."""
    node = op.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node


def test_depthwise_and_half_resolution_convolutions_stay_in_float():
    import openvino

    model = openvino.Core().read_model(tiny_edge.exported(int8=True) / MODEL)
    convolutions = [op for op in model.get_ordered_ops() if op.get_type_name() in ("Convolution", "GroupConvolution")]
    quantized = [weights_of(op).get_element_type().get_type_name() == "i8" for op in convolutions]
    heights = [op.output(0).partial_shape[2].get_length() for op in convolutions]
    depthwise = [op.get_type_name() == "GroupConvolution" for op in convolutions]
    kept = [d or 2 * h >= tiny_edge.SIDE for d, h in zip(depthwise, heights, strict=True)]
    assert (sum(depthwise), sum(kept), len(kept)) == (2, 4, 17)
    assert not any(q for q, k in zip(quantized, kept, strict=True) if k)
    assert sum(quantized) > 6, "hardly any layer is in 8 bits"


# What it refuses to start on.


def test_missing_parts_are_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="holds no student"):
        export_student(tmp_path, tmp_path / "out", data=tiny_edge.data(), int8=False)
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        export_student(tiny_edge.student(), tmp_path / "out", data=tmp_path, int8=False)
    monkeypatch.setitem(sys.modules, "optimum.exporters.openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-inspect\[export\]'"):
        export_student(tiny_edge.student(), tmp_path / "out", data=tiny_edge.data(), int8=False)
    assert list(tmp_path.iterdir()) == []


def test_a_student_whose_record_is_gone_is_refused(tmp_path):
    folder = changed(tmp_path, lambda config: config)
    (folder / TRAINED_ON).unlink()
    assert load_student(folder).history == History(unknown=("student",))
    with pytest.raises(DataError, match=r"trained_on\.json states no training data and licence"):
        export_student(folder, tmp_path / "out", data=tiny_edge.data(), int8=False)


# What a student's folder says of its classes.


def changed(tmp_path, change):
    """A copy of the tiny student with another config.json."""
    folder = tmp_path / "student"
    shutil.copytree(tiny_edge.student(), folder)
    files.write_json(folder / "config.json", change(files.read_json(folder / "config.json")))
    return folder


def swapped(key):
    """The config with the two entries of a list, or of a task's classes, swapped."""

    def change(config):
        if key == "disposition":
            classes = config["inspection_task"]["classes"]
            said = [one["disposition"] for one in classes][::-1]
            for one, disposition in zip(classes, said, strict=True):
                one["disposition"] = disposition
        elif key == "classes":
            config["inspection_task"]["classes"].reverse()
        else:
            config[key].reverse()
        return config

    return change


@pytest.mark.parametrize("key", ["label_names", "classes"])
def test_outputs_named_otherwise_than_the_task_has_them_are_refused(tmp_path, key):
    with pytest.raises(DataError, match=r"config\.json names its outputs .* one of them was changed"):
        load_student(changed(tmp_path, swapped(key)))


def test_swapped_dispositions_do_not_pass_the_export(tmp_path):
    folder = changed(tmp_path, swapped("disposition"))
    with pytest.raises(DataError, match=r"answer different questions.*\n.*good \(defect\).*\n.*good \(good\)"):
        export_student(folder, tmp_path / "out", data=tiny_edge.data(), int8=False)


def test_a_student_of_an_older_version_says_how_it_is_made_anew(tmp_path):
    folder = changed(tmp_path, lambda config: {k: v for k, v in config.items() if k != "inspection_task"})
    with pytest.raises(DataError, match=r"states no inspection_task: an older version .* Train it again with recipes/"):
        load_student(folder)


def test_classes_in_another_order_than_the_data_s_are_matched_by_name(tmp_path):
    """The student's classes, head and all, the other way round than its data has them: nothing changes."""
    folder, out = tmp_path / "student", tmp_path / "out"
    turned = load_student(tiny_edge.student())
    task = TaskSpec(BINARY.classes[::-1], BINARY.dispositions[::-1])
    model = new_student("random:test_efficientnet", tiny_edge.SIDE, task)
    weights = turned.model.state_dict()
    head = {name: value.flip(0) for name, value in weights.items() if ".classifier." in name}
    assert len(head) == 2
    model.load_state_dict(weights | head)
    model.save_pretrained(folder)
    write_history(folder, turned.history)
    contents = [row["bytes"] for row in load_split(tiny_edge.data(), "validation")["image"]]
    for int8 in (False, True):
        given = export_student(folder, out, data=tiny_edge.data(), int8=int8)
        wanted = files.read_json(tiny_edge.exported(int8) / INSPECT)["parity"]
        assert given["accuracy"] == wanted["accuracy"]
        np.testing.assert_allclose(severities(out, contents), severities(tiny_edge.exported(int8), contents), atol=1e-6)
        assert Engine.from_pretrained(out).task == task
