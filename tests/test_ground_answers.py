"""What a VLM answers about where things are is read back as it was rendered, salvaged, or unreadable: never lost."""

import contextlib
import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_inspect import prompts
from hf_inspect.errors import ParseError
from hf_inspect.metrics.findings import Thing
from hf_inspect.prompts import PIXELS, THOUSANDTHS, View, read_answer, reading, render_answer

WHOLE = View((1000, 1000), (1000, 1000))  # one pixel a number
LETTERS = "aé螺丝/安装\"\\\n\t'“”，：［］{}[]:, 0９😀\u2028"  # noqa: RUF001
labels = st.one_of(st.text(LETTERS, min_size=1, max_size=12), st.text(min_size=1, max_size=12)).filter(str.strip)
sides = st.integers(1, 5000)
views = st.builds(
    View, size=st.tuples(sides, sides), shown=st.tuples(sides, sides), frame=st.sampled_from([THOUSANDTHS, PIXELS])
)
FULL = str.maketrans('0123456789[]{},:".-', "０１２３４５６７８９［］｛｝，：＂．－")  # noqa: RUF001


@st.composite
def shown(draw):
    """A view, and things in it."""
    view = draw(views)
    height, width = view.size
    corner = st.tuples(st.floats(0, 1), st.floats(0, 1))
    things = []
    for _ in range(draw(st.integers(0, 4))):
        (xa, ya), (xb, yb) = draw(corner), draw(corner)
        box = (min(xa, xb) * width, min(ya, yb) * height, max(xa, xb) * width, max(ya, yb) * height)
        things.append(Thing(draw(labels), box, description=draw(st.one_of(st.just(""), labels))))
    return view, tuple(things)


def things_of(answer):
    return tuple(Thing(one.name, one.box, description=one.description) for one in answer.said)


def spans(text, answer):
    return [(text[slice(*one.label_at)], [text[slice(*at)] for at in one.numbers_at]) for one in answer.said]


def names(text, view=WHOLE):
    return [one.name for one in read_answer(text, view).said]


@given(shown(), st.booleans())
def test_reading_inverts_rendering_up_to_rounding(told, describe):
    view, things = told
    text = render_answer(things, view, describe=describe)
    answer = read_answer(text, view)
    assert not answer.cut
    assert not answer.left_out
    assert not answer.mended
    assert render_answer(things_of(answer), view, describe=describe) == text
    assert sorted(one.name for one in answer.said) == sorted(one.name for one in things)
    assert [[one["bbox_2d"], one["label"], one.get("description", "")] for one in json.loads(text)] == [
        [list(view.numbers(one.box)), one.name, one.description] for one in answer.said
    ]
    for (label, numbers), one in zip(spans(text, answer), json.loads(text), strict=True):
        assert json.loads(f'"{label}"') == one["label"]
        assert [int(number) for number in numbers] == one["bbox_2d"]


@given(shown())
def test_boxes_come_back_within_half_a_number_or_the_one_that_a_box_is_wide_at_least(told):
    view, things = told
    by_name = {}
    for one in things:
        by_name.setdefault(one.name, []).append(one.box)
    (wide, high), (height, width) = view.units, view.size
    for said in read_answer(render_answer(things, view), view).said:
        steps = (width / wide, height / high) * 2
        assert any(
            all(abs(a - b) <= 1.5 * step + 1e-6 for a, b, step in zip(said.box, box, steps, strict=True))
            for box in by_name[said.name]
        )


@given(shown())
def test_full_width_marks_and_digits_are_read_as_the_others(told):
    view, things = told
    plain = tuple(Thing("螺丝/安装", one.box) for one in things)
    text = render_answer(plain, view)
    assert things_of(read_answer(text.translate(FULL), view)) == things_of(read_answer(text, view))


ONE = '{"bbox_2d": [10, 20, 30, 40], "label": "dent"}'
TWO = '{"bbox_2d": [50, 60, 70, 80], "label": "scratch"}'


@pytest.mark.parametrize(
    "text",
    [
        f"[{ONE}]",
        f"```json\n[{ONE}]\n```",
        f"```json\n[{ONE}]",
        f"It's one: see [1] and {{this}}.\n[{ONE}]\nThat's 1\" wide.",
        ONE,
        f'{{"objects": [{ONE}]}}',
        f'{{"image": "a.png", "n": 1, "detections": [{ONE}]}}',
        f"[[{ONE}]]",
        '[{"bbox": [10, 20, 30, 40], "label": "dent"}]',
        '[{"label": "dent", "box": [10.0, 20.00, 3e1, 40.]}]',
        '[{"label": "dent", "bbox_2d": ["10", "20", "30", "40"]}]',
        '[{"label": "dent", "bbox_2d": "[10, 20, 30, 40]"}]',
        '[{"label": "dent", "bbox_2d": [[10, 20], [30, 40]]}]',
        '[{"label": "dent", "bbox_2d": [[10, 20, 30, 40]]}]',
        "[{'bbox_2d': [10, 20, 30, 40], 'label': 'dent'}]",
        '[{bbox_2d: [10, 20, 30, 40], label: "dent",},]',
        "[{“bbox_2d”: [10，20，30，40]， “label”： “dent”}]",  # noqa: RUF001
        '[{"bbox_2d": [１０, ２０, ３０, ４０], "label": "dent"}]',  # noqa: RUF001
        '[{"bbox_2d": [10, 20, 30, 40], "bbox_2d": [10, 20, 30, 40], "label": "dent", "label": "dent"}]',
        '[{"class": "part", "label": "dent", "bbox_2d": [10, 20, 30, 40], "score": 0.9}]',
        '[{"bbox_2d": [10, 20, 30, 40], "label": "dent", "sub": null, "more": {"a": [1, {"b": true}]}}]',
        '[{"bbox_2d": [10 20 30 40] "label": "dent"}]',
        '[{"bbox_2d": [10, 20, 30, 40, "label": "dent"}, ' + ONE + "]",
        '[{"bbox_2d": [10, 20, 30, 40], "label": "dent"]',
    ],
)
def test_what_models_write_is_read(text):
    answer = read_answer(text, WHOLE)
    assert [(one.name, one.box) for one in answer.said] == [("dent", (10, 20, 30, 40))]
    (label, numbers) = spans(text, answer)[0]
    assert label == "dent"
    assert [float(number) for number in numbers] == [10, 20, 30, 40]


def test_labels_are_as_they_are_said():
    text = r'[{"bbox_2d": [1, 2, 3, 4], "label": "3" bolt, \"M3\" a\/b \ud83d\ude00 \q", "description": "it\'s bent"}]'
    (one,) = read_answer(text, WHOLE).said
    assert one.name == '3" bolt, "M3" a/b 😀 q'
    assert one.description == "it's bent"
    (one,) = read_answer("[{'bbox_2d': [1, 2, 3, 4], 'label': 'fitter's mark'}]", WHOLE).said
    assert one.name == "fitter's mark"


def test_keys_that_come_again_with_other_values_are_other_things_and_none_is_lost():
    merged = '[{"bbox_2d": [10, 20, 30, 40], "label": "dent", "bbox_2d": [50, 60, 70, 80], "label": "scratch"}]'
    assert [(one.name, one.box[0]) for one in read_answer(merged, WHOLE).said] == [("dent", 10), ("scratch", 50)]
    several = '[{"bbox_2d": [[10, 20, 30, 40], [50, 60, 70, 80]], "label": "dent"}]'
    assert [(one.name, one.box[0]) for one in read_answer(several, WHOLE).said] == [("dent", 10), ("dent", 50)]
    unclear = read_answer('[{"bbox_2d": [10, 20, 30, 40], "label": "dent", "label": "scratch"}]', WHOLE)
    assert [one.name for one in unclear.said] == ["dent"]
    assert unclear.left_out == (reading.NO_BOX,)


@pytest.mark.parametrize(
    ("box", "wanted", "mended"),
    [
        ("[30, 40, 10, 20]", (10, 20, 30, 40), [reading.REVERSED]),
        ("[-5, 20, 30, 1040]", (0, 20, 30, 1000), [reading.CLIPPED]),
        ("[30, 20, -5, 40]", (0, 20, 30, 40), [reading.REVERSED, reading.CLIPPED]),
        ("[-1e300, 20, 1e300, 40]", (0, 20, 1000, 40), [reading.CLIPPED]),
    ],
)
def test_boxes_are_put_right_and_that_is_said(box, wanted, mended):
    answer = read_answer(f'[{{"bbox_2d": {box}, "label": "dent"}}]', WHOLE)
    assert answer.said[0].box == wanted
    assert list(answer.mended) == mended
    assert answer.left_out == ()


BAD = [
    ('{"bbox_2d": [1000, 20, 1030, 40], "label": "a"}', reading.OUTSIDE),
    ('{"bbox_2d": [10, -20, 30, 0], "label": "a"}', reading.OUTSIDE),
    ('{"bbox_2d": [10, 20, 10, 40], "label": "a"}', reading.NO_AREA),
    ('{"bbox_2d": [10, 20, 30, 20.0], "label": "a"}', reading.NO_AREA),
    ('{"bbox_2d": [NaN, 20, 30, 40], "label": "a"}', reading.NOT_FINITE),
    ('{"bbox_2d": [10, 20, -Infinity, 40], "label": "a"}', reading.NOT_FINITE),
    ('{"bbox_2d": [10, 20, 1e999, 40], "label": "a"}', reading.NOT_FINITE),
    ('{"bbox_2d": [10, 20, 30], "label": "a"}', reading.NOT_FOUR),
    ('{"bbox_2d": [10, 20, 30, 40, 50], "label": "a"}', reading.NOT_FOUR),
    ('{"bbox_2d": [10%, 20%, 30%, 40%], "label": "a"}', reading.NOT_FOUR),
    ('{"bbox_2d": [x0, y0, x1, y1], "label": "..."}', reading.NOT_FOUR),
    ('{"bbox_2d": [true, 20, 30, 40], "label": "a"}', reading.NOT_FOUR),
    ('{"bbox_2d": [], "label": "a"}', reading.NOT_FOUR),
    ('{"bbox_2d": null, "label": "a"}', reading.NOT_FOUR),
    ('{"bbox_2d": "1\\u0030 20 30 40", "label": "a"}', reading.NOT_FOUR),
    ('{"bbox_2d": [[[[10, 20, 30, 40]]]], "label": "a"}', reading.NOT_FOUR),
    ('{"bbox_2d": [10, 20, 30, 40]}', reading.NO_LABEL),
    ('{"bbox_2d": [10, 20, 30, 40], "label": " "}', reading.NO_LABEL),
    ('{"bbox_2d": [10, 20, 30, 40], "label": null}', reading.NO_LABEL),
    ('{"bbox_2d": [10, 20, 30, 40], "label": 7}', reading.NO_LABEL),
    ('{"label": "a"}', reading.NO_BOX),
    ('{"label": []}', reading.NO_BOX),
    ("{}", reading.NO_BOX),
]


@pytest.mark.parametrize(("bad", "why"), BAD)
def test_what_is_no_thing_is_left_out_with_the_reason_and_alone_is_unreadable(bad, why):
    answer = read_answer(f"[{bad}, {ONE}]", WHOLE)
    assert [one.name for one in answer.said] == ["dent"]
    assert answer.left_out == (why,)
    with pytest.raises(
        ParseError, match=rf"cannot be read, which is not to find nothing: 1 object was left out: {why}"
    ):
        read_answer(f"[{bad}]", WHOLE)
    with pytest.raises(ParseError, match=rf"2 objects were left out: {why}"):
        read_answer(f"[{bad}, {bad}]", WHOLE)


@pytest.mark.parametrize(
    "text",
    [
        "[]", " [ ]\n", "```json\n[]\n```", "There's no defect: []", "［］", '{"objects": []}',  # noqa: RUF001
        '{"n": 0, "objects": []}',
        "No \"dent\" (or 'scratch') is seen.\n```\n[]\n```\nAll 2 parts are fine.",
    ],
)  # fmt: skip
def test_a_literal_empty_list_is_nothing_found(text):
    assert read_answer(text, WHOLE) == prompts.Answer((), cut=False)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "No defects.", "none", "null", "{}", "[", "[]]", "[[]", "[[]]", "[] []", "[,]", "[{}]", "[null]", "()",
        '[{"objects": []}]', '{"objects": []', '{"objects": [', "see [1]: []", "[] or {it}", "[dent]", '["dent"]',
        '[[10, 20, 30, 40, "dent"]]', '[{"bbox_2d": [', '[{"bbox_2d": [10, 20, 30, 40], "label": "d',
        "[10, 20, 30, 40]", f"[] {BAD[0][0]}", '{"error": "no image"}', "\\", "[\\", '["', "[{'",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_unreadable_and_never_nothing_found(text):
    with pytest.raises(ParseError, match="cannot be read, which is not to find nothing"):
        read_answer(text, WHOLE)


def test_an_answer_that_breaks_off_is_salvaged_object_by_object():
    text = f"[{ONE}, {TWO}]"
    for end in range(len(text)):
        if end <= text.index("dent") + len("dent"):
            with pytest.raises(ParseError):
                read_answer(text[:end], WHOLE)
            continue
        answer = read_answer(text[:end], WHOLE)
        second = end > text.index("scratch") + len("scratch")
        assert [one.name for one in answer.said] == ["dent", "scratch"][: 1 + second]
        assert answer.cut
        assert answer.left_out == ()
    assert not read_answer(text, WHOLE).cut
    with pytest.raises(ParseError, match=r"left out: it has no label; it breaks off, so let it have more tokens"):
        read_answer('[{"bbox_2d": [10, 20, 30, 40]}, {"bbox', WHOLE)


def cut_out(text, at, to, rng):
    return text[:at] + text[to:]


def doubled(text, at, to, rng):
    return text[:at] + text[at : at + 30] + text[at:]


def inserted(text, at, to, rng):
    return text[:at] + rng.choice("{}[]\",:'\\\n０％“” -e.NaN") + text[at:]  # noqa: RUF001


def surrounded(text, at, to, rng):
    return rng.choice(["Here's: ", "```json\n", "[see] ", "{"]) + text + rng.choice(["\n```", " It's it.", ""])


MISHAPS = [
    lambda text, at, to, rng: text[:at],
    lambda text, at, to, rng: text.translate(FULL),
    lambda text, at, to, rng: text.replace('"label": ', '"label": "x", "label": ', rng.randint(1, 2)),
    lambda text, at, to, rng: text.replace("[1", "[-1", 1).replace(", 2", ", 29999"),
    lambda text, at, to, rng: text.replace(", ", ",", 1).replace("1", "999", 1),
    lambda text, at, to, rng: text.replace('"', "'"),
    lambda text, at, to, rng: text.replace("}", "", 1),
    cut_out, doubled, inserted, surrounded,
]  # fmt: skip


def garbled(rng, text):
    """An answer after up to four mishaps."""
    for _ in range(rng.randint(1, 4)):
        at, to = sorted(rng.choices(range(len(text) + 1), k=2))
        text = rng.choice(MISHAPS)(text, at, to, rng)
    return text


def test_5000_garbled_answers_are_read_salvaged_or_unreadable_and_never_silently_nothing():
    rng, counted = random.Random(16), {"read": 0, "salvaged": 0, "empty": 0, "unreadable": 0}
    for number in range(5000):
        view = View((rng.randint(1, 2000), rng.randint(1, 2000)), (448, 448), rng.choice([THOUSANDTHS, PIXELS]))
        height, width = view.size
        things = []
        for _ in range(number % 5):
            x, y = rng.random() * width, rng.random() * height
            label = rng.choice(["screw/install", "螺丝/安装", 'the "other"', "a\\b"])
            things.append(
                Thing(label, (x, y, (x + width) / 2, (y + height) / 2), description=rng.choice(["", "it's bent"]))
            )
        text = garbled(rng, render_answer(things, view, describe=True))
        try:
            answer = read_answer(text, view)
        except ParseError:
            counted["unreadable"] += 1
            continue
        bare = text.translate({ord("［"): "[", ord("］"): "]"}).replace(" ", "").replace("\n", "")  # noqa: RUF001
        assert answer.said or (not answer.cut and "[]" in bare and "{" not in bare), text
        for one in answer.said:
            x0, y0, x1, y1 = one.box
            assert 0 <= x0 < x1 <= width, text
            assert 0 <= y0 < y1 <= height, text
            assert text[slice(*one.label_at)], text
            assert all(float(text[slice(*at)].translate(READ)) is not None for at in one.numbers_at), text
        counted["empty" if not answer.said else "salvaged" if answer.cut or answer.left_out else "read"] += 1
    assert min(counted.values()) > 50, counted


READ = str.maketrans("－．", "-.")  # noqa: RUF001


@given(st.text("{}[]\":,'\\ \n0-９.eENaN，：“”xbbox_2dlabel［｛", max_size=60))  # noqa: RUF001
def test_any_text_is_an_answer_or_unreadable(text):
    try:
        answer = read_answer(text, WHOLE)
    except ParseError:
        return
    assert answer.said or not answer.cut


@pytest.mark.parametrize(
    "piece",
    [
        "[{", "[", "{", "[[]", '{"a":', '{"label":"a","label":[', '"', '\\"', '["\\"', "[''", "['", '["" ', "[“”", "1",
        "[1x", "[1 ", '[{"bbox_2d":', "}]", "[[}", "{]", '[{"bbox_2d":[1,2,3,4],"label":"a"},', "[\\", "- ", "[.1.",
    ],
)  # fmt: skip
def test_time_is_linear_in_length(piece):
    text = "[" + piece * (60_000 // len(piece)) + "}" * 1000
    begin = time.process_time()
    with contextlib.suppress(ParseError):
        read_answer(text, WHOLE)
    assert time.process_time() - begin < 10  # a quadratic reader takes minutes over 60,000 characters
