"""The Space with the shipped cascade, in headless chromium: what a visitor does, sees and must not see."""

import csv
import io
from pathlib import Path

import pytest

import hf_inspect
from hf_inspect.cascade import CalibrationScores, what_if
from hf_inspect.data.packaged import packaged_folder
from hf_inspect.inspector import load_policies
from hf_inspect.scoring import read_rows
from tests.space import browser, serve, verdict_of, visit

GOOD, DEFECTIVE = "cell0355.png", "cell0256.png"  # calibration plays no part: these are shown, not measured
PHONE = (390, 844)
ASSETS = Path(hf_inspect.__file__).parent / "assets" / "elpv"


@pytest.fixture(scope="module")
def started():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def server(started, tmp_path_factory):
    with serve(tmp_path_factory.mktemp("space")) as server:
        yield server


@pytest.fixture(scope="module")
def cells():
    return packaged_folder("elpv-dataset", "1.0.0.post1", "elpv_dataset") / "data" / "images"


def upload(page, *paths, batch=False):
    page.locator("input[type=file]").nth(1 if batch else 0).set_input_files([str(path) for path in paths])


def drop_image(page):
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    page.wait_for_selector("#verdict .verdict", state="detached")


def seen(page, server) -> str:
    """All visible text, which must name no path of the server."""
    text = page.inner_text("body")
    assert str(server.log.parent) not in text
    assert "/tmp" not in text
    return text


def test_a_good_a_defective_and_a_broken_image_each_get_their_verdict(started, server, cells, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes((cells / GOOD).read_bytes()[:3000])
    with visit(started, server) as page:
        assert "solar cells" in seen(page, server)
        upload(page, cells / GOOD)
        said = verdict_of(page)
        assert said.startswith("GOOD, P(defect) 0.0")
        assert "below the good limit" in said or "the edge is sure of good" in said
        assert "decided by" in said
        assert " ms" in said
        drop_image(page)
        upload(page, cells / DEFECTIVE)
        said = verdict_of(page)
        assert said.startswith("DEFECT, P(defect) ")
        assert "decided by" in said
        drop_image(page)
        page.get_by_text("A doubtful cell").click()
        said = verdict_of(page)
        assert "the edge alone is not sure enough" in said
        assert "VLM\nP(defect) " in said
        assert "Both together\nP(defect) " in said
        drop_image(page)
        upload(page, broken)
        said = verdict_of(page)
        assert said.startswith("UNREADABLE")
        assert "is not whole" in said or "truncated" in said
        seen(page, server)


def stated() -> list[str]:
    """How many of how many calibration parts the promise in use leaves undecided, and lets escape, as the page says."""
    scores = CalibrationScores.from_rows(read_rows(ASSETS / "calibration.jsonl"))
    policy = load_policies(ASSETS)["certified"]
    found = what_if(scores, policy.composite, policy.promise)
    counted = (found.undecided, *found.undecided_alone.values(), found.asked, found.escapes, found.overkill)
    return [f"{one['k']} of {one['n']})" for one in counted]


def test_sliders_change_plot_and_numbers_and_leave_the_verdict(started, server, cells):
    with visit(started, server) as page:
        upload(page, cells / GOOD)
        verdict = verdict_of(page)
        page.wait_for_function("document.querySelector('#rates').innerText.includes('call this image good')")
        before = page.inner_text("#rates"), page.get_attribute("#plot img", "src")
        for count in stated():
            assert count in before[0]
        page.get_by_label("number input for What if: escapes").fill("0.5")
        page.keyboard.press("Tab")
        page.wait_for_function("document.querySelector('#rates').innerText.includes('good: never')")
        page.wait_for_function("old => document.querySelector('#plot img').src != old", arg=before[1])
        assert "leave this image undecided" in page.inner_text("#rates")
        assert page.inner_text("#verdict") == verdict
        page.get_by_label("number input for What if: confidence").fill("60")
        page.get_by_label("number input for What if: escapes").fill("20")
        page.wait_for_function("document.querySelector('#rates').innerText.includes('call this image good')")
        assert not all(count in page.inner_text("#rates") for count in stated())


def test_a_batch_of_twenty_becomes_a_table_and_a_csv(started, server, cells):
    twenty = sorted(cells.glob("cell00*.png"))[:20]
    with visit(started, server) as page:
        page.get_by_role("tab", name="Batch").click()
        upload(page, *twenty, batch=True)
        with page.expect_download() as download:
            page.get_by_text("Save as CSV").click()
        rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
        assert download.value.suggested_filename == "verdicts.csv"
        assert [row["file"] for row in rows] == [path.name for path in twenty]
        assert {row["verdict"] for row in rows} <= {"good", "defect", "undecided"}
        assert any(row["decided by"] == "both" and row["P VLM"] for row in rows)
        page.get_by_role("gridcell").filter(has_text=twenty[0].name).first.wait_for()
        seen(page, server)


def test_the_keyboard_is_enough(started, server, cells):
    with visit(started, server) as page:
        choose(page, "Drop an image file here to upload").set_files(cells / DEFECTIVE)
        assert verdict_of(page).startswith("DEFECT")
        before = page.inner_text("#rates")
        tab_to(page, "range slider for What if: overkill")
        for _ in range(4):
            page.keyboard.press("ArrowLeft")
        page.wait_for_function("old => document.querySelector('#rates').innerText != old", arg=before)
        nameless = """[...document.querySelectorAll('button, input, a, img')].filter(element => !(
            element.innerText || element.ariaLabel || element.labels?.length || element.title || element.alt))"""
        assert page.evaluate(f"{nameless}.map(element => element.outerHTML)") == []


def choose(page, label):
    """The file chooser that Enter opens; once more where gradio drew the button anew between Tab and Enter."""
    from playwright.sync_api import TimeoutError

    for _ in range(5):
        tab_to(page, label)
        try:
            with page.expect_file_chooser(timeout=5000) as chooser:
                page.keyboard.press("Enter")
            return chooser.value
        except TimeoutError:
            page.evaluate("document.activeElement.blur()")
    raise AssertionError(f"Enter on {label!r} opened nothing")


def tab_to(page, label):
    """Press Tab until what has this in its accessible name has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if label in (page.evaluate("document.activeElement.ariaLabel") or ""):
            page.wait_for_timeout(1000)  # gradio replaces what it has just drawn
            return
    raise AssertionError(f"Tab never came to {label!r}")


def test_a_phone_shows_it_all_without_scrolling_sideways_and_its_camera_takes_a_frame(started, server, cells):
    width = PHONE[0]
    with visit(started, server, *PHONE) as page:
        page.get_by_text("A defective cell").click()
        assert verdict_of(page).startswith("DEFECT")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for selector in ("#verdict .verdict", "#rates table", "#plot img"):
            box = page.locator(selector).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["width"] > width / 2
        drop_image(page)
        page.get_by_label("Capture from camera").click()
        page.get_by_label("grant webcam access").or_(page.get_by_text("Click to Access Webcam")).first.click()
        page.wait_for_timeout(1000)  # a fake camera of chromium's, which begins black
        page.get_by_label("capture photo").click()
        assert verdict_of(page).split(",")[0] in ("GOOD", "DEFECT", "UNDECIDED")
