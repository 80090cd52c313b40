"""A VLM that says where things are as the second look: beside any edge, on rows, pictures, COCO results, the page."""

import base64
import json
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_inspect import Inspector, files
from hf_inspect.calibrate import GROUNDED, calibrate
from hf_inspect.cascade import CalibrationScores, Composite, composite_of, policy_from_dict
from hf_inspect.cascade.composite import Platt
from hf_inspect.cli import app
from hf_inspect.data import load_split
from hf_inspect.errors import DataError
from hf_inspect.hub import check
from hf_inspect.reports import page
from hf_inspect.schema import ANOMALY, BINARY, DETECTION, SEGMENTATION, Finding, Meaning, Prediction, TaskSpec, Verdict
from hf_inspect.scoring import read_rows
from hf_inspect.tasks.detection import drawn
from tests import finders, mapped
from tests.conftest import png
from tests.saying import TASK, Spotter
from tests.scripted import brightness_engine
from tests.serving import serving

RISK = {"escape": 0.3, "overkill": 0.3}
BOX = (4.0, 4.0, 20.0, 20.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Parts with and without squares: good or defect, and boxes."""
    return finders.built(tmp_path_factory.mktemp("data"), 100, shares="5/35/40/20")


EDGES = {
    "classifier": lambda folder: brightness_engine(folder),
    "anomaly model": mapped.mapping_engine,
    "segmenter": lambda folder: finders.engine(folder, masks=True),
}


def asking(folder, stated):
    """The cascade's folder, with a policy of its own scores that asks the VLM about every part."""
    policy = policy_from_dict(stated["policies"]["certified"])
    rows, plain = read_rows(folder / "calibration.jsonl"), Platt("plain", 1.0, 0.0)
    found = composite_of(rows, policy.promise)
    found = replace(found, early_good=None, early_defect=None)
    if found.vlm is None:
        found = Composite(found.edge or Platt("plain", 1.0, 0.0), Platt("odds", 1.0, 0.0), plain, 0.25)
    forced = CalibrationScores.from_rows(rows).certified(found, policy.promise)
    stated["policies"]["certified"] = forced.to_dict()
    files.write_json(folder / "cascade.json", stated)
    return folder


@pytest.fixture(scope="module")
def served():
    """A VLM that finds squares, and where it is served."""
    vlm = Spotter()
    with serving(vlm, vlm.about()) as url:
        yield url


@pytest.fixture(scope="module")
def cascades(data, served, tmp_path_factory):
    """A cascade of each edge, made when it is first asked for."""
    made, folder = {}, tmp_path_factory.mktemp("cascades")

    def of(name):
        if name not in made:
            at = folder / name.replace(" ", "_")
            stated = calibrate(EDGES[name](at / "edge"), served, data, at / "cascade", **RISK)
            made[name] = asking(at / "cascade", stated)
        return made[name]

    return of


def parts(data, split="test"):
    rows = load_split(data, split)
    return [(row["image"]["bytes"], row["objects"]) for row in rows]


@pytest.mark.parametrize("name", EDGES)
def test_it_is_the_second_look_beside_any_edge(cascades, data, served, name):
    cascade = cascades(name)
    stated = files.read_json(cascade / "cascade.json")
    assert TaskSpec.from_dict(stated.get("vlm_task", stated["task"]), "x").finds
    assert stated["vlm"]["states"]["told"] == 0.4
    rows = read_rows(cascade / "calibration.jsonl")
    assert any(row["vlm"]["findings"] for row in rows)
    found = list(Inspector.from_pretrained(cascade, deadline=30).inspect(one for one, _ in parts(data)))
    both = [one for one in found if one.decided_by == "both"]
    assert all("vlm" in one.evidence for one in found)
    assert len(both) > 5
    for one in both:
        said = one.evidence["vlm"]
        assert one.finder == one.to_dict()["found_by"] == "vlm"
        known = [f for f in said.findings if f.name in TASK.classes]
        assert one.class_name == (known[0].name if known and one.label == "defect" else None)
        row = one.to_dict()["evidence"]["vlm"]
        assert row["severity"] == max((f["score"] for f in row["findings"]), default=0.0)
        assert all(re.fullmatch(r"a \w+ square in row \d", f["description"]) for f in row["findings"])


def test_where_it_settles_more_the_calibration_asks_it_and_says_how(data, served, tmp_path):
    """An edge that sees nothing: brightness of the whole says little of a square."""
    stated = calibrate(brightness_engine(tmp_path / "edge", side=2), served, data, tmp_path / "cascade", **RISK)
    assert stated["policies"]["certified"]["composite"]["vlm"] is not None
    assert stated["second_look"].endswith(GROUNDED)
    rows = [row for row in read_rows(tmp_path / "cascade" / "calibration.jsonl") if row["split"] == "calibration"]
    composite = Inspector.from_pretrained(tmp_path / "cascade", deadline=30).policy.composite
    edge, vlm = (np.array([row[name]["severity"] for row in rows]) for name in ("edge", "vlm"))
    assert len(np.unique(composite.scores(edge, vlm) - composite.scores(edge, vlm[::-1]))) > 1


def said(*words):
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.output


@pytest.fixture
def folder(data, tmp_path):
    """The test split's images as files, and a COCO file of them."""
    (tmp_path / "parts").mkdir()
    for i, (content, _) in enumerate(parts(data)):
        (tmp_path / "parts" / f"{i:03}.png").write_bytes(content)
    return tmp_path / "parts"


@pytest.mark.parametrize("name", ["classifier", "anomaly model"])
def test_rows_lines_pictures_and_coco_results_have_what_it_found(cascades, data, folder, tmp_path, name):
    out, coco, maps = tmp_path / "out.jsonl", tmp_path / "found.json", tmp_path / "maps"
    given = ["predict", cascades(name), folder, "--out", out, "--coco", coco, "--maps", maps, "--deadline", 30]
    lines = said(*given)
    rows = {row["path"]: row for row in map(json.loads, out.read_text().splitlines())}
    ids = {one["id"]: one for one in json.loads((tmp_path / "found.images.json").read_text())["images"]}
    results, unnamed = json.loads(coco.read_text()), 0
    assert len(rows) == len(parts(data)) == len(ids)
    assert all(one["found_by"] == "vlm" for one in rows.values())
    for number, image in ids.items():
        found = rows[image["file_name"]]["evidence"]["vlm"]["findings"]
        named = [one for one in found if one["class"] in TASK.classes]
        unnamed += len(found) - len(named)
        boxes = [[b[0], b[1], b[2] - b[0], b[3] - b[1]] for b in (one["box"] for one in named)]
        assert [one["bbox"] for one in results if one["image_id"] == number] == boxes
    assert unnamed > 0
    assert f"{unnamed} findings have a label that is no class, and were left out" in lines
    assert re.search(r'found (blue|red) \d.* \("a \w+ square in row \d"\)', lines)
    for path, row in rows.items():
        before, after = (np.asarray(Image.open(at)).astype(int) for at in (path, row["map"]))
        told = [one["box"] for one in row["evidence"]["vlm"]["findings"] if one["score"] >= 0.4]
        assert (before != after).any() == bool(told)
        for x0, y0, x1, y1 in told:
            assert (before != after)[int(y0) : int(y1) + 1, [int(x0), min(int(x1), 63)]].any(2).mean() > 0.5
    written = out.read_bytes(), {path: path.stat().st_mtime_ns for path in maps.iterdir()}
    said(*given)
    assert (out.read_bytes(), {path: path.stat().st_mtime_ns for path in maps.iterdir()}) == written


def test_what_the_edge_alone_decided_has_no_picture_is_no_result_and_is_not_done_again(
    data, folder, served, tmp_path, monkeypatch
):
    cascade = tmp_path / "cascade"
    calibrate(brightness_engine(tmp_path / "edge"), None, data, cascade, **RISK)
    with pytest.raises(DataError, match="or with a VLM of recipes/vlm_ground"):
        said_error(cascade, folder, maps=tmp_path / "maps")
    with pytest.raises(DataError, match="or a VLM of recipes/vlm_ground"):
        said_error(cascade, folder, coco=tmp_path / "x.json")
    inspector = Inspector.from_pretrained(cascade)
    alone = replace(inspector, vlm=Spotter())  # its policy never asks
    monkeypatch.setattr(Inspector, "from_pretrained", lambda *given, **settings: alone)
    out, coco, maps = tmp_path / "out.jsonl", tmp_path / "found.json", tmp_path / "maps"
    given = ["predict", cascade, folder, "--out", out, "--coco", coco, "--maps", maps]
    lines = said(*given)
    n = len(list(folder.iterdir()))
    assert f"{n} pictures were decided by an edge that looks for nothing, and were left out" in lines
    assert json.loads(coco.read_text()) == []
    assert not maps.exists()
    written = out.read_bytes()
    monkeypatch.setattr(alone.edge, "predict", None)  # a part that is asked about again fails
    said(*given)
    assert out.read_bytes() == written


def said_error(cascade, folder, **given):
    from hf_inspect.predict import run

    return run(cascade, [folder], **given)


def test_an_answer_that_breaks_off_leaves_the_part_undecided_and_never_good(cascades, data):
    inspector = Inspector.from_pretrained(cascades("classifier"), deadline=30)
    everywhere = replace(inspector, vlm=Spotter(breaks=lambda shown: True))
    found = list(everywhere.inspect(one for one, _ in parts(data)))
    assert {one.label for one in found} == {"undecided"}
    assert {one.decided_by for one in found} == {"rule"}
    assert all("the VLM gave no answer: the answer breaks off after 0 objects" in one.reason for one in found)
    assert {one.finder for one in found} == {None}
    assert {one.label for one in replace(everywhere, fallback="reject").inspect([parts(data)[0][0]])} == {"defect"}
    before = Prediction(None, unreadable="it breaks off", findings=(Finding("red", 0.9, BOX),))
    cut = Verdict("undecided", "rule", "it breaks off", evidence={"edge": Prediction(0.2, findings=()), "vlm": before})
    assert cut.finder == "vlm"
    whole = replace(cut, evidence=cut.evidence | {"vlm": Prediction(None, unreadable="no JSON", findings=())})
    assert whole.finder == "edge"


def test_an_answer_that_breaks_off_in_calibration_sets_no_limit(data, tmp_path):
    vlm = Spotter(breaks=lambda shown: int(shown.sum()) % 5 == 0)
    with serving(vlm, vlm.about()) as url:
        stated = calibrate(brightness_engine(tmp_path / "edge"), url, data, tmp_path / "cascade", **RISK)
    rows = read_rows(tmp_path / "cascade" / "calibration.jsonl")
    broken = [row for row in rows if "unreadable" in row["vlm"]]
    assert 0 < len(broken) < len(rows) / 2
    assert all("severity" not in row["vlm"] for row in broken)
    assert stated["policies"]["certified"]["limits"]["defects"] > 0


def test_a_label_of_no_class_is_a_defect_that_names_none():
    smudge, red = Finding("smudge", 0.9, BOX), Finding("red", 0.6, BOX)
    assert Prediction(0.9, findings=(smudge, red)).likeliest(TASK, "defect") == ("red", 0.6)
    assert Prediction(0.9, findings=(smudge,)).likeliest(TASK, "defect") is None
    assert Prediction(0.9, findings=(smudge,)).likeliest(TASK, "good") is None
    picture = drawn(np.zeros((32, 32, 3), np.uint8), [smudge], TASK, 0.5)
    assert (picture == 0x88).all(2).any()


def test_who_may_look_together():
    anomaly = TaskSpec(BINARY.classes, BINARY.dispositions, ANOMALY, Meaning("distance"))
    masks = TaskSpec(TASK.classes, TASK.dispositions, SEGMENTATION)
    other = TaskSpec(("dent",), ("defect",), DETECTION)
    for edge in (BINARY, anomaly, TASK, masks, TaskSpec.of(("fine", "crack"), good=["fine"])):
        edge.refuse_partner(TASK, "the edge", "its VLM")
        TASK.refuse_partner(edge, "the edge", "its VLM")
    for one, two in ((other, TASK), (masks, other), (TaskSpec.of(("crack", "dent"), []), TASK)):
        with pytest.raises(DataError, match="answer different questions"):
            one.refuse_partner(two, "the edge", "its VLM")


def test_the_page_draws_its_boxes_and_says_its_sentences(cascades, data):
    inspector = Inspector.from_pretrained(cascades("classifier"), deadline=30)
    content = next(one for one, objects in parts(data) if len(objects["bbox"]) > 1)
    [verdict] = page.inspect_uploads(inspector, [content])
    html = page.heat_html(inspector, content, verdict)
    assert "What the VLM finds, from a score of 0.40 on." in html
    assert re.search(r"<li>(red|blue) 0.\d\d: a (red|blue) square in row \d</li>", html)
    picture = np.asarray(Image.open(BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1]))))
    assert (picture != np.asarray(Image.open(BytesIO(content)).convert("RGB"))).any()
    steps = page.verdict_html(verdict, inspector.policy)
    p = inspector.policy.composite.vlm.probability(np.array([verdict.severity_of("vlm")]))[0]
    assert f"<dt>VLM</dt><dd>P(defect) {p:.3f} (of its surest defect&#x27;s score, 0.970)" in steps
    sly = Finding("<b>red", 0.9, BOX, description="<script>alert(1)</script>")
    told = replace(verdict, evidence=verdict.evidence | {"vlm": Prediction(0.9, findings=(sly,), notes=("<i>odd",))})
    shown = page.heat_html(inspector, content, told) + page.verdict_html(told, inspector.policy)
    assert "&lt;script&gt;" in shown
    assert not re.search("<script>|<b>|<i>", shown)
    nothing = replace(verdict, evidence=verdict.evidence | {"vlm": Prediction(0.0, findings=())})
    assert "<ul>" not in page.heat_html(inspector, content, nothing)


def test_it_is_measured_described_and_fit_to_be_pushed(cascades, data):
    cascade = cascades("classifier")
    stated = files.read_json(cascade / "cascade.json")
    files.write_json(cascade / "cascade.json", stated | {"second_look": f"It is asked. {GROUNDED}"})
    results = cascade / "results.json"
    said("eval", "cascade", cascade, "--data", data, "--out", results)
    measured = files.read_json(results)
    assert (measured["vlm"]["kind"], measured["vlm"]["auroc"]["value"] > 0.8) == ("detection", True)
    said("card", cascade)
    assert "a label that is no class is one." in " ".join((cascade / "README.md").read_text().split())
    assert "cascade.json" in check(cascade)


def test_what_jpeg_costs_is_counted_by_its_severity(data, served, tmp_path):
    lines = said("eval", "wire", served, "--data", data, "--out", tmp_path / "wire.json", "--jpeg", 30)
    cost = files.read_json(tmp_path / "wire.json")["wire"]
    assert re.search(r"JPEG 30: \d+ of 35 validation images are answered otherwise", lines)
    assert (cost["flips"]["n"], cost["unanswered"], 0 < cost["max_change"] < 1) == (35, 0, True)
    assert cost["bytes"]["jpeg"] < cost["bytes"]["lossless"]


def test_an_image_of_another_size_has_boxes_in_its_own_pixels(cascades):
    inspector = Inspector.from_pretrained(cascades("classifier"), deadline=30)
    big = np.full((192, 320, 3), 20, np.uint8)
    big[48:96, 80:160] = (255, 0, 0)
    verdict = inspector(png(big))
    [one] = verdict.evidence["vlm"].findings
    assert one.box == pytest.approx((80, 48, 160, 96))
    assert inspector.shown(png(big), verdict, side=160).shape == (96, 160, 3)
