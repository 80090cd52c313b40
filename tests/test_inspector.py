import dataclasses

import numpy as np
import pytest

from hf_inspect import Inspector, files
from hf_inspect.errors import DataError
from tests.conftest import png
from tests.scripted import SLOPE, brightness_cascade, grey


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    return brightness_cascade(tmp_path_factory.mktemp("cascade"))


class Brightness:
    """A cloud model that calls every escalated part a defect with this probability, and counts what it saw."""

    def __init__(self, p):
        self.p, self.seen = p, 0

    def p_defect(self, images):
        self.seen += len(images)
        return np.full(len(images), self.p)


def with_vlm(cascade, p):
    return dataclasses.replace(Inspector.from_pretrained(cascade), vlm=Brightness(p))


def test_the_edge_decides_what_it_is_sure_of(cascade):
    inspector = Inspector.from_pretrained(cascade)
    dark, bright = inspector(png(grey(20))), inspector(png(grey(240)))
    assert (dark.label, dark.decided_by, bright.label, bright.decided_by) == ("good", "edge", "defect", "edge")
    assert dark.p_defect == pytest.approx(1 / (1 + np.exp(-SLOPE * (20 / 255 - 0.5))), abs=1e-5)
    assert dark.reason == "below the good threshold"
    assert set(dark.ms) == {"edge", "policy"}


def test_what_is_between_is_undecided_without_a_vlm(cascade):
    verdict = Inspector.from_pretrained(cascade)(png(grey(128)))
    assert (verdict.label, verdict.decided_by, verdict.p_defect) == ("undecided", "rule", None)
    assert verdict.reason == "between the thresholds; this cascade has no VLM"
    assert verdict.p_edge == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("fallback", "label"), [("reject", "defect"), ("pass", "good")])
def test_a_fallback_is_a_stated_rule(cascade, fallback, label):
    verdict = Inspector.from_pretrained(cascade, fallback=fallback)(png(grey(128)))
    assert (verdict.label, verdict.decided_by) == (label, "rule")
    assert verdict.reason.endswith(f"fallback {fallback}")
    with pytest.raises(DataError, match="reject, hold, pass"):
        Inspector.from_pretrained(cascade, fallback="ship")


@pytest.mark.parametrize(("p", "label"), [(0.9, "defect"), (0.1, "good")])
def test_the_vlm_sees_escalated_parts_alone_and_decides_them(cascade, p, label):
    inspector = with_vlm(cascade, p)
    verdicts = list(inspector.inspect([png(grey(20)), png(grey(128)), png(grey(240)), png(grey(125))]))
    assert [v.label for v in verdicts] == ["good", label, "defect", label]
    assert [v.decided_by for v in verdicts] == ["edge", "vlm", "edge", "vlm"]
    assert inspector.vlm.seen == 2
    assert verdicts[1].p_defect == verdicts[1].p_vlm == p
    assert verdicts[1].reason == "between the thresholds"


def test_order_and_batches_do_not_change_a_verdict(cascade):
    levels = np.random.default_rng(0).integers(0, 255, 40).tolist()
    inspector = with_vlm(cascade, 0.7)
    together = list(inspector.inspect([png(grey(level)) for level in levels]))
    for level, verdict in zip(levels, together, strict=True):
        alone = inspector(png(grey(level)))
        assert (alone.label, alone.decided_by, alone.p_defect) == (
            verdict.label, verdict.decided_by, pytest.approx(verdict.p_defect, abs=1e-6),
        )  # fmt: skip


def test_unreadable_is_a_verdict_among_others(cascade):
    verdicts = list(Inspector.from_pretrained(cascade).inspect([png(grey(20)), b"", png(grey(240))]))
    assert [v.label for v in verdicts] == ["good", "unreadable", "defect"]
    assert "empty" in verdicts[1].reason
    assert verdicts[1].p_defect is None


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
