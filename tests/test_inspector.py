import dataclasses
import io
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image

from hf_inspect import Inspector, files
from hf_inspect.errors import DataError
from hf_inspect.schema import BINARY, Prediction, TaskSpec
from hf_inspect.vlm import VLM, ScriptedVLM
from tests import tiny
from tests.conftest import png
from tests.scripted import SLOPE, brightness_cascade, grey


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    return brightness_cascade(tmp_path_factory.mktemp("cascade"), with_vlm=True)


class Scripted(ScriptedVLM):
    """Counts what it saw; each part's answer is its own, by its brightness, so that no two can change places."""

    def __init__(self, above, task=BINARY):
        super().__init__([0.0], task)
        self.above, self.seen = above, []

    def predict(self, images):
        self.seen += [int(image.mean()) for image in images]
        return [self._prediction(self.answer(int(image.mean()))) for image in images]

    def answer(self, level):
        """A severity that says which part it is of: 0.8 or 0.2, and the level in its thousandths."""
        return (0.8 if level > self.above else 0.2) - level / 10_000


def with_vlm(cascade, above=126, task=BINARY):
    return dataclasses.replace(Inspector.from_pretrained(cascade), vlm=Scripted(above, task))


def test_the_edge_decides_what_it_is_sure_of(cascade):
    inspector = Inspector.from_pretrained(cascade)
    dark, bright = inspector(png(grey(20))), inspector(png(grey(240)))
    assert (dark.label, dark.decided_by, bright.label, bright.decided_by) == ("good", "edge", "defect", "edge")
    assert dark.severity == pytest.approx(1 / (1 + np.exp(-SLOPE * (20 / 255 - 0.5))), abs=1e-5)
    assert (dark.class_name, dark.p_class) == ("good", pytest.approx(1 - dark.severity))
    assert (bright.class_name, bright.p_class) == ("defect", pytest.approx(bright.severity))
    assert dark.reason == "the edge is sure of good"
    assert set(dark.ms) == {"edge", "policy"}


def test_what_is_between_is_undecided_without_a_vlm(cascade):
    verdict = Inspector.from_pretrained(cascade)(png(grey(128)))
    assert (verdict.label, verdict.decided_by) == ("undecided", "rule")
    assert verdict.reason == "the edge alone is not sure enough; this cascade has no VLM"
    assert verdict.severity == verdict.severity_of("edge") == pytest.approx(0.5, abs=0.02)


def test_what_lies_between_the_limits_of_both_is_undecided(cascade):
    """The VLM sees the middle as the edge does: together they settle nothing, and a person looks."""
    for fallback, label in (("hold", "undecided"), ("reject", "defect"), ("pass", "good")):
        found = Inspector.from_pretrained(cascade, fallback=fallback)
        verdict = dataclasses.replace(found, vlm=ScriptedVLM([0.5]))(png(grey(128)))
        assert (verdict.label, verdict.decided_by, verdict.severity_of("vlm")) == (label, "rule", 0.5)
        assert verdict.reason.startswith("the edge alone is not sure enough; between the limits")
        assert verdict.severity == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("fallback", "label"), [("reject", "defect"), ("pass", "good")])
def test_a_fallback_is_a_stated_rule(cascade, fallback, label):
    verdict = Inspector.from_pretrained(cascade, fallback=fallback)(png(grey(128)))
    assert (verdict.label, verdict.decided_by) == (label, "rule")
    assert verdict.reason.endswith(f"fallback {fallback}")
    with pytest.raises(DataError, match="reject, hold, pass"):
        Inspector.from_pretrained(cascade, fallback="ship")


def test_the_vlm_sees_escalated_parts_alone_and_decides_them(cascade):
    inspector = with_vlm(cascade)
    levels = [20, 128, 240, 125, 130, 122]
    verdicts = list(inspector.inspect([png(grey(level)) for level in levels]))
    assert [v.label for v in verdicts] == ["good", "defect", "defect", "good", "defect", "good"]
    assert [v.decided_by for v in verdicts] == ["edge", "both", "edge", "both", "both", "both"]
    assert sorted(inspector.vlm.seen) == [122, 125, 128, 130]
    for level, verdict in zip(levels, verdicts, strict=True):
        if verdict.decided_by == "both":  # its own answer, not a neighbour's
            own, other = verdict.severity_of("edge"), verdict.severity_of("vlm")
            assert other == inspector.vlm.answer(level)
            assert verdict.severity == inspector.policy.composite.scores([own], [other])[0]
            assert own < verdict.severity < other or other < verdict.severity < own
            assert verdict.reason.startswith("the edge alone is not sure enough; ")
        else:
            assert verdict.severity_of("vlm") is None


def test_an_answer_that_cannot_be_read_is_nobodys_verdict(cascade):
    for fallback, label in (("hold", "undecided"), ("reject", "defect"), ("pass", "good")):
        inspector = dataclasses.replace(Inspector.from_pretrained(cascade, fallback=fallback), vlm=ScriptedVLM([None]))
        verdict = inspector(png(grey(128)))
        assert (verdict.label, verdict.decided_by) == (label, "rule")
        assert "the VLM gave no answer" in verdict.reason


def test_order_and_batches_do_not_change_a_verdict(cascade):
    levels = np.random.default_rng(0).integers(0, 255, 40).tolist()
    inspector = with_vlm(cascade)
    together = list(inspector.inspect([png(grey(level)) for level in levels]))
    assert {v.decided_by for v in together} == {"edge", "both"}
    for level, verdict in zip(levels, together, strict=True):
        alone = inspector(png(grey(level)))
        assert (alone.label, alone.decided_by, alone.severity) == (
            verdict.label, verdict.decided_by, pytest.approx(verdict.severity, abs=1e-6),
        )  # fmt: skip


@pytest.mark.parametrize(
    "names", [("ok", "crack", "bird-drop"), ("broken", "ok", "a"), ("gut, sauber", "<b>Riß</b>", '| "x" |')]
)
def test_no_order_and_no_name_of_classes_changes_a_verdict(names, tmp_path):
    """Edge and VLM each in every order of the classes, the good one anywhere: the same verdicts by the same models."""
    levels, said = [20, 110, 128, 125, 240], []
    good = next(name for name in names if name in ("ok", "gut, sauber"))
    for at, order in enumerate(permutations(names)):
        edge = TaskSpec.of(order, [good])
        made = brightness_cascade(tmp_path / str(at), edge, with_vlm=True)
        for other in permutations(names):
            inspector = with_vlm(made, task=TaskSpec.of(other, [good]))
            found = list(inspector.inspect([png(grey(level)) for level in levels]))
            said.append([(v.label, v.decided_by, round(v.severity, 6)) for v in found])
            for verdict in found:
                decider = inspector.edge.task if verdict.decided_by == "edge" else inspector.vlm.task
                assert verdict.class_name == (good if verdict.label == "good" else decider.defects[0])
                decided = verdict.severity_of("edge" if verdict.decided_by == "edge" else "vlm")
                share = 1 - decided if verdict.label == "good" else decided
                assert verdict.p_class == pytest.approx(share, abs=1e-6)
    assert all(one == said[0] for one in said)
    assert {(label, by) for label, by, _ in said[0]} >= {
        ("good", "edge"),
        ("defect", "edge"),
        ("good", "both"),
        ("defect", "both"),
    }


def test_edge_and_vlm_must_answer_one_question(cascade):
    edge = Inspector.from_pretrained(cascade)
    for other in (TaskSpec.of(["good", "defect"], ["defect"]), TaskSpec.of(["ok", "broken"], ["ok"])):
        with pytest.raises(DataError, match="answer different questions") as refused:
            dataclasses.replace(edge, vlm=Scripted(126, other))
        assert str(edge.task) in str(refused.value)
        assert str(other) in str(refused.value)


def test_a_cascade_of_another_task_than_its_edge_is_refused(tmp_path):
    made = brightness_cascade(tmp_path / "made")
    stated = files.read_json(made / "cascade.json")
    files.write_json(made / "cascade.json", stated | {"task": TaskSpec.of(["good", "defect"], ["defect"]).to_dict()})
    with pytest.raises(DataError, match="answer different questions"):
        Inspector.from_pretrained(made)


def test_unreadable_is_a_verdict_among_others(cascade):
    verdicts = list(Inspector.from_pretrained(cascade).inspect([png(grey(20)), b"", png(grey(240))]))
    assert [v.label for v in verdicts] == ["good", "unreadable", "defect"]
    assert "empty" in verdicts[1].reason
    assert verdicts[1].severity is None


def test_another_policy_by_name(cascade):
    assert Inspector.from_pretrained(cascade, policy="saec")(png(grey(128))).reason.startswith("low confidence;")
    with pytest.raises(DataError, match="no policy 'best'; it has certified, saec"):
        Inspector.from_pretrained(cascade, policy="best")


def test_a_folder_that_is_no_cascade_says_so(tmp_path):
    with pytest.raises(DataError, match=r"cascade\.json is missing"):
        Inspector.from_pretrained(tmp_path)


def test_a_changed_engine_is_refused(cascade, tmp_path):
    broken = brightness_cascade(tmp_path / "broken")
    model = broken / "edge" / "openvino_model.bin"
    model.write_bytes(model.read_bytes() + b"x")
    with pytest.raises(Exception, match="not the file"):
        Inspector.from_pretrained(broken)


def test_a_cascade_states_its_risk(cascade):
    stated = files.read_json(cascade / "cascade.json")["policies"]["certified"]["statement"]
    assert "at most 5.00% of defects" in stated


def test_saec_s_vlm_decides_alone_and_at_its_threshold_says_defect(cascade):
    inspector = Inspector.from_pretrained(cascade, policy="saec")
    for severity, label in ((inspector.policy.cloud_threshold, "defect"), (0.2599, "good")):
        verdict = dataclasses.replace(inspector, vlm=ScriptedVLM([severity]))(png(grey(128)))
        assert (verdict.label, verdict.decided_by, verdict.severity) == (label, "vlm", severity)


# One part's fault is not its neighbours'.

LEVELS = [20, 128, 125, 240, 130, 122, 126, 124, 131, 127, 30, 129, 123, 132, 121, 250]  # the edge is sure of four


class Failing(Scripted):
    """Raises `error` wherever a batch holds an image of one of these levels, or more images than it has memory for."""

    def __init__(self, error, levels=(), most=100):
        super().__init__(126)
        self.error, self.levels, self.most, self.asked_for = error, levels, most, []

    def predict(self, images):
        self.asked_for.append(len(images))
        if len(images) > self.most or any(int(image.mean()) in self.levels for image in images):
            raise self.error
        return super().predict(images)


def out_of_memory():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def summary_of(verdicts):
    return [(v.label, v.decided_by, v.severity, v.reason) for v in verdicts]


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), MemoryError(), DataError("The model gave logits that are not finite."),
              ValueError("absolute aspect ratio must be smaller than 200, got 210"), out_of_memory()],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize(("fallback", "label"), [("hold", "undecided"), ("reject", "defect"), ("pass", "good")])
def test_a_fault_of_the_vlm_is_its_part_s_alone(cascade, error, fallback, label):
    parts = [png(grey(level)) for level in LEVELS]
    whole = dataclasses.replace(Inspector.from_pretrained(cascade, fallback=fallback), vlm=Scripted(126))
    broken = dataclasses.replace(whole, vlm=Failing(error, levels=(122, 131)))
    wanted, found = list(whole.inspect(parts)), list(broken.inspect(parts))
    for level, one, other in zip(LEVELS, wanted, found, strict=True):
        if level not in (122, 131):
            assert summary_of([one]) == summary_of([other])
            continue
        assert (other.label, other.decided_by) == (label, "rule")
        assert other.severity == other.severity_of("edge")
        said = f"the edge alone is not sure enough; the VLM gave no answer: {type(error).__name__}"
        assert other.reason.startswith(said)
        assert str(error) in other.reason
        assert other.severity_of("edge") == pytest.approx(1 / (1 + np.exp(-SLOPE * (level / 255 - 0.5))), abs=1e-5)
    assert sum("gave no answer" in one.reason for one in found) == 2


def test_a_batch_that_memory_does_not_suffice_for_is_halved(cascade):
    parts = [png(grey(level)) for level in LEVELS]
    wanted = list(with_vlm(cascade).inspect(parts))
    small = dataclasses.replace(Inspector.from_pretrained(cascade), vlm=Failing(out_of_memory(), most=3))
    assert summary_of(small.inspect(parts)) == summary_of(wanted)
    assert small.vlm.asked_for == [12, 6, 3, 3, 6, 3, 3]


class Edge:
    """The cascade's own edge, but for images of some levels."""

    def __init__(self, edge, spoilt):
        self.task, self.identity, self.history, self._edge = edge.task, edge.identity, edge.history, edge
        self.reading = edge.reading
        self._spoilt = spoilt

    def predict(self, images):
        return self._spoilt(images, self._edge.predict(images))


def spoilt_by(error=None, prediction=None, drop=False):
    def spoilt(images, found):
        at = [i for i, image in enumerate(images) if int(image.mean()) == 240]
        if at and error:
            raise error
        if at and prediction:
            found = [prediction if i in at else one for i, one in enumerate(found)]
        return [one for i, one in enumerate(found) if not (drop and i in at)]

    return spoilt


@pytest.mark.parametrize(
    "spoilt",
    [
        spoilt_by(RuntimeError("infer request failed")),
        spoilt_by(MemoryError("infer request failed")),
        spoilt_by(prediction=Prediction(None, unreadable="infer request failed")),
        spoilt_by(drop=True),
    ],
    ids=["error", "memory", "unreadable", "no answer"],
)
@pytest.mark.parametrize(("fallback", "label"), [("hold", "undecided"), ("reject", "defect"), ("pass", "good")])
def test_a_fault_of_the_edge_is_its_part_s_alone(cascade, spoilt, fallback, label):
    whole = dataclasses.replace(Inspector.from_pretrained(cascade, fallback=fallback), vlm=Scripted(126))
    broken = dataclasses.replace(whole, edge=Edge(whole.edge, spoilt))
    parts = [png(grey(level)) for level in LEVELS]
    for level, one, other in zip(LEVELS, whole.inspect(parts), broken.inspect(parts), strict=True):
        if level == 240:
            assert (other.label, other.decided_by, other.severity, other.class_name) == (label, "rule", None, None)
            assert other.reason.startswith("the edge gave no answer; ")
            assert other.evidence["edge"].unreadable in other.reason
            assert "vlm" not in other.evidence
            assert other.to_dict()["evidence"]["edge"] == {"unreadable": other.evidence["edge"].unreadable}
        else:
            assert (one.label, one.decided_by, one.reason) == (other.label, other.decided_by, other.reason)
            assert other.severity == pytest.approx(one.severity, abs=1e-6)


def test_a_gate_that_fails_is_its_part_s_alone(cascade, monkeypatch):
    def gate(rgb):
        if int(rgb.mean()) == 20:
            raise MemoryError
        return 0.0

    monkeypatch.setattr("hf_inspect.inspector.complexity", gate)
    found = list(Inspector.from_pretrained(cascade, policy="saec").inspect([png(grey(level)) for level in LEVELS]))
    assert [one.reason for one in found if "MemoryError" in one.reason] == ["the edge gave no answer; MemoryError"]
    assert found[0].label == "undecided"


def test_who_stops_the_line_stops_it(cascade):
    for error in (KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)):
            list(dataclasses.replace(with_vlm(cascade), vlm=Failing(error, levels=(128,))).inspect([png(grey(128))]))


def test_a_long_complaint_is_cut(cascade):
    inspector = dataclasses.replace(with_vlm(cascade), vlm=Failing(RuntimeError("no\n" * 1000), levels=(128,)))
    reason = inspector(png(grey(128))).reason
    assert len(reason) < 300
    assert "\n" not in reason


def test_a_strip_that_a_processor_refuses_is_undecided_among_its_neighbours(tmp_path):
    """Qwen's processor takes sides of up to 200 : 1, and would refuse the whole batch."""
    edge = Inspector.from_pretrained(brightness_cascade(tmp_path / "cascade", tiny.QUESTION.task, with_vlm=True))
    base = tiny.loud_base(tmp_path / "base", "tiny-qwen2_5_vl")
    vlm = VLM.from_pretrained(base, question=tiny.QUESTION, dtype=torch.float32)
    inspector = dataclasses.replace(edge, vlm=vlm)
    parts = [middling(seed) for seed in range(6)]
    wanted = [vlm.predict([part])[0].severity for part in parts]
    strip = np.full((20, 4200, 3), 128, np.uint8)
    found = list(inspector.inspect([*parts[:3], strip, *parts[3:]]))
    assert [one.severity_of("vlm") for one in (*found[:3], *found[4:])] == pytest.approx(wanted, abs=1e-4)
    assert found[3].label == "undecided"
    assert "The image is 20 x 4200; this VLM takes sides of up to 200 to 1" in found[3].reason


def test_a_logit_that_is_no_number_is_its_part_s_alone(tmp_path, monkeypatch):
    """As half precision overflows at one image: the real VLM's whole batch was refused."""
    edge = Inspector.from_pretrained(brightness_cascade(tmp_path / "cascade", tiny.QUESTION.task, with_vlm=True))
    vlm = VLM.from_pretrained(tiny.loud_base(tmp_path / "base"), question=tiny.QUESTION, dtype=torch.float32)
    inspector, own = dataclasses.replace(edge, vlm=vlm), VLM.log_p
    parts = [middling(seed) for seed in range(6)]
    wanted = [vlm.predict([part])[0].severity for part in parts]

    def overflowing(self, inputs):
        found = own(self, inputs)
        found[inputs["pixel_values"].flatten(2).std(2).amax(1).numpy() < 1e-3] = np.nan
        return found

    monkeypatch.setattr(VLM, "log_p", overflowing)
    found = list(inspector.inspect([*parts[:2], grey(128, 64), *parts[2:]]))
    assert [one.severity_of("vlm") for one in (*found[:2], *found[3:])] == pytest.approx(wanted, abs=1e-4)
    assert found[2].label == "undecided"
    assert "not finite" in found[2].reason


# A live source.


def test_a_verdict_does_not_wait_for_further_parts(cascade):
    """Each part is given once the verdict of the one before was seen: whoever fills batches first waits for ever."""
    seen = [threading.Event() for _ in LEVELS]

    def camera():
        for i, level in enumerate(LEVELS):
            assert i == 0 or seen[i - 1].wait(5), f"no verdict of part {i - 1} within 5 s"
            yield png(grey(level))

    inspector = with_vlm(cascade)
    wanted = list(inspector.inspect([png(grey(level)) for level in LEVELS]))
    for i, verdict in enumerate(inspector.inspect(camera())):
        assert (verdict.label, verdict.decided_by) == (wanted[i].label, wanted[i].decided_by)
        seen[i].set()
    assert i == len(LEVELS) - 1


def test_what_waits_is_inspected_together_and_in_order(cascade):
    inspector = with_vlm(cascade)
    batches, edge = [], inspector.edge
    given = threading.Event()

    def camera():
        yield from (png(grey(level)) for level in LEVELS)
        given.set()

    class Slow(Edge):
        def predict(self, images):
            assert given.wait(5)
            batches.append(len(images))
            return edge.predict(images)

    inspector.edge = Slow(edge, None)
    found = [one.severity_of("edge") for one in inspector.inspect(camera())]
    assert found == pytest.approx([1 / (1 + np.exp(-SLOPE * (level / 255 - 0.5))) for level in LEVELS], abs=1e-5)
    assert sum(batches) == len(LEVELS)
    assert len(batches) <= 2  # what had come when the edge was first asked, and all the rest


def test_an_error_of_the_source_comes_after_its_verdicts(cascade):
    def camera():
        yield from (png(grey(20)) for _ in range(20))
        raise ConnectionError("camera unplugged")

    verdicts = Inspector.from_pretrained(cascade).inspect(camera())
    assert [next(verdicts).label for _ in range(20)] == ["good"] * 20
    with pytest.raises(ConnectionError, match="camera unplugged"):
        next(verdicts)
    assert list(verdicts) == []


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "hf_inspect source"]


def test_no_thread_is_left_behind(cascade):
    inspector = Inspector.from_pretrained(cascade)
    verdicts = inspector.inspect(png(grey(level % 256)) for level in range(10_000))
    assert next(verdicts).label == "good"
    assert len(readers()) == 1
    verdicts.close()
    assert readers() == []
    assert len(list(inspector.inspect(png(grey(20)) for _ in range(40)))) == 40
    assert readers() == []
    list(inspector.inspect([png(grey(20))] * 40))  # a list needs none
    assert readers() == []


def test_a_source_may_use_its_memory_and_its_file_again(cascade, tmp_path):
    """As OpenCV does, and as `with open(...)` in a generator does."""
    frame = np.zeros((32, 32, 3), np.uint8)
    path = tmp_path / "part.png"

    def camera():
        for level in LEVELS:
            frame[:] = level
            yield frame
            path.write_bytes(png(grey(level)))
            with path.open("rb") as file:
                yield file

    found = [one.severity_of("edge") for one in Inspector.from_pretrained(cascade).inspect(camera())]
    wanted = [1 / (1 + np.exp(-SLOPE * (level / 255 - 0.5))) for level in LEVELS for _ in range(2)]
    assert found == pytest.approx(wanted, abs=1e-5)


# What it takes.


def test_every_form_of_an_image_gets_the_verdict_of_its_file(cascade, tmp_path):
    inspector, path = with_vlm(cascade), tmp_path / "part.png"
    rng = np.random.default_rng(0)
    for level in (20, 110, 128, 240):
        rgb = rng.integers(level - 9, level + 9, (40, 30, 3)).astype(np.uint8)
        path.write_bytes(png(rgb))
        wanted = dataclasses.replace(inspector(path), ms={})
        content = path.read_bytes()
        with path.open("rb") as file, Image.open(path) as opened:
            spent = io.BytesIO()
            spent.write(content)  # it stands at its end
            forms = [str(path), content, bytearray(content), memoryview(content), file, spent, rgb, opened]
            forms.append(opened.copy())
            found = list(inspector.inspect(forms))
        assert [dataclasses.replace(one, ms={}) for one in found] == [wanted] * len(forms)
        grey_form = np.ascontiguousarray(rgb[..., 0])
        assert inspector(grey_form).severity == inspector(png(grey_form)).severity


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (7, "int"), (None, "NoneType"), ([1], "list"), (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"), (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros(4, np.uint8), r"\(4,\)"), (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
    ],
)  # fmt: skip
def test_anything_else_is_named(cascade, other, named):
    inspector = Inspector.from_pretrained(cascade)
    with pytest.raises(DataError, match=f"An image came as .*{named}"):
        inspector(other)
    for sources in ([png(grey(20))] * 3 + [other], (one for one in [png(grey(20))] * 3 + [other])):
        verdicts = inspector.inspect(sources)
        assert [next(verdicts).label for _ in range(3)] == ["good"] * 3  # what came before it has its verdict
        with pytest.raises(DataError, match=named):
            next(verdicts)


def test_a_file_that_gives_no_bytes_is_unreadable(cascade, tmp_path):
    inspector, path = Inspector.from_pretrained(cascade), tmp_path / "part.png"
    path.write_bytes(png(grey(20)))
    with path.open("rb") as closed:
        pass
    with open(os.devnull) as text:
        found = list(inspector.inspect([closed, text, Image.new("RGB", (0, 4)), png(grey(20))]))
    assert [one.label for one in found] == ["unreadable"] * 3 + ["good"]
    for verdict, said in zip(found, ("closed file", "opened as text", "0 x 4 pixels"), strict=False):
        assert said in verdict.reason


# Threads and processes.


def middling(seed):
    """An image of medium brightness, which the edge hands on, in a colour and a texture of its own."""
    rng = np.random.default_rng(seed)
    red, blue, rough = rng.integers(-60, 60, 2).tolist() + rng.integers(1, 60, 1).tolist()
    mean = np.array([127 + red, 127 - red - blue, 127 + blue])
    return (mean + rng.uniform(-rough, rough, (64, 64, 3))).clip(0, 255).astype(np.uint8)


def test_threads_may_share_one(tmp_path):
    """Edge and a VLM whose vision tower OpenVINO runs: every verdict is that of its own part."""
    edge = Inspector.from_pretrained(brightness_cascade(tmp_path / "cascade", tiny.QUESTION.task, with_vlm=True))
    vlm = VLM.from_pretrained(tiny.loud_base(tmp_path / "base"), question=tiny.QUESTION, dtype=torch.float32)
    shared = dataclasses.replace(edge, vlm=vlm)
    parts = [png(middling(seed)) for seed in range(12)]
    alone = [shared(part) for part in parts]
    wanted = np.array([one.severity_of("vlm") for one in alone])
    assert np.ptp(wanted) > 0.1

    def inspected(seed):
        order = np.random.default_rng(seed).permutation(len(parts))
        found = [one.severity_of("vlm") for one in shared.inspect([parts[i] for i in order])]
        return np.abs(np.array(found) - wanted[order]).max()

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(inspected, range(16))) < 1e-4


FORKED = """
import os, signal, sys
import numpy as np
from hf_inspect.errors import ForkError
from hf_inspect.inspector import Inspector
inspector = Inspector.from_pretrained(sys.argv[1])
part = np.full((32, 32, 3), 20, np.uint8)
assert inspector(part).label == "good"
if os.fork() == 0:
    try:
        print(inspector(part))
    except ForkError as error:
        print(error)
    sys.stdout.flush()
    os._exit(0)
os.wait()
"""


def test_a_fork_of_one_is_told_to_spawn(cascade):
    done = subprocess.run([sys.executable, "-c", FORKED, cascade], capture_output=True, text=True, timeout=60)
    assert "An Engine was loaded in process" in done.stdout
    assert "get_context('spawn')" in done.stdout
    assert "good" not in done.stdout
