"""A VLM that says where things are: one rendering, batches that change nothing, exemplars read once, and scores."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from hf_inspect import files, prompts
from hf_inspect.errors import DataError, ParityError
from hf_inspect.metrics.findings import Thing
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.schema import Finding, History, Prediction, TaskSpec
from hf_inspect.vlm import GroundedVLM, conversation, grounded, parity
from hf_inspect.vlm.families import family_of
from hf_inspect.vlm.generating import Generated, generate
from hf_inspect.vlm.grounded import merged
from hf_inspect.vlm.head import new_head
from hf_inspect.vlm.learned import LEARNED, Learned, with_confidence
from hf_inspect.vlm.tiny import BASES, tiny_base

TASK = TaskSpec(("screw/install", "dent"), ("good", "defect"), "detection")
MOST = 24


@functools.cache
def tiny(name):
    """Model and processor of a tiny base, and the question in its frame."""
    folder = tiny_base(name=name)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    frame = family_of(AutoConfig.from_pretrained(folder)).frame
    return model, AutoProcessor.from_pretrained(folder), prompts.Grounding.about(TASK, frame)


def pictures(n, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 255, (60, 100 + 40 * i, 3), dtype=np.uint8) for i in range(n)]


@dataclass(frozen=True)
class Shown:
    """An exemplar."""

    rgb: Any
    things: Any


class Fixed:
    """A guide that shows every image the same."""

    identity, shared = "f" * 64, True

    def __init__(self, shown, history=None):
        self.shown, self.history = shown, history or History()

    def for_image(self, rgb):
        return self.shown

    def with_features(self, features):
        return self


class Each(Fixed):
    """One that may show each another."""

    shared = False


def guide(kind=Fixed):
    return kind([Shown(rgb, (Thing("dent", (3.0, 4.0, 50.0, 33.0)),)) for rgb in pictures(2, seed=1)])


def vlm(name, **given):
    model, processor, question = tiny(name)
    return GroundedVLM(model, processor, question, most=MOST, **given)


@pytest.mark.parametrize("name", BASES)
def test_turns_are_what_the_processor_makes_of_the_whole(name):
    _, processor, question = tiny(name)
    sizing = sizing_of(parity.image_settings(processor))
    rgbs = pictures(3)
    shown = [sizing.fit(rgb) for rgb in rgbs]
    told = [
        prompts.Told((Thing("dent", (3.0, 4.0, 50.0, 33.0)),), prompts.View(a.shape[:2], b.shape[:2], question.frame))
        for a, b in zip(rgbs, shown, strict=True)
    ]
    messages = prompts.ground(question, told[2], told[:2])
    made = conversation.conversation(processor, messages, shown)
    text = processor.apply_chat_template(messages["prompt"] + messages["completion"], tokenize=False)
    whole = processor(images=[shown], text=[text], add_special_tokens=False, return_tensors="pt")
    assert torch.equal(whole["input_ids"][0], made.ids)
    assert all(torch.equal(whole[key], value) for key, value in made.vision.items())
    answers = [processor.tokenizer.decode(turn.ids) for turn in made.turns if turn.kind != conversation.ASKED]
    assert all(one.lstrip().startswith('[{"bbox_2d": [') and '"label": "dent"}]' in one for one in answers)
    assert [turn.kind for turn in made.turns] == [0, 1, 0, 1, 0, 2]
    asked = conversation.conversation(processor, prompts.ground(question, None, told[:2]), shown)
    assert torch.equal(asked.ids, made.ids[: len(asked.ids)])  # training's answer follows inference's question


@pytest.mark.parametrize("name", BASES)
def test_a_batch_answers_as_one_at_a_time_and_as_transformers_do(name):
    model, processor, _ = tiny(name)
    asked = [vlm(name).prepare(rgb).conversation for rgb in pictures(8)]
    alone = [generate(model, processor, [one], MOST)[0] for one in asked]
    together = generate(model, processor, asked, MOST)
    assert [one.ids for one in together] == [one.ids for one in alone]
    assert np.allclose([x for one in together for x in one.p], [x for one in alone for x in one.p], atol=1e-6)
    with torch.inference_mode():
        for one, own in zip(asked, alone, strict=True):
            given = conversation.padded([one], processor)
            theirs = model.generate(**given, max_new_tokens=MOST, do_sample=False)[0, given["input_ids"].shape[1] :]
            assert theirs[: len(own.ids)].tolist() == list(own.ids)


def test_exemplars_of_other_classes_are_refused():
    other = Fixed([Shown(pictures(1)[0], (Thing("gasket", (3.0, 4.0, 50.0, 33.0)),))])
    with pytest.raises(DataError, match=r"The exemplars show gasket, and the question is of .*'hf-inspect data pool'"):
        vlm("tiny-base", guide=other).prepare(pictures(1)[0])


@pytest.mark.parametrize("name", BASES)
def test_exemplars_are_read_once_and_change_nothing_by_it(name):
    every = [vlm(name, guide=guide(kind)) for kind in (Fixed, Each)]
    answers = [one.generate([one.prepare(rgb) for rgb in pictures(3)]) for one in every]
    assert every[0]._prefix is not None
    assert every[1]._prefix is None
    assert [one.ids for one in answers[0]] == [one.ids for one in answers[1]]
    plain = vlm(name)
    assert [one.p for one in plain.generate([plain.prepare(rgb) for rgb in pictures(3)])] != [
        one.p for one in answers[0]
    ]


def test_a_row_that_ends_is_read_no_more():
    model, processor, _ = tiny("tiny-base")
    asked = [vlm("tiny-base").prepare(rgb).conversation for rgb in pictures(3)]
    first = generate(model, processor, asked, MOST)
    end = first[0].ids[3]
    kept = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = end
    try:
        stopped = generate(model, processor, asked, MOST)
    finally:
        model.generation_config.eos_token_id = kept
    for whole, own in zip(first, stopped, strict=True):
        cut = whole.ids.index(end) if end in whole.ids else len(whole.ids)
        assert own.ids == whole.ids[:cut]
        assert own.ended == (end in whole.ids)


def said(text, p=0.5, ended=True):
    """A generated answer of a text, token by token; each digit's probability is 0.9, all else has `p`."""
    ids = tiny("tiny-base")[1].tokenizer(text, add_special_tokens=False)["input_ids"]
    sure = [0.9 if chr(byte).isdigit() else p for byte in text.encode()]
    assert len(ids) == len(sure)  # a tiny tokenizer's tokens are bytes
    return Generated(tuple(ids), tuple(sure), ended)


VIEW = prompts.View((100, 200), (64, 64))


def test_a_findings_score_is_the_mean_probability_of_its_label_and_coordinates():
    model = vlm("tiny-base")
    text = '[{"bbox_2d": [100, 200, 500, 400], "label": "dent"}, {"bbox_2d": [0, 0, 9, 9], "label": "screw/install"}]'
    found = model.read(said(text), VIEW)
    assert [one.name for one in found.findings] == ["dent", "screw/install"]
    assert found.findings[0].score == pytest.approx((12 * 0.9 + 4 * 0.5) / 16)
    assert found.findings[0].box == pytest.approx((20.0, 20.0, 100.0, 40.0))
    assert found.severity == pytest.approx(found.findings[0].score)
    assert model.read(said("[]"), VIEW).findings == ()


@pytest.mark.parametrize("ended", [True, False])
def test_an_answer_that_breaks_off_is_no_good_part(ended):
    model = vlm("tiny-base")
    good = '[{"bbox_2d": [100, 200, 500, 400], "label": "screw/install"}'
    found = model.read(said(good + ', {"bbox_2d": [1', ended=ended), VIEW)
    assert found.severity is None
    assert "breaks off" in found.unreadable
    assert [one.name for one in found.findings] == ["screw/install"]
    assert model.read(said(good + "]", ended=True), VIEW).severity is not None
    assert model.read(said(good + ', {"bbox_2d": [1, 2, 30, 40], "label": "dent"}', ended=ended), VIEW).severity > 0
    assert model.read(said("I see nothing."), VIEW).unreadable


def test_a_label_that_is_no_class_counts_as_a_defect():
    found = vlm("tiny-base").read(said('[{"bbox_2d": [1, 2, 30, 40], "label": "rust"}]'), VIEW)
    assert found.findings[0].name == "rust"
    assert found.severity == found.findings[0].score


def test_confidence_is_fitted_on_what_was_right():
    rng = np.random.default_rng(0)
    raw = rng.uniform(0.3, 1.0, 400)
    right = rng.random(400) < raw**4
    learned = with_confidence(Learned(), raw.tolist(), right.tolist(), 0.4)
    fitted = learned.confidence.severity(raw)
    assert np.abs(fitted - raw**4).mean() < 0.06 < np.abs(raw - raw**4).mean()
    assert Learned.from_dict(learned.to_dict(), "x") == learned
    assert with_confidence(Learned(), [0.5], [True], None) == Learned()
    with pytest.raises(DataError, match="does not say what its scores mean"):
        Learned.from_dict({"told": 1}, "x")


def adapter(tmp_path, name="tiny-base", ids=None):
    """A base with the prompt of a grounded training beside it."""
    _, processor, question = tiny(name)
    folder = tmp_path / "trained"
    tiny(name)[0].save_pretrained(folder)
    processor.save_pretrained(folder)
    given = parity.grounded_ids(processor, question) if ids is None else ids
    parity.write_prompt(folder, processor, question, given, more={LEARNED: Learned(longest=20).to_dict()})
    files.write_json(folder / "trained_on.json", History().to_dict())
    return folder


def test_it_loads_what_was_trained_and_refuses_another_prompt(tmp_path):
    folder = adapter(tmp_path)
    loaded = grounded.load(folder)
    assert isinstance(loaded, GroundedVLM)
    assert loaded.question == tiny("tiny-base")[2]
    assert loaded.most == 40
    assert loaded.identity != GroundedVLM.from_pretrained(folder, guide=guide()).identity
    for key, value in (("text", "Where?"), ("frame", "pixels"), ("system", "Look.")):
        stated = files.read_json(folder / "prompt.json")
        stated["question"][key] = value
        files.write_json(folder / "prompt.json", stated)
        with pytest.raises(ParityError, match="another prompt"):
            grounded.load(folder)
        stated["question"][key] = loaded.question.to_dict()["question"][key]
        files.write_json(folder / "prompt.json", stated)


def test_another_rendering_of_exemplars_alone_is_refused_too(tmp_path):
    folder = adapter(tmp_path)
    processor = AutoProcessor.from_pretrained(folder)
    plain = prompts.ground(tiny("tiny-base")[2])["prompt"]
    before = processor.apply_chat_template(plain, tokenize=False)
    processor.chat_template = "{% if messages | length > 3 %}{{ 'Examples: ' }}{% endif %}" + processor.chat_template
    assert processor.apply_chat_template(plain, tokenize=False) == before
    processor.save_pretrained(folder)
    with pytest.raises(ParityError, match="another prompt"):
        grounded.load(folder)


def test_exemplars_are_part_of_what_it_saw():
    seen = History(unknown=("pool",))
    shown = Fixed(guide().shown, seen)
    assert vlm("tiny-base", guide=shown).history == seen.union(History())


def finding(name, score, box=(0.0, 0.0, 10.0, 10.0), said=""):
    return Finding(name, score, box, description=said)


def test_text_and_head_are_one_thing_where_they_agree():
    far = (20.0, 20.0, 30.0, 30.0)
    text = Prediction(0.4, findings=(finding("dent", 0.4, said="deep"), finding("rust", 0.2, far)))
    head = Prediction(0.9, findings=(finding("dent", 0.9, (0.0, 0.0, 10.0, 9.0)), finding("screw/install", 0.3, far)))
    found = merged(text, head, TASK)
    assert [(one.name, one.score, one.description) for one in found.findings] == [
        ("dent", 0.9, "deep"), ("screw/install", 0.3, ""), ("rust", 0.2, ""),
    ]  # fmt: skip
    assert found.severity == 0.9


def test_a_head_that_finds_nothing_does_not_mend_an_answer_that_cannot_be_read():
    broken = Prediction(None, unreadable="prose", findings=())
    none = Prediction(0.0, findings=(finding("dent", 0.05),))
    assert merged(broken, none, TASK).unreadable == "prose"
    assert merged(broken, Prediction(0.8, findings=(finding("dent", 0.8),)), TASK).severity == 0.8


@pytest.mark.parametrize("name", BASES)
def test_a_head_says_boxes_without_a_word(name):
    model, processor, question = tiny(name)
    with pytest.raises(DataError, match="no head"):
        GroundedVLM(model, processor, question, by="head")
    torch.manual_seed(0)
    head = new_head(model, TASK.classes, queries=5, width=32).eval()
    alone = GroundedVLM(model, processor, question, head=head, by="head", batch_size=1)
    together = GroundedVLM(model, processor, question, head=head, by="head", batch_size=4)
    for one, other, rgb in zip(alone.predict(pictures(4)), together.predict(pictures(4)), pictures(4), strict=True):
        assert len(one.findings) == len(other.findings) > 0
        a, b = ([(found.score, *found.box) for found in of.findings] for of in (one, other))
        assert np.allclose(a, b, atol=1e-3)
        assert all(found.box[2] <= rgb.shape[1] and found.box[3] <= rgb.shape[0] for found in one.findings)
    assert GroundedVLM(model, processor, question, head=head).by == "both"


@pytest.mark.parametrize("name", BASES)
def test_the_nearest_exemplars_are_those_it_sees_alike(name):
    features = vlm(name).features(pictures(3))
    assert features.shape[0] == 3
    alone, scale = vlm(name).features(pictures(3)[1:2]), np.abs(features).max()
    assert np.abs(features[1:2] - alone).max() < 1e-3 * scale < np.abs(features[0] - features[1]).max()


@pytest.mark.parametrize("name", BASES)
def test_what_it_sees_in_bfloat16_is_much_the_same(name):
    question = tiny(name)[2]
    seen = []
    for dtype in (torch.float32, torch.bfloat16):
        seen.append(GroundedVLM.from_pretrained(name, question=question, dtype=dtype).features(pictures(2)))
    assert seen[0].shape == seen[1].shape
    np.testing.assert_allclose(seen[1], seen[0], atol=0.05 * np.abs(seen[0]).max())
