import dataclasses
from itertools import permutations

import numpy as np
import pytest

from hf_inspect import Inspector, files
from hf_inspect.errors import DataError
from hf_inspect.schema import BINARY, TaskSpec
from hf_inspect.vlm import ScriptedVLM
from tests.conftest import png
from tests.scripted import SLOPE, brightness_cascade, grey


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    return brightness_cascade(tmp_path_factory.mktemp("cascade"))


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
    assert dark.reason == "below the good threshold"
    assert set(dark.ms) == {"edge", "policy"}


def test_what_is_between_is_undecided_without_a_vlm(cascade):
    verdict = Inspector.from_pretrained(cascade)(png(grey(128)))
    assert (verdict.label, verdict.decided_by, verdict.severity) == ("undecided", "rule", None)
    assert verdict.reason == "between the thresholds; this cascade has no VLM"
    assert verdict.severity_of("edge") == pytest.approx(0.5, abs=0.02)


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
    assert [v.decided_by for v in verdicts] == ["edge", "vlm", "edge", "vlm", "vlm", "vlm"]
    assert sorted(inspector.vlm.seen) == [122, 125, 128, 130]
    for level, verdict in zip(levels, verdicts, strict=True):
        if verdict.decided_by == "vlm":  # its own answer, not a neighbour's
            assert verdict.severity == verdict.severity_of("vlm") == inspector.vlm.answer(level)
            assert verdict.reason == "between the thresholds"
        else:
            assert verdict.severity_of("vlm") is None


def test_an_answer_that_cannot_be_read_is_nobodys_verdict(cascade):
    for fallback, label in (("hold", "undecided"), ("reject", "defect"), ("pass", "good")):
        inspector = dataclasses.replace(Inspector.from_pretrained(cascade, fallback=fallback), vlm=ScriptedVLM([None]))
        verdict = inspector(png(grey(128)))
        assert (verdict.label, verdict.decided_by) == (label, "rule")
        assert "the VLM's answer could not be read" in verdict.reason


def test_order_and_batches_do_not_change_a_verdict(cascade):
    levels = np.random.default_rng(0).integers(0, 255, 40).tolist()
    inspector = with_vlm(cascade)
    together = list(inspector.inspect([png(grey(level)) for level in levels]))
    assert {v.decided_by for v in together} == {"edge", "vlm"}
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
        made = brightness_cascade(tmp_path / str(at), edge)
        for other in permutations(names):
            inspector = with_vlm(made, task=TaskSpec.of(other, [good]))
            found = list(inspector.inspect([png(grey(level)) for level in levels]))
            said.append([(v.label, v.decided_by, round(v.severity, 6)) for v in found])
            for verdict in found:
                decider = inspector.edge.task if verdict.decided_by == "edge" else inspector.vlm.task
                assert verdict.class_name == (good if verdict.label == "good" else decider.defects[0])
                share = 1 - verdict.severity if verdict.label == "good" else verdict.severity
                assert verdict.p_class == pytest.approx(share, abs=1e-6)
    assert all(one == said[0] for one in said)
    assert {(label, by) for label, by, _ in said[0]} >= {
        ("good", "edge"),
        ("defect", "edge"),
        ("good", "vlm"),
        ("defect", "vlm"),
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
    with pytest.raises(DataError, match="no policy 'best'; it has calibrated, saec"):
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
    stated = files.read_json(cascade / "cascade.json")["policies"]["calibrated"]["statement"]
    assert "at most 5.00% of defects" in stated


def test_a_vlm_at_its_threshold_says_defect(cascade):
    inspector = Inspector.from_pretrained(cascade)
    for severity, label in ((inspector.policy.cloud_threshold, "defect"), (0.4999, "good")):
        verdict = dataclasses.replace(inspector, vlm=ScriptedVLM([severity]))(png(grey(128)))
        assert (verdict.label, verdict.decided_by, verdict.severity) == (label, "vlm", severity)
