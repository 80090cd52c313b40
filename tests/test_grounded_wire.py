"""Findings over the wire: the boxes that in-process ones are, in the original's pixels; garbage is none."""

import json
from contextlib import suppress
from dataclasses import replace

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_inspect import prompts
from hf_inspect.errors import DataError, ParityError
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.schema import BINARY, Finding, Prediction
from hf_inspect.tasks.detection import Decoding
from hf_inspect.vlm.answered import MOST, answer_of, prediction_of
from hf_inspect.vlm.identity import About, Wanted
from hf_inspect.vlm.remote import RemoteVLM
from hf_inspect.vlm.wire import Unanswered
from tests.saying import LONGEST, QWEN, SQUARE, TASK, Sayer
from tests.serving import Brightness, answering, reply, serving

SENT, SIZE = (64, 64), (128, 256)  # height, width


def images(n=12, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*rng.integers(30, 200, 2), 3)).astype(np.uint8) for _ in range(n)]


def same(here, there, size):
    """Whether two predictions are the same but for a millionth of a pixel, and inside the image."""
    told = [(one.name, one.score, one.description) for one in here.findings]
    assert told == [(one.name, one.score, one.description) for one in there.findings]
    assert (here.severity, here.unreadable, here.notes) == (there.severity, there.unreadable, there.notes)
    for one, other in zip(here.findings, there.findings, strict=True):
        assert np.abs(np.subtract(one.box, other.box)).max() < 1e-6
        assert other.box[2] <= size[1]
        assert other.box[3] <= size[0]


@pytest.mark.parametrize("rule", [SQUARE, QWEN, LONGEST, {}], ids=["square", "qwen", "longest edge", "as it is"])
@pytest.mark.parametrize("frame", prompts.FRAMES)
def test_what_is_found_over_the_wire_is_what_is_found_in_process(rule, frame):
    vlm = Sayer(rule=rule, frame=frame)
    with serving(vlm, vlm.about()) as url:
        remote = RemoteVLM.connect(url, deadline=30)
        asked = images()
        there = remote.predict(asked)
    assert sum(len(one.findings) for one in there) > 10
    for image, here, other in zip(asked, vlm.predict(asked), there, strict=True):
        same(here, other, image.shape[:2])


SIDES = st.integers(1, 3000)
NUMBERS = st.lists(st.integers(0, 1000), min_size=4, max_size=4)


@given(
    size=st.tuples(SIDES, SIDES), numbers=st.lists(NUMBERS, max_size=5), frame=st.sampled_from(prompts.FRAMES),
    rule=st.sampled_from([SQUARE, LONGEST]), name=st.text(min_size=1).filter(str.strip), said=st.text(),
)  # fmt: skip
def test_boxes_come_back_into_the_original_s_pixels_to_a_millionth(size, numbers, frame, rule, name, said):
    """Of any size, any whole numbers of the frame, and labels of any letters."""
    sizing = sizing_of(rule)
    shown = sizing.size(*size)

    def found(of):
        view, own = prompts.View(of, shown, frame), []
        for one in numbers:
            x0, y0, x1, y1 = (n % (view.units[i % 2] + 1) for i, n in enumerate(one))
            if x0 < x1 and y0 < y1:
                own.append(Finding(name, 0.5, view.box((x0, y0, x1, y1)), description=said))
        return Prediction(0.5, findings=tuple(own))

    travelled = json.loads(json.dumps(answer_of(found(shown))))
    same(found(size), prediction_of(travelled, TASK, shown, size), size)


def one_found(**changed):
    return {"class": "red", "score": 0.5, "box": [1, 2, 3, 4]} | changed


GARBAGE = {
    "no list": {"findings": {"red": 1}},
    "too many": {"findings": [one_found()] * (MOST + 1)},
    "no object": {"findings": [None]},
    "no box": {"findings": [{"class": "red", "score": 0.5}]},
    "a key that is none of ours": {"findings": [one_found(run="rm -rf")]},
    "a mask": {"findings": [one_found(mask_runs=[0, 4])]},
    "three numbers": {"findings": [one_found(box=[1, 2, 3])]},
    "a box of texts": {"findings": [one_found(box=["1", "2", "3", "4"])]},
    "a box of truths": {"findings": [one_found(box=[False, False, True, True])]},
    "an endless box": {"findings": [one_found(box=[0, 0, float("inf"), 4])]},
    "no number": {"findings": [one_found(box=[0, 0, float("nan"), 4])]},
    "a number without end": {"findings": [one_found(box=[0, 0, 10**400, 4])]},
    "corners reversed": {"findings": [one_found(box=[3, 4, 1, 2])]},
    "outside the image": {"findings": [one_found(box=[70, 2, 90, 4])]},
    "a score above 1": {"findings": [one_found(score=1.5)]},
    "a score that is a text": {"findings": [one_found(score="0.5")]},
    "a score that is a truth": {"findings": [one_found(score=True)]},
    "no label": {"findings": [one_found(**{"class": " "})]},
    "a label that is no text": {"findings": [one_found(**{"class": 7})]},
    "a description that is no text": {"findings": [one_found(description=["x"])]},
    "notes that are no list": {"findings": [], "notes": "x"},
    "notes that are no texts": {"findings": [], "notes": [1]},
    "nothing looked for": {},
    "a severity that is a truth": {"severity": True, "findings": []},
    "a reason that is no text": {"severity": None, "unreadable": 7, "findings": []},
}


@pytest.mark.parametrize("stated", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_no_answer(stated):
    with pytest.raises(Unanswered, match="its server answered") as raised:
        prediction_of({"severity": 0.5} | stated, TASK, SENT, SIZE)
    assert raised.value.kind == "garbage"


def test_a_closed_question_finds_nothing():
    with pytest.raises(Unanswered, match="answered findings of a classification"):
        prediction_of({"severity": 0.5, "findings": []}, BINARY, SENT, SIZE)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["class", "score", "box", "description", "findings", "severity", "unreadable", "notes"]
                ),
                inner,
                max_size=6,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_json_comes_is_an_answer_or_garbage(stated):
    with suppress(Unanswered):
        found = prediction_of(stated, TASK, SENT, SIZE)
        assert all(one.box[2] <= SIZE[1] and one.box[3] <= SIZE[0] for one in found.findings or ())


def test_a_box_that_reaches_out_is_clipped_and_the_surest_comes_first():
    stated = {"severity": 0.5, "findings": [one_found(score=0.1), one_found(box=[60.5, -3, 65, 64.5])]}
    found = prediction_of(stated, TASK, SENT, SIZE)
    assert [one.score for one in found.findings] == [0.5, 0.1]
    assert found.findings[0].box == (242.0, 0.0, 256.0, 128.0)


def test_a_hundred_findings_travel_and_a_note_tells_of_the_others():
    many = [Finding("red", 1 - i / 1000, (0.0, 0.0, 4.0, 4.0)) for i in range(MOST + 7)]
    found = prediction_of(answer_of(Prediction(0.9, findings=tuple(many), notes=("odd",))), TASK, SENT, SENT)
    assert found.findings == tuple(many[:MOST])
    assert found.notes == ("odd", "7 findings beyond the 100 surest left out")


def test_what_came_before_an_answer_broke_off_travels_with_why():
    one = Finding("red", 0.5, (0.0, 0.0, 4.0, 4.0), description="before")
    broken = Prediction(None, unreadable="the answer breaks off", findings=(one,), notes=("cut",))
    assert prediction_of(answer_of(broken), TASK, SENT, SENT) == broken


def test_garbled_findings_of_a_server_are_an_unreadable_part_and_too_long_an_answer_is_none():
    vlm, sends = Sayer(), [{"findings": [one_found(score="0.5")]}, {"findings": [one_found(description="x" * 2**20)]}]

    def garbled(handler, body):
        stated = {"severity": 0.5, "identity": vlm.identity} | sends[0]
        reply(handler, 200, json.dumps(stated if handler.command == "POST" else vlm.about().to_dict()).encode())

    with answering(garbled) as url:
        remote = RemoteVLM.connect(url, deadline=5)
        [first] = remote.predict(images(1))
        sends.pop(0)
        [second] = remote.predict(images(1))
    assert "what is no prediction" in first.unreadable
    assert "is longer than 1048576 bytes" in second.unreadable
    assert remote.wire.counts["garbage"] == 2


def test_the_server_states_what_finds_and_from_which_score_it_tells():
    vlm = Sayer(guide="e" * 64)
    with serving(vlm, vlm.about()) as url:
        stated = httpx.get(f"{url}/vlm").json()
        remote = RemoteVLM.connect(url, deadline=5)
        assert remote.states == {
            "kind": "hf_inspect", "identity": vlm.identity, "fingerprint": "d" * 64, "guide": "e" * 64, "told": 0.4,
        }  # fmt: skip
        assert (remote.task, remote.told, remote.history) == (TASK, 0.4, vlm.history)
    assert (stated["task"]["kind"], stated["told"], stated["decides"]["guide"]) == ("detection", 0.4, "e" * 64)
    assert About.from_dict(stated, url) == vlm.about()
    with serving(Brightness()) as url:
        closed = RemoteVLM.connect(url, deadline=5)
        assert (set(closed.states), closed.told) == ({"kind", "identity", "fingerprint"}, Decoding().told)


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        (None, "e" * 64, "shows the exemplars eeeeeeeeeeee first, and .* calibrated with no exemplars"),
        ("f" * 64, None, "shows no exemplars first, and .* calibrated with the exemplars ffffffffffff"),
        ("f" * 64, "e" * 64, "shows the exemplars eeeeeeeeeeee first, and .* with the exemplars ffffffffffff"),
    ],
)
def test_other_exemplars_than_in_calibration_are_refused(here, there, words):
    vlm = Sayer(guide=there)
    want = Wanted(vlm.about().files, TASK, guide=here, told=0.3)
    with serving(vlm, vlm.about()) as url:
        with pytest.raises(ParityError, match=words):
            RemoteVLM.connect(url, want, deadline=5)
        own = RemoteVLM.connect(url, replace(want, guide=there), deadline=5)
        assert (own.told, own.identity) == (0.3, replace(want, guide=there).identity)
    assert replace(want, guide="e" * 64).identity != replace(want, guide=None).identity


def test_many_at_once_share_batches_and_each_has_its_own_answer():
    vlm, asked = Sayer(), images(40, seed=3)
    with serving(vlm, vlm.about()) as url:
        remote = RemoteVLM.connect(url, deadline=30)
        there = remote.predict(asked)
    for image, here, other in zip(asked, vlm.predict(asked), there, strict=True):
        same(here, other, image.shape[:2])
    assert {len(one.findings) for one in there} > {0, 1, 2}


def test_an_about_without_a_score_to_tell_from_is_of_another_version():
    stated = Sayer().about().to_dict()
    del stated["told"]
    with pytest.raises(DataError, match="does not say what its VLM is"):
        About.from_dict(stated, "http://x")
