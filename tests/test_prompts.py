"""Rendering and parsing invert each other; the fingerprint sees what it must and nothing else."""

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_inspect import prompts
from hf_inspect.errors import DataError, ParseError
from hf_inspect.schema import LABELS

words = st.text(min_size=1, max_size=20).filter(lambda text: text == text.strip())
tasks = st.builds(
    prompts.Task,
    system=st.text(max_size=30),
    question=words,
    options=st.lists(words, min_size=2, max_size=5, unique=True).map(tuple),
)
IMAGE = 9
ids = st.lists(st.integers(0, 12), max_size=40)


def text_of(messages):
    return "".join(part.get("text", "") for message in messages for part in message["content"])


@given(tasks, st.data(), st.sampled_from(["", " ", "\n"]))
def test_parse_inverts_render(task, data, around):
    label = data.draw(st.integers(0, len(task.options) - 1))
    completion = prompts.render(task, label)["completion"]
    assert prompts.parse(task, around + text_of(completion) + around) == label


@given(tasks, st.text(max_size=30))
def test_what_is_no_option_is_never_read_as_one(task, text):
    if text.strip() in task.options:
        assert task.options[prompts.parse(task, text)] == text.strip()
    else:
        with pytest.raises(ParseError, match="is none of"):
            prompts.parse(task, text)


@given(tasks)
def test_a_task_survives_json(task):
    assert prompts.Task.from_dict(task.to_dict()) == task


def test_the_prompt_shows_one_image_and_not_the_answer():
    task = prompts.SOLAR_CELL
    asked, answered = prompts.render(task), prompts.render(task, 1)
    assert asked["prompt"] == answered["prompt"]
    assert "completion" not in asked
    parts = [part["type"] for message in asked["prompt"] for part in message["content"]]
    assert parts == ["text", "image", "text"]
    assert text_of(asked["prompt"]) == task.system + task.question
    assert task.options == LABELS
    assert [m["role"] for m in prompts.render(prompts.Task("", "Which?", ("a", "b")))["prompt"]] == ["user"]


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        (" ", ("a", "b"), "needs a question"),
        ("Which?", ("a",), "two or more"),
        ("Which?", ("a", "a"), "two or more"),
        ("Which?", ("a", " b"), "without spaces"),
        ("Which?", ("a", ""), "without spaces"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused(question, options, message):
    with pytest.raises(DataError, match=message):
        prompts.Task("", question, options)


def test_an_unknown_class_or_key_is_refused():
    with pytest.raises(DataError, match="Class 2"):
        prompts.render(prompts.SOLAR_CELL, 2)
    with pytest.raises(DataError, match="Class -1"):
        prompts.render(prompts.SOLAR_CELL, -1)
    with pytest.raises(DataError, match="keys"):
        prompts.Task.from_dict({"system": "", "question": "Which?"})


@given(ids, st.integers(1, 5))
def test_only_the_length_of_a_run_of_image_tokens_is_forgotten(tokens, times):
    stretched = [i for token in tokens for i in [token] * (times if token == IMAGE else 1)]
    assert prompts.fingerprint(tokens, IMAGE, {}) == prompts.fingerprint(stretched, IMAGE, {})
    collapsed = prompts.collapse(tokens, IMAGE)
    assert [i for i in collapsed if i != IMAGE] == [i for i in tokens if i != IMAGE]
    assert (IMAGE, IMAGE) not in pairwise(collapsed)


@given(ids, ids)
def test_other_ids_have_another_fingerprint(a, b):
    same = prompts.collapse(a, IMAGE) == prompts.collapse(b, IMAGE)
    assert same == (prompts.fingerprint(a, IMAGE, {}) == prompts.fingerprint(b, IMAGE, {}))


def test_the_image_rule_is_part_of_the_fingerprint():
    small, large = ({"size": {"height": side, "width": side}} for side in (224, 288))
    assert prompts.fingerprint([1], IMAGE, small) != prompts.fingerprint([1], IMAGE, large)


def test_a_difference_is_readable_also_where_nothing_shows():
    assert "+Is it bad?" in prompts.text_diff("Hello\nIs it good?", "Hello\nIs it bad?")
    assert "the text is the same" in prompts.text_diff("Hello", "Hello")


def test_prompts_needs_the_standard_library_alone():
    code = "import sys, hf_inspect.prompts; print({'numpy', 'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
