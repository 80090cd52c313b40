"""The detection head: where a VLM's image vectors lie, boxes in one forward, what it learns from, and its files."""

import numpy as np
import pytest
import torch

from hf_inspect import hub
from hf_inspect.errors import DataError
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.schema import TaskSpec
from hf_inspect.tasks.detection import Decoding, decode
from hf_inspect.vlm import head as head_module
from hf_inspect.vlm import parity, seeing
from hf_inspect.vlm import tiny as tiny_bases
from hf_inspect.vlm.families import set_side
from hf_inspect.vlm.head import WEIGHTS, Head, HeadConfig, find, load_head, new_head, save_head
from hf_inspect.vlm.head_loss import HeadWeights, captions_of, head_terms, said_loss
from tests import tiny

TASK = TaskSpec(("dent", "crack"), ("defect",) * 2, "detection")
SMALL = {"queries": 9, "width": 32, "heads": 4, "decoder_layers": 2}
SIDES = {"tiny-base": 128, "tiny-qwen2_5_vl": 112, "tiny-qwen3_vl": 128, "tiny-smolvlm": 128, "tiny-llava": 64}


@pytest.fixture(scope="module", params=SIDES)
def base(request, tmp_path_factory):
    """A model whose vectors differ from place to place, its processor, and how images are sized."""
    model, processor = tiny.parts(tiny.loud_base(tmp_path_factory.mktemp("head") / "base", request.param))
    set_side(processor, model.config, SIDES[request.param])
    return model, processor, sizing_of(parity.image_settings(processor))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    model, processor = tiny.parts(tiny_bases.tiny_base(tmp_path_factory.mktemp("head") / "q", "tiny-qwen2_5_vl"))
    return model, processor, sizing_of(parity.image_settings(processor))


def vectors(model, given):
    pixels = {k: v for k, v in given.items() if k not in (seeing.PLACES, seeing.PRESENT, seeing.COUNTS)}
    with torch.inference_mode(), seeing.watched(model) as seen:
        model.get_image_features(**pixels)
    return seeing.rows_of(seen[0], given)


@pytest.mark.parametrize("shape", [(128, 64), (64, 128), (128, 128)])
def test_a_vector_lies_where_its_pixels_are(base, shape):
    """What is painted into a corner changes the vectors of that corner most, tiles and the whole alike."""
    model, processor, sizing = base
    plain = sizing.fit(np.full((*shape, 3), 90, np.uint8))
    height, width = plain.shape[:2]
    before = vectors(model, seeing.look(processor, [plain]))[0]
    for right in (False, True):
        for low in (False, True):
            painted = plain.copy()
            rows = slice(height * 3 // 4, None) if low else slice(0, height // 4)
            columns = slice(width * 3 // 4, None) if right else slice(0, width // 4)
            painted[rows, columns] = np.random.default_rng(0).integers(0, 255, (height // 4, width // 4, 3))
            given = seeing.look(processor, [painted])
            moved = (vectors(model, given)[0] - before).norm(dim=1)
            places = given[seeing.PLACES][0]
            assert places.shape == (len(moved), 4)
            x, y = places[moved.argmax(), :2]
            assert (x > 0.5, y > 0.5) == (right, low)


def test_images_of_a_batch_are_seen_as_each_alone(base):
    model, processor, sizing = base
    head = new_head(model, TASK.classes, **SMALL).eval()
    torch.nn.init.normal_(head.box.layers[-1].weight)
    shown = [sizing.fit(one) for one in tiny.pictures(3)]
    scores, boxes = find(model, head, seeing.look(processor, shown))
    assert scores.shape == (3, 9, 2)
    assert boxes.shape == (3, 9, 4)
    assert np.ptp(scores, 0).max() > 1e-4
    for i, one in enumerate(shown):
        alone = find(model, head, seeing.look(processor, [one]))
        assert np.abs(alone[0][0] - scores[i]).max() <= 1e-5
        assert np.abs(alone[1][0] - boxes[i]).max() <= 1e-5
    said = decode([scores, boxes], TASK, [one.shape[:2] for one in shown], Decoding(least=0.0).to_dict())
    assert all(0 < len(one.findings) <= 18 for one in said)


def test_vectors_that_are_not_of_the_images_are_a_sentence(qwen):
    model, processor, sizing = qwen
    given = seeing.look(processor, [sizing.fit(one) for one in tiny.pictures(2)])
    with pytest.raises(DataError, match=r"vectors where .* are wanted"):
        find(model, new_head(model, TASK.classes, **SMALL), given | {seeing.COUNTS: given[seeing.COUNTS] + 1})


def there(boxes, kinds, captions=()):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "class_labels": torch.tensor(kinds, dtype=torch.long), "captions": list(captions),
    }  # fmt: skip


def guess_of(head, boxes, logits):
    from hf_inspect.vlm.head import Guess

    vectors = torch.zeros(len(boxes), len(boxes[0]), head.config.width, requires_grad=True)
    return Guess(torch.tensor([logits]).log_softmax(-1), torch.tensor([boxes]), vectors, vectors.sum() + 0.25)


def nothing_said(tokens, captions):
    return tokens.sum() * 0


def test_terms_are_those_of_the_guess_matched_to_what_is_there(qwen):
    head = new_head(qwen[0], TASK.classes, **SMALL)
    boxes = [[[0.2, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.4]]]
    sure = [[[9.0, -9.0, -9.0], [-9.0, 9.0, -9.0]]]
    targets = [there([[0.7, 0.7, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2]], [1, 0], [[1], [2]])]  # the other way round
    total, terms = head_terms(head, guess_of(head, boxes, sure), targets, HeadWeights(), nothing_said)
    assert terms["bbox"].item() == pytest.approx(0.2 / 2)  # one height is 0.2 too much, of two things
    assert terms["giou"].item() == pytest.approx((1 - 0.5) / 2)
    assert terms["objectness"].item() == pytest.approx(0, abs=1e-4)
    assert total.item() == pytest.approx(10 * 0.1 + 2 * 0.25, abs=1e-3)
    assert terms["place"].item() == 0.25
    placed, _ = head_terms(head, guess_of(head, boxes, sure), targets, HeadWeights(place=4), nothing_said)
    assert placed.item() == pytest.approx(total.item() + 4 * 0.25, abs=1e-5)
    other = [[[-9.0, 9.0, -9.0], [9.0, -9.0, -9.0]]]
    assert head_terms(head, guess_of(head, boxes, other), targets, HeadWeights(), nothing_said)[1]["objectness"] > 1


def test_an_image_of_nothing_teaches_that_nothing_is_there(qwen):
    head = new_head(qwen[0], TASK.classes, **SMALL)
    guess = guess_of(head, [[[0.5, 0.5, 0.2, 0.2]]], [[[9.0, -9.0, -9.0]]])
    total, terms = head_terms(head, guess, [there([], [])], HeadWeights(), nothing_said)
    assert terms["objectness"] > 5
    assert terms["bbox"] == terms["giou"] == terms["caption"] == 0
    assert torch.isfinite(total)
    asked = []

    def say(tokens, captions):
        asked.append((tuple(tokens.shape), captions))
        return tokens.sum() + 1

    _, terms = head_terms(head, guess, [there([], [])], HeadWeights(), say)
    assert asked == [((1, head.config.features), [[0]])]  # as where something is: FSDP's processes go in step
    assert terms["caption"] == 0


def test_captions_are_of_the_query_that_found_the_thing_and_of_few(qwen):
    head = new_head(qwen[0], TASK.classes, **SMALL)
    boxes = [[[0.8, 0.8, 0.1, 0.1], [0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1]]]
    guess = guess_of(head, boxes, [[[9.0, -9.0, -9.0]] * 3])
    guess = guess._replace(vectors=torch.eye(3, head.config.width)[None])
    asked = []

    def say(tokens, captions):
        asked.append((tokens, captions))
        return tokens.sum()

    targets = [there([[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]], [0, 0], [[20], [80]])]
    head_terms(head, guess, targets, HeadWeights(), say)
    [(tokens, captions)] = asked
    own = {80: guess.vectors[0, 0], 20: guess.vectors[0, 1]}
    assert sorted(captions) == [[20], [80]]
    for token, [caption] in zip(tokens, captions, strict=True):
        assert torch.allclose(token, head.say(own[caption]))
    head_terms(head, guess, targets, HeadWeights(captions=1), say)
    assert len(asked[-1][1]) == 1


def test_the_language_model_says_what_a_soft_token_stands_for(qwen):
    """Its loss is that of the caption after the token, and captions of other lengths beside it change nothing."""
    model, processor, _ = qwen
    short, long = captions_of(processor, ["dent", "crack"], ["", "a long one"])
    assert processor.tokenizer.decode(long[:-1]) == "crack: a long one"
    assert long[-1] == processor.tokenizer.eos_token_id
    tokens = torch.randn(2, model.config.text_config.hidden_size)
    alone = [said_loss(model, model.forward, tokens[i : i + 1], [one]) for i, one in enumerate((short, long))]
    both = said_loss(model, model.forward, tokens, [short, long])
    n = len(short), len(long)
    assert both.item() == pytest.approx((alone[0].item() * n[0] + alone[1].item() * n[1]) / sum(n), abs=1e-5)
    embedded = torch.cat([tokens[:1], model.get_input_embeddings()(torch.tensor(short[:-1]))])[None]
    logits = model(inputs_embeds=embedded, position_ids=torch.arange(len(short))[None]).logits[0]
    assert alone[0].item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, torch.tensor(short)).item(), abs=1e-5
    )


def test_a_head_learns_where_things_are(qwen):
    model, processor, sizing = qwen
    torch.manual_seed(0)
    head = new_head(model, TASK.classes, **SMALL)
    shown = [sizing.fit(one) for one in tiny.pictures(2)]
    given = seeing.look(processor, shown)
    seen = vectors(model, given).clone()
    said = captions_of(processor, ["dent", "crack"], ["", ""])
    targets = [there([[0.3, 0.3, 0.2, 0.4]], [0], said[:1]), there([[0.7, 0.6, 0.4, 0.2]], [1], said[1:])]
    optimizer = torch.optim.AdamW(head.parameters(), 3e-3)
    losses = []
    for _ in range(80):
        guess = head(seen, given[seeing.PLACES], given[seeing.PRESENT])
        loss, _ = head_terms(head, guess, targets, HeadWeights(), lambda t, c: said_loss(model, model.forward, t, c))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
    assert all(parameter.grad is not None for parameter in head.parameters())
    [one, two] = decode(
        find(model, head.eval(), given), TASK, [(100, 100)] * 2, Decoding(least=0.3, overlap=0.5).to_dict()
    )
    for said, name, box in ((one, "dent", (20, 10, 40, 50)), (two, "crack", (50, 50, 90, 70))):
        assert said.findings[0].name == name
        assert np.abs(np.subtract(said.findings[0].box, box)).max() < 10


def test_a_head_is_saved_and_loaded_whole(qwen, tmp_path):
    model, processor, sizing = qwen
    head = new_head(model, TASK.classes, **SMALL).eval()
    save_head(head, tmp_path)
    given = seeing.look(processor, [sizing.fit(one) for one in tiny.pictures(2)])
    for a, b in zip(find(model, head, given), find(model, load_head(tmp_path, model), given), strict=True):
        assert np.array_equal(a, b)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert {"adapter/head.json", "adapter/head.safetensors"} <= set(hub.file_hashes({"adapter": tmp_path}))
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-9])
    with pytest.raises(DataError, match="cut off or damaged"):
        load_head(tmp_path, model)
    model.config.text_config.hidden_size = 128
    try:
        with pytest.raises(DataError, match="features of 64, this base has 128"):
            load_head(tmp_path, model)
    finally:
        model.config.text_config.hidden_size = 64


@pytest.mark.parametrize("sizes", [{"width": 30}, {"queries": 0}])
def test_a_head_of_no_size_is_a_sentence(qwen, sizes):
    with pytest.raises(DataError, match="detection head"):
        new_head(qwen[0], TASK.classes, **SMALL | sizes)


def test_a_query_starts_with_the_vectors_around_it():
    starts, places = torch.tensor([[0.125, 0.125], [0.9, 0.4]]), seeing._grid(4, 4)[None]
    near = head_module._around(starts, places, torch.ones(1, 16))
    assert torch.allclose(near.sum(-1), torch.ones(1, 2))
    assert near[0].argmax(-1).tolist() == [0, 7]
    gone = torch.ones(1, 16)
    gone[0, 7] = 0
    assert head_module._around(starts, places, gone)[0, 1, 7] == 0


def test_what_a_cell_shows_is_learned_in_a_few_steps():
    """Of 60 steps: a query that starts with nothing of the image is at a loss of 0.68 by then, 0.15 was seen here."""
    torch.manual_seed(0)
    made = Head(HeadConfig(16, ("a", "b"), queries=16, width=32, heads=4, encoder_layers=0, decoder_layers=1))
    optimizer, rng = torch.optim.AdamW(made.parameters(), lr=3e-3), torch.Generator().manual_seed(1)
    places = seeing._grid(4, 4)[None].expand(8, -1, -1)
    for _ in range(60):
        cells, kinds = torch.randint(16, (8,), generator=rng), torch.randint(2, (8,), generator=rng)
        vectors = torch.randn(8, 16, 16, generator=rng) * 0.1
        vectors[torch.arange(8), cells, kinds] += 3
        there = [
            {"boxes": places[0, cell][None], "class_labels": kind[None], "captions": [[1]]}
            for cell, kind in zip(cells, kinds, strict=True)
        ]
        total, terms = head_terms(made, made(vectors, places, torch.ones(8, 16)), there, HeadWeights(captions=0), None)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert terms["objectness"] < 0.4


@pytest.mark.parametrize("told", [True, False])
def test_vectors_learn_to_tell_where_they_lie_if_anything_of_them_does(told):
    torch.manual_seed(0)
    made = Head(HeadConfig(16, ("a",), queries=4, width=32, heads=4, encoder_layers=0, decoder_layers=1))
    optimizer, rng = torch.optim.AdamW(made.parameters(), lr=1e-2), torch.Generator().manual_seed(1)
    places = seeing._grid(4, 4)[None].expand(8, -1, -1)
    present = torch.ones(8, 16)
    present[:, 15] = 0
    for _ in range(150):
        vectors = torch.randn(8, 16, 16, generator=rng)
        if told:
            vectors[..., :2] += 6 * places[..., :2]
        vectors[:, 15] = 1e3  # padding, which counts nowhere
        apart = made(vectors, places, present).apart
        optimizer.zero_grad()
        apart.backward()
        optimizer.step()
    assert (apart < 0.15) == told  # 0.25 is what a vector is from the middle, on average
