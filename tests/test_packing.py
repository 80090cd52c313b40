"""Conversations of several lengths in one row: the loss, the gradient and what each sees are those of each alone."""

import numpy as np
import pytest
import torch

from hf_inspect import prompts
from hf_inspect.metrics.findings import Thing
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.schema import TaskSpec
from hf_inspect.vlm import parity
from hf_inspect.vlm.conversation import ANSWER, EXEMPLAR, IGNORED, conversation, padded
from hf_inspect.vlm.families import family_of, set_side
from hf_inspect.vlm.packing import attend_apart, packed
from hf_inspect.vlm.training import answer_loss
from tests import tiny

TASK = TaskSpec(("dent", "crack"), ("defect",) * 2, "detection")
SIDES = {"tiny-base": 64, "tiny-qwen2_5_vl": 84, "tiny-qwen3_vl": 96, "tiny-smolvlm": 128, "tiny-llava": 64}


def samples(model, processor, n=3):
    """Conversations about images of several sizes, some of which carry exemplars."""
    sizing, rng = sizing_of(parity.image_settings(processor)), np.random.default_rng(0)
    question = prompts.Grounding("", "Where?", TASK, family_of(model.config).frame)
    made = []
    for i in range(n):
        shown, told = [], []
        for _ in range(1 + i % 3):
            size = tuple(int(side) for side in rng.integers(60, 130, 2))
            shown.append(sizing.fit(rng.integers(0, 255, (*size, 3)).astype(np.uint8)))
            view = prompts.View(size, shown[-1].shape[:2], question.frame)
            things = [Thing("dent", (1.0, 2.0, 30.0, 40.0)), Thing("crack", (5.0, 5.0, 45.0, 20.0))][: rng.integers(3)]
            told.append(prompts.Told(tuple(things), view))
        made.append(conversation(processor, prompts.ground(question, told[-1], told[:-1]), shown))
    return made


@pytest.fixture(
    scope="module",
    params=[
        *((name, way) for name in SIDES for way in ("sdpa", "apart")),
        ("tiny-qwen2_5_vl", "eager"),
        ("tiny-base", "eager"),
    ],
    ids="-".join,
)
def base(request, tmp_path_factory):
    name, way = request.param
    model, processor = tiny.parts(tiny.loud_base(tmp_path_factory.mktemp("packed") / "base", name))
    if way == "eager":  # sdpa is the default
        model.set_attn_implementation(way)
    if way == "apart":
        attend_apart(model)
    set_side(processor, model.config, SIDES[name])
    return model, processor


def n_of(given):
    return int((given["labels"] != IGNORED).sum())


def test_the_loss_of_a_packed_row_is_that_of_each_alone(base):
    model, processor = base
    made = samples(model, processor)
    assert len({len(one.ids) for one in made}) > 2
    for kinds in ((ANSWER,), (EXEMPLAR, ANSWER)):
        row = packed(made, model, processor, kinds)
        alone = [padded([one], processor, "right", kinds) for one in made]
        assert n_of(row) == sum(map(n_of, alone)) == n_of(padded(made, processor, "right", kinds))
        wanted = sum(answer_loss(model, one, 1) for one in alone) / n_of(row)
        together = answer_loss(model, padded(made, processor, "right", kinds))
        assert answer_loss(model, row).item() == pytest.approx(wanted.item(), abs=1e-5)
        assert together.item() == pytest.approx(wanted.item(), abs=1e-5)


def test_what_one_says_changes_nothing_for_the_next(base):
    model, processor = base
    first, second, third = samples(model, processor, 3)
    with torch.inference_mode():
        given = [packed([one, second], model, processor, (ANSWER,)) for one in (first, third)]
        seen = [
            model(**{k: v for k, v in one.items() if k != "labels"}, use_cache=False).logits[0, -len(second.ids) :]
            for one in given
        ]
    assert (seen[0] - seen[1]).abs().max() <= 1e-4


def test_gradients_of_a_packed_row_are_those_of_a_padded_batch(base):
    model, processor = base
    made, found = samples(model, processor), []
    for given in (packed(made, model, processor, (ANSWER,)), padded(made, processor, "right", (ANSWER,))):
        model.zero_grad()
        answer_loss(model, given).backward()
        found.append(model.get_input_embeddings().weight.grad.clone())
    assert (found[0] - found[1]).abs().max() <= 1e-5 * max(1, found[1].abs().max())


@pytest.mark.parametrize("name", SIDES)
def test_apart_no_attention_is_over_more_than_one_conversation(tmp_path, monkeypatch, name):
    from transformers.integrations import sdpa_attention

    model, processor = tiny.parts(tiny.loud_base(tmp_path / "base", name))
    set_side(processor, model.config, SIDES[name])
    made, theirs, seen = samples(model, processor), sdpa_attention.sdpa_attention_forward, []

    def counted(module, query, key, value, mask, **given):
        seen.append(((query.shape[2], key.shape[2]), mask))
        return theirs(module, query, key, value, mask, **given)

    attend_apart(model)
    row = packed(made, model, processor, (ANSWER,))
    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", counted)
    model(**{name: value for name, value in row.items() if name != "labels"}, use_cache=False)
    lengths = [len(one.ids) for one in made]
    words = [shape for shape, mask in seen if shape[0] in lengths and mask is None]
    layers = model.config.get_text_config().num_hidden_layers
    assert words == [(length, length) for length in lengths] * layers
    assert sum(lengths) not in {shape[0] for shape, _ in seen}
