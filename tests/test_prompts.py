"""Rendering and parsing invert each other; the fingerprint sees what it must and nothing else."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_inspect import prompts
from hf_inspect.errors import DataError, ParseError
from hf_inspect.schema import DEFECT, GOOD, TaskSpec

words = st.text(min_size=1, max_size=20).filter(lambda text: text == text.strip())
tasks = st.lists(words, min_size=2, max_size=5, unique=True).flatmap(
    lambda names: st.lists(st.sampled_from([GOOD, DEFECT]), min_size=len(names), max_size=len(names)).map(
        lambda sides: TaskSpec(tuple(names), tuple(sides))
    )
)
questions = st.builds(prompts.Question, system=st.text(max_size=30), text=words, task=tasks)
AB = TaskSpec.of(("a", "b"), good=("a",))
IMAGE = 9
ids = st.lists(st.integers(0, 12), max_size=40)


def text_of(messages):
    return "".join(part.get("text", "") for message in messages for part in message["content"])


@given(questions, st.data(), st.sampled_from(["", " ", "\n"]))
def test_parse_inverts_render(question, data, around):
    class_id = data.draw(st.integers(0, len(question.options) - 1))
    completion = prompts.render(question, class_id)["completion"]
    assert text_of(completion) == question.task.classes[class_id]
    assert prompts.parse(question, around + text_of(completion) + around) == class_id


@given(questions, st.text(max_size=30))
def test_what_is_no_option_is_never_read_as_one(question, text):
    if text.strip() in question.options:
        assert question.options[prompts.parse(question, text)] == text.strip()
    else:
        with pytest.raises(ParseError, match="is none of"):
            prompts.parse(question, text)


@given(questions)
def test_a_question_survives_json(question):
    assert prompts.Question.from_dict(json.loads(json.dumps(question.to_dict())), "prompt.json") == question


def test_the_prompt_shows_one_image_and_not_the_answer():
    question = prompts.SOLAR_CELL
    asked, answered = prompts.render(question), prompts.render(question, 1)
    assert asked["prompt"] == answered["prompt"]
    assert "completion" not in asked
    parts = [part["type"] for message in asked["prompt"] for part in message["content"]]
    assert parts == ["text", "image", "text"]
    assert text_of(asked["prompt"]) == question.system + question.text
    assert [m["role"] for m in prompts.render(prompts.Question("", "Which?", AB))["prompt"]] == ["user"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (" ", ("a", "b"), "needs a text"),
        ("Which?", ("a",), "two or more"),
        ("Which?", ("a", " b"), "without spaces"),
        ("Which?", ("a", "b\n"), "without spaces"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(text, options, message):
    with pytest.raises(DataError, match=message):
        prompts.Question("", text, TaskSpec.of(options, good=()))


@pytest.mark.parametrize("class_id", [2, -1])
def test_an_unknown_class_is_refused(class_id):
    with pytest.raises(DataError, match=f"Class {class_id}"):
        prompts.render(prompts.SOLAR_CELL, class_id)


def test_a_record_of_an_older_version_says_how_to_make_it_anew():
    old = {"task": {"system": "", "question": "Which?", "options": ["a", "b"]}}
    with pytest.raises(DataError, match=r"prompt\.json holds .* train the model again with recipes/vlm_sft"):
        prompts.Question.from_dict(old, "prompt.json")
    stated = prompts.SOLAR_CELL.to_dict()
    for broken in (stated | {"question": {"system": ""}}, [], {"question": stated["question"]}):
        with pytest.raises(DataError, match=r"prompt\.json"):
            prompts.Question.from_dict(broken, "prompt.json")


@given(ids, st.integers(1, 5))
def test_only_the_length_of_a_run_of_image_tokens_is_forgotten(tokens, times):
    stretched = [i for token in tokens for i in [token] * (times if token == IMAGE else 1)]
    assert prompts.fingerprint(tokens, IMAGE, {}, AB) == prompts.fingerprint(stretched, IMAGE, {}, AB)
    collapsed = prompts.collapse(tokens, IMAGE)
    assert [i for i in collapsed if i != IMAGE] == [i for i in tokens if i != IMAGE]
    assert (IMAGE, IMAGE) not in pairwise(collapsed)


@given(ids, ids)
def test_other_ids_have_another_fingerprint(a, b):
    same = prompts.collapse(a, IMAGE) == prompts.collapse(b, IMAGE)
    assert same == (prompts.fingerprint(a, IMAGE, {}, AB) == prompts.fingerprint(b, IMAGE, {}, AB))


@given(tasks, tasks)
def test_other_classes_in_another_order_or_of_another_side_have_another_fingerprint(a, b):
    assert (a == b) == (prompts.fingerprint([1], IMAGE, {}, a) == prompts.fingerprint([1], IMAGE, {}, b))
    turned = TaskSpec(a.classes[::-1], a.dispositions[::-1])
    flipped = TaskSpec(a.classes, tuple(GOOD if one == DEFECT else DEFECT for one in a.dispositions))
    for other in (turned, flipped):
        assert prompts.fingerprint([1], IMAGE, {}, a) != prompts.fingerprint([1], IMAGE, {}, other)


def test_the_image_rule_is_part_of_the_fingerprint():
    small, large = ({"size": {"height": side, "width": side}} for side in (224, 288))
    assert prompts.fingerprint([1], IMAGE, small, AB) != prompts.fingerprint([1], IMAGE, large, AB)


def test_a_difference_is_readable_also_where_nothing_shows():
    assert "+Is it bad?" in prompts.text_diff("Hello\nIs it good?", "Hello\nIs it bad?")
    assert "the text is the same" in prompts.text_diff("Hello", "Hello")


def test_prompts_needs_no_library_of_models():
    code = "import sys, hf_inspect.prompts; print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
