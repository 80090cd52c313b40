"""An evaluation in a browser: which marks there are, how they are filtered, its pictures, its page, its refusals."""

import json
import shutil
import socket
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client
from PIL import Image

from hf_inspect import cli, data, files
from hf_inspect.errors import DataError, MissingExtraError
from hf_inspect.metrics import findings
from hf_inspect.metrics.matches import told_report
from hf_inspect.reports import browser, evaluate_detect
from hf_inspect.reports.browse import BROKEN, CROWD, KINDS, MISSED, NOTHING, RIGHT, WRONG, case_html, open_results
from hf_inspect.schema import Finding
from tests import finders

SIDE = 80
NAMES = ("bolt", "nut")
TASK = finders.task_of(False, NAMES)
BOXES = {"bolt": [10, 10, 20, 20], "nut": [50, 40, 20, 20]}  # as COCO has them
PLACES = {"bolt": (10.0, 10.0, 30.0, 30.0), "nut": (50.0, 40.0, 70.0, 60.0), "none": (60.0, 2.0, 78.0, 9.0)}


def found(name, score, place, said=""):
    return Finding(name, score, PLACES[place], description=said).to_dict()


# Of the images in turn: what is there, and the answer.
ANSWERS = [
    ({"findings": [found("bolt", 0.9, "bolt"), found("nut", 0.8, "nut", "a thread is worn")]}, False),  # right
    ({"findings": [found("nut", 0.7, "bolt"), found("nut", 0.8, "nut")]}, False),  # the bolt taken for a nut
    ({"findings": [found("bolt", 0.9, "bolt"), found("nut", 0.6, "none")]}, False),  # one of nothing, the nut missed
    ({"findings": [], "unreadable": "<b>no list</b>"}, False),  # nothing could be read
    ({"findings": [found("bolt", 0.9, "bolt"), found("gizmo", 0.5, "nut")], "notes": ["1 object left out"]}, False),
    ({"findings": [found("Screw", 0.9, "bolt"), found("nut", 0.2, "nut")]}, False),  # by another name; one unsure
    ({"findings": [found("bolt", 0.9, "bolt"), found("nut", 0.9, "nut")]}, True),  # the nuts are a crowd
    ("the file is cut off", False),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Forty images of a bolt and a nut, every eighth's nuts a crowd."""
    folder, rng, annotations = tmp_path_factory.mktemp("browsed"), np.random.default_rng(0), []
    raw = folder / "raw"
    raw.mkdir()
    for number in range(1, 41):
        coarse = Image.fromarray(rng.integers(0, 255, (10, 10, 3), np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(raw / f"part_{number:02}.png")
        for kind, (name, box) in enumerate(BOXES.items(), 1):
            crowd = int(name == "nut" and number % 8 == 7)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": kind, "bbox": box, "iscrowd": crowd}
            )
    listed = [{"id": i, "file_name": f"part_{i:02}.png", "width": SIDE, "height": SIDE} for i in range(1, 41)]
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
    (raw / "annotations.json").write_text(
        json.dumps({"images": listed, "annotations": annotations, "categories": categories})
    )
    data.build("coco", folder / "data", src=raw, options={"license": "cc0-1.0", "good": "", "shares": "20/10/10/60"})
    return folder / "data"


def write(built, out, match=None):
    """results.json and its answers, as an evaluation leaves them: the crowds' answer where there is one."""
    head = data.read_head(built)
    rows = data.load_split(built, "test")
    plain, listed, kinds = [one for one, crowd in ANSWERS if not crowd], [], []
    for number, row in enumerate(rows):
        crowd = any(row["objects"]["iscrowd"])
        answer = ANSWERS[6][0] if crowd else plain[(number - sum(kind == 6 for kind in kinds)) % len(plain)]
        kinds.append(6 if crowd else ANSWERS.index((answer, False)))
        said = {"source": row["image"]["path"], "class": "defect", "label": "defect", "group": row["group"]}
        listed.append(said | ({"error": answer} if isinstance(answer, str) else {"detection": answer}))
    first = {"data": head["fingerprint"], "split": "default/test", "predictors": {"detection": "x"}, "begun": "y"}
    files.write_text(out.with_suffix(".scores.jsonl"), "".join(json.dumps(one) + "\n" for one in [first, *listed]))
    report = {"kind": "detection", "told": {"threshold": 0.4}} | ({"labels": match} if match else {})
    stated = {"name": "coco", "fingerprint": head["fingerprint"], "split": "test", "folder": str(built)}
    files.write_json(out, {"data": stated, "environment": {}, "task": TASK.to_dict(), "detection": report})
    return kinds


RENAMED = {"match": "semantic", "renamed": [{"label": "Screw", "n": 3, "class": "bolt"}], "unmatched": []}


@pytest.fixture(scope="module")
def results(built, tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "results.json"
    return out, write(built, out, RENAMED)


@pytest.fixture(scope="module")
def browsed(results):
    return open_results(results[0])


WANTED = [
    {(RIGHT, "bolt", "bolt"), (RIGHT, "nut", "nut")},
    {(WRONG, "nut", "bolt"), (RIGHT, "nut", "nut")},
    {(RIGHT, "bolt", "bolt"), (NOTHING, "nut", ""), (MISSED, "nut", "")},
    {(MISSED, "bolt", ""), (MISSED, "nut", "")},
    {(RIGHT, "bolt", "bolt"), (WRONG, "gizmo", "nut")},
    {(RIGHT, "Screw", "bolt"), (MISSED, "nut", "")},
    {(RIGHT, "bolt", "bolt"), (CROWD, "nut", "")},
    set(),
]


def test_every_finding_and_every_missed_thing_is_what_it_is(browsed, results):
    assert set(results[1]) == set(range(8))
    for kind, marks in zip(results[1], browsed.marks(0.4), strict=True):
        assert {(mark.kind, mark.name, mark.other) for mark in marks} == WANTED[kind]
    assert browsed.threshold == 0.4
    assert browsed.classes == (*NAMES, "(no class)")


def kinds_of(results, chosen):
    return {results[1][i] for i in chosen}


def test_images_are_chosen_by_class_kind_score_and_source(browsed, results):
    def chosen(*asked, text=""):
        return kinds_of(results, browsed.chosen(*asked, text))

    assert len(browsed.chosen(None, (), 0.4)) == len(browsed.cases)
    assert chosen(None, [MISSED], 0.4) == {2, 3, 5}
    assert chosen("bolt", [MISSED], 0.4) == {3}
    assert chosen(None, [WRONG], 0.4) == {1, 4}
    assert chosen("bolt", [WRONG], 0.4) == {1}  # what it should have been counts as well
    assert chosen("nut", [WRONG], 0.4) == {1, 4}
    assert chosen("(no class)", (), 0.4) == {4}
    assert chosen(None, [NOTHING], 0.4) == {2}
    assert chosen(None, [NOTHING, WRONG], 0.4) == {1, 2, 4}
    assert chosen(None, [RIGHT], 0.4) == {0, 1, 2, 4, 5, 6}
    assert chosen(None, [BROKEN], 0.4) == {3, 4, 7}
    assert chosen("bolt", [MISSED], 0.95) == {0, 1, 2, 3, 4, 5, 6}  # nobody is as sure
    assert chosen(None, [MISSED], 0.1) == {2, 3}
    [one] = browsed.chosen(None, (), 0.4, f" {browsed.cases[3].source.upper()} ")
    assert one == 3
    assert browsed.chosen(None, (), 0.4, "nowhere") == []


def test_counts_are_of_what_is_chosen(browsed, results):
    every = browsed.counts(range(len(browsed.cases)), 0.4)
    assert list(every) == list(KINDS)
    for kind in KINDS[:-1]:
        assert every[kind] == sum(one[0] == kind for of in results[1] for one in WANTED[of])
    assert every[BROKEN] == sum(of in (3, 4, 7) for of in results[1])
    assert browsed.counts([], 0.4) == dict.fromkeys(KINDS, 0)


def test_a_case_says_its_notes_and_descriptions_as_text(browsed, results):
    def html(kind):
        at = results[1].index(kind)
        return case_html(browsed.cases[at], browsed.marks(0.4)[at])

    assert "a thread is worn" in html(0)
    assert "unreadable: &lt;b&gt;no list&lt;/b&gt;" in html(3)
    assert "<b>no list" not in html(3)
    assert "1 object left out" in html(4)
    assert "the file is cut off" in html(7)


def test_pictures_show_what_is_there_and_what_was_found_from_a_score_on(browsed, results):
    at = results[1].index(2)
    there, made = browsed.pictures(at, 0.4)
    plain = np.array(Image.open(browsed.data.parent / "raw" / browsed.cases[at].source))
    assert there.shape == made.shape == plain.shape

    def drawn(picture, place):
        x0, y0, _, y1 = map(int, PLACES[place])
        return bool((picture[y0:y1, x0] != plain[y0:y1, x0]).any())

    assert [drawn(there, place) for place in ("bolt", "nut", "none")] == [True, True, False]
    assert [drawn(made, place) for place in ("bolt", "nut", "none")] == [True, False, True]
    _, sure = browsed.pictures(at, 0.95)
    assert (sure == plain).all()
    unreadable = browsed.pictures(results[1].index(7), 0.4)
    assert (unreadable[0] == unreadable[1]).all()


def test_large_photos_are_shown_smaller(browsed, monkeypatch):
    monkeypatch.setattr("hf_inspect.reports.browse.SIDE", 40)
    assert [one.shape for one in browsed.pictures(0, 0.4)] == [(40, 40, 3)] * 2


def test_marks_agree_with_the_report_of_an_evaluation(tmp_path, monkeypatch):
    monkeypatch.setitem(findings.finding_report.__kwdefaults__, "draws", 10)
    folder, model = finders.built(tmp_path, 60), finders.engine(tmp_path / "edge")
    out = tmp_path / "r.json"
    stated, _ = evaluate_detect(model, folder, "test", out.with_suffix(".scores.jsonl"))
    files.write_json(out, stated)
    with pytest.raises(DataError, match="which is not at hand; give its folder as --data"):
        open_results(out)  # it lies elsewhere than the working folder: its name alone is stated
    monkeypatch.chdir(tmp_path)
    own = open_results(out)
    told, seen = stated["detection"]["told"], Counter()
    assert own.threshold == told["threshold"]
    for threshold in (told["threshold"], 0.15, 0.99):
        report = told_report(own.matches, threshold)
        counts, confusion = own.counts(range(len(own.cases)), threshold), np.array(report["confusion"]["counts"])
        assert counts[RIGHT] == report["precision"]["k"] == np.trace(confusion[:-1, :-1])
        assert counts[NOTHING] == confusion[-1].sum()
        assert counts[MISSED] == confusion[:, -1].sum()
        assert counts[WRONG] == confusion[:-1, :-1].sum() - np.trace(confusion[:-1, :-1])
        seen.update(counts)
    assert told["confusion"] == told_report(own.matches, own.threshold)["confusion"]
    assert min(seen[kind] for kind in (RIGHT, NOTHING, MISSED)) > 0


def test_the_top_of_a_taxonomy_and_equal_names_alone(built, tmp_path):
    kinds = write(built, tmp_path / "exact.json")  # no labels stated: exactly
    marks = open_results(tmp_path / "exact.json").marks(0.4)[kinds.index(5)]
    assert {(mark.kind, mark.name) for mark in marks} == {(WRONG, "Screw"), (MISSED, "nut")}
    write(built, tmp_path / "top.json", {"match": "taxonomy", "renamed": [], "unmatched": []})
    lines = (tmp_path / "top.scores.jsonl").read_text().replace('"class": "nut"', '"class": "nut/worn"')
    (tmp_path / "top.scores.jsonl").write_text(lines)
    marks = open_results(tmp_path / "top.json").marks(0.4)[kinds.index(0)]
    assert {(mark.kind, mark.name) for mark in marks} == {(RIGHT, "bolt"), (RIGHT, "nut/worn")}


def test_the_page_steps_through_what_is_chosen(browsed):
    page = browser._Page(browsed)
    n = len(browsed.chosen(None, [MISSED], 0.4))
    asked = (browser.EVERY, [MISSED], 0.4, "")
    headline, there, made, marks, counts, at = page.first(*asked)
    assert headline.startswith(f"1 of {n}: `part_")
    assert there.shape == made.shape == (SIDE, SIDE, 3)
    assert "missed" in marks
    assert f"{n} of {len(browsed.cases)} images" in counts
    seen = [headline]
    for _ in range(n - 1):
        headline, *_, at = page.next(*asked, at)
        seen.append(headline)
    assert len(set(seen)) == n
    assert page.next(*asked, at)[0] == seen[0]  # round again
    assert page.previous(*asked, 0)[0] == seen[-1]
    assert page.first("nut", [NOTHING], 0.999, "")[0] == "No image is like that."
    assert page.first(browser.EVERY, [], 0.4, "nowhere")[1:4] == (None, None, "")


def test_an_image_that_cannot_be_read_is_said_and_not_raised(browsed, monkeypatch):
    def broken(*_):
        raise DataError("the image ends early.")

    monkeypatch.setattr("hf_inspect.reports.browse.images.load", broken)
    headline, there, *_ = browser._Page(browsed).first(browser.EVERY, [], 0.4, "")
    assert headline.endswith("the image ends early.")
    assert there is None


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_it_is_served_on_loopback_with_its_events(browsed, results):
    port = free_port()
    page = browser.build(browsed, "results.json")
    try:
        page.launch(**browser.settings("127.0.0.1", port), prevent_thread_lock=True, quiet=True)
        client = Client(f"http://127.0.0.1:{port}", verbose=False)
        answer = client.predict(browser.EVERY, [WRONG], 0.4, "", api_name="/first")
        n = sum(kind in (1, 4) for kind in results[1])
        assert answer[0].startswith(f"1 of {n}: ")
        with Image.open(answer[1] if isinstance(answer[1], str) else answer[1]["path"]) as picture:
            assert picture.size == (SIDE, SIDE)
        assert client.predict(browser.EVERY, [WRONG], 0.4, "", api_name="/next")[0].startswith(f"2 of {n}: ")
        with pytest.raises(DataError, match=rf"Port {port} of 127\.0\.0\.1 cannot be listened at"):
            browser.browse(results[0], port=port)
    finally:
        page.close()


def test_the_command_hands_its_options_on(results, built, monkeypatch):
    asked = []
    monkeypatch.setattr(browser, "browse", lambda *given: asked.append(given))
    command = ["browse", results[0], "--data", built, "--host", "0.0.0.0", "--port", "99"]
    monkeypatch.setattr(sys, "argv", ["hf-inspect", *map(str, command)])
    with pytest.raises(SystemExit):
        cli.main()
    assert asked == [(results[0], built, "0.0.0.0", 99)]


def damaged(results, tmp_path, change=None, lines=None):
    """A copy of the results with another content."""
    out = Path(shutil.copy(results[0], tmp_path / "r.json"))
    scores = results[0].with_suffix(".scores.jsonl").read_text().splitlines()
    out.with_suffix(".scores.jsonl").write_text("\n".join(lines(scores) if lines else scores))
    stated = files.read_json(out)
    if change:
        change(stated)
    files.write_json(out, stated)
    return out


def test_what_is_no_evaluation_of_these_data_is_refused(results, built, tmp_path, monkeypatch):
    cases = [
        (lambda s: s.pop("detection"), None, "holds no findings; browse what 'eval detect' or 'eval ground' wrote"),
        (lambda s: s["data"].pop("folder"), None, "which is not at hand; give its folder as --data"),
        (lambda s: s["data"].update(folder="nowhere"), None, "which is not at hand; give its folder as --data"),
        (lambda s: s["data"].update(fingerprint="f" * 64), None, "Give the one it was measured on"),
        (None, lambda lines: lines[:-3], "answers on the data .*; run the evaluation again"),
        (None, lambda lines: [*lines[:-1], lines[-1][:20]], "does not hold the answers"),
        (None, lambda lines: [lines[0], '{"edge": 1}'], "does not hold the answers"),
        (None, lambda lines: [], "does not hold the answers"),
    ]
    for change, lines, said in cases:
        with pytest.raises(DataError, match=said):
            open_results(damaged(results, tmp_path, change, lines))
    (tmp_path / "r.scores.jsonl").unlink()
    with pytest.raises(DataError, match="does not hold the answers"):
        open_results(tmp_path / "r.json", built)
    with pytest.raises(DataError, match=r"none\.json is missing"):
        open_results(tmp_path / "none.json")
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-inspect\[space\]'"):
        browser.build(open_results(results[0]), "r")
