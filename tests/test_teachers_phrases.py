"""Classes as phrases of one prompt, and whose each token is, whatever the classes are called."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hf_inspect.errors import DataError
from hf_inspect.teachers.phrases import Prompt, class_scores
from hf_inspect.teachers.tiny import letter_tokenizer

TOKENIZER = letter_tokenizer()
WORDS = st.sampled_from(
    ["wire", "rope", "wire rope", "Wire_Rope2", "a", "é", "划痕", "no.", "5?", "-", "ß", "İ", "x" * 9]
)
NAMES = st.one_of(st.lists(WORDS, min_size=1, max_size=4).map(" ".join), st.text(min_size=1, max_size=12))


def offsets_of(prompt):
    encoded = TOKENIZER.encode(prompt.text)
    return encoded.offsets, encoded.ids


def tokens_of(prompt, offsets):
    try:
        return prompt.tokens(offsets)
    except DataError:  # a tokenizer may leave nothing of a phrase
        assume(False)


def prompt_of(names, synonyms=None):
    try:
        return Prompt.of(names, synonyms)
    except DataError:
        assume(False)


@settings(max_examples=300, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=6, unique=True))
@example(["wire", "wire rope", "rope"])
@example(["a", "a a", "a a a"])
@example(["no. 5", "no 6?", "...x"])
def test_each_phrase_has_its_own_tokens_and_every_token_is_of_one(names):
    prompt = prompt_of(names)
    offsets, ids = offsets_of(prompt)
    tokens = tokens_of(prompt, offsets)
    every = [i for own in tokens for i in own]
    assert len(every) == len(set(every))
    between = [i for i in range(len(ids)) if i not in every]
    assert {ids[i] for i in between} <= {101, 102, 1012}
    assert len(between) == len(prompt.phrases) + 2  # a dot each, and the two ends
    assert 1012 not in [ids[i] for i in every]
    assert 1029 not in [ids[i] for i in every]
    for phrase, own in zip(prompt.phrases, tokens, strict=True):
        assert own == list(range(own[0], own[-1] + 1))
        assert TOKENIZER.encode(prompt.said(phrase)).ids[1:-1] == [ids[i] for i in own]


@settings(max_examples=100, deadline=None)
@given(st.lists(NAMES, min_size=2, max_size=5, unique=True), st.randoms(use_true_random=False))
def test_the_order_of_classes_changes_no_class_s_words(names, random):
    prompt, order = prompt_of(names), random.sample(range(len(names)), len(names))
    other = Prompt.of([names[i] for i in order])
    assert [prompt.said(prompt.phrases[i]) for i in order] == [other.said(one) for one in other.phrases]
    assert [one.class_id for one in other.phrases] == list(range(len(names)))


def test_a_class_s_score_is_the_highest_of_its_own_tokens_and_synonyms():
    prompt = Prompt.of(["wire", "wire rope"], {"wire": ["wire", "thin strand"]})
    assert prompt.text == "wire. thin strand. wire rope."
    offsets, _ = offsets_of(prompt)
    own = prompt.class_map(offsets, 2, 64)
    assert not (own[0] & own[1]).any()
    assert own.sum(1).tolist() == [4 + 10, 8]
    at = offsets.index((prompt.phrases[1].start, prompt.phrases[1].start + 1))  # the t of thin
    tokens = np.full((3, 64), 0.1)
    tokens[1, at], tokens[2, 0] = 0.9, 0.8  # the second is of no phrase
    np.testing.assert_allclose(class_scores(tokens, own), [[0.1, 0.1], [0.9, 0.1], [0.1, 0.1]])


@pytest.mark.parametrize(
    ("names", "synonyms", "said"),
    [
        (["wire", "Wire"], {}, "are both called"),
        (["gunny_bag", "gunny bag"], {}, "are both called"),
        (["café", "cafe"], {}, "are both called"),
        (["wire", "rope"], {"rope": ["line", "WIRE"]}, "'wire' and 'rope' are both called"),
        (["...", "wire"], {}, "no letter and no digit"),
        (["wire"], {"wires": ["x"]}, "which is no class"),
    ],
)
def test_what_the_model_could_not_tell_apart_is_a_sentence(names, synonyms, said):
    with pytest.raises(DataError, match=said):
        Prompt.of(names, synonyms)
