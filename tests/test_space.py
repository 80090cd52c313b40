"""What the Space takes: uploads, limits, tables; what it is made of; and how it goes up."""

import asyncio
import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, Jpeg2KImagePlugin, PpmImagePlugin
from typer.testing import CliRunner

import hf_inspect
from hf_inspect import Inspector, files
from hf_inspect.cascade import ASK
from hf_inspect.cli import app
from hf_inspect.errors import DataError, HubError, MissingExtraError
from hf_inspect.hub import check, push
from hf_inspect.reports import page, uploads
from hf_inspect.schema import Part, Verdict
from hf_inspect.vlm.tokenizer import gguf_tokenizer
from tests.conftest import png
from tests.mapped import mapping_cascade, spotted
from tests.scripted import brightness_cascade, grey
from tests.space import SPACE

ASSETS = Path(hf_inspect.__file__).parent / "assets" / "elpv"  # by path: `hf_inspect.demo` brings transformers


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    return brightness_cascade(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def inspector(cascade) -> Inspector:
    return page.open_cascade(cascade)[0]


def test_what_a_file_says_of_itself_is_shown_as_text(inspector):
    verdict = Verdict("unreadable", "rule", "<script>alert(1)</script>")
    assert "<script>" not in page.verdict_html(verdict, inspector.policy)


def test_uploads_beyond_the_limits_are_refused_in_a_sentence(inspector, monkeypatch):
    monkeypatch.setattr(page, "MAX_BYTES", 2_000_000)
    monkeypatch.setattr(page, "MAX_PIXELS", 1_000_000)
    wide = png(np.zeros((1, 1_000_001), np.uint8))
    found = page.inspect_uploads(inspector, [png(grey(20)), b"x" * 2_100_000, wide, png(grey(240))])
    assert [verdict.label for verdict in found] == ["good", "unreadable", "unreadable", "defect"]
    assert found[1].reason == "the file has 2.1 MB, this page takes 2; send a smaller one"
    assert found[2].reason == "1000001 x 1 pixels are more than the 1 million of this page; scale it down"


def saved(image, kind):
    content = io.BytesIO()
    Image.fromarray(image).save(content, kind)
    return content.getvalue()


def test_formats_that_take_seconds_to_read_are_refused_from_their_header(inspector, monkeypatch):
    monkeypatch.setattr(PpmImagePlugin.PpmPlainDecoder, "decode", pytest.fail)  # 20 MB of such numbers take 2.3 s
    monkeypatch.setattr(Jpeg2KImagePlugin.Jpeg2KImageFile, "load", pytest.fail)
    texts = b"P3\n100 100\n255\n" + b"255 " * (3 * 100 * 100)
    kinds = ("PPM", "JPEG2000", "PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP")
    found = page.inspect_uploads(inspector, [texts, *(saved(grey(20), kind) for kind in kinds)])
    assert [verdict.label for verdict in found] == ["unreadable"] * 3 + ["good"] * 6
    assert found[0].reason == "the file is PPM, which this page does not take; save it as PNG"
    assert found[2].reason == "the file is JPEG2000, which this page does not take; save it as PNG"


def test_more_at_once_than_a_page_takes_is_refused_in_a_sentence(inspector, monkeypatch, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        path.write_bytes(png(grey(20)))
    size = paths[0].stat().st_size
    assert len(page.inspect_uploads(inspector, page.read_uploads(paths))) == 3
    with pytest.raises(DataError, match="33 files came; this page takes up to 32 at once"):
        page.read_uploads(paths * 11)
    monkeypatch.setattr(page, "MAX_BYTES_AT_ONCE", 3 * size - 1)
    with pytest.raises(DataError, match="1 MB came; this page takes 1 at once"):
        page.read_uploads(paths)
    contents = page.read_uploads(paths[:2])
    monkeypatch.setattr(page, "MAX_PIXELS_AT_ONCE", 2 * 32 * 32)
    assert len(page.inspect_uploads(inspector, contents)) == 2
    with pytest.raises(DataError, match="3 images of 1 million pixels came; this page takes 1 million at once"):
        page.inspect_uploads(inspector, [*contents, contents[0]])
    paths[1].unlink()
    with pytest.raises(DataError, match="was deleted before its turn came; send it again"):
        page.read_uploads(paths[:2])


def test_uploads_are_deleted_when_they_are_old_or_too_many(monkeypatch, tmp_path):
    paths = [tmp_path / "hash" / f"{i}.png" for i in range(4)]
    for path in paths:
        files.write_bytes(path, bytes(1000))
        time.sleep(0.01)
    (tmp_path / "tmpbroken").write_bytes(bytes(10))
    (tmp_path / "hash" / "example.png").write_bytes(bytes(9000))
    sent = {str(path) for path in (*paths, tmp_path / "gone.png")}
    uploads.sweep(sent, tmp_path)
    assert len(sent) == 5
    monkeypatch.setattr(uploads, "MAX_KEPT", 2500)
    uploads.sweep(sent, tmp_path)
    assert [path.exists() for path in paths] == [False, False, True, True]
    assert (tmp_path / "tmpbroken").exists()
    now = time.time()
    monkeypatch.setattr(uploads.time, "time", lambda: now + uploads.KEPT + 1)
    uploads.sweep(sent, tmp_path)
    assert sent == {str(tmp_path / "gone.png")}
    assert [path.name for path in tmp_path.rglob("*")] == ["hash", "example.png"]


def answered(chunks, length=None, most=1000):
    """What a page of at most so many bytes answers to a request of these chunks, and how much of it came through."""
    sent, came, most = [], [], most - uploads._FORM

    async def reading(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            came.append(len(message["body"]))
            if not message["more_body"]:
                return await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        body = chunks.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(chunks)}

    async def send(message):
        sent.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    asyncio.run(uploads.Bounded(reading, most)({"type": "http", "headers": headers}, receive, send))
    return sent, sum(came)


def test_a_request_that_is_too_long_is_cut_off_by_its_head_or_as_it_comes():
    [start, body], came = answered([bytes(1001)], 1001)
    assert (start["status"], came) == (413, 0)
    assert body["body"].endswith(b" MB at once; send fewer or smaller files.")
    assert answered([bytes(600), bytes(600), bytes(600)]) == ([], 600)
    sent, came = answered([bytes(500), bytes(500)], 1000)
    assert (sent[0]["status"], came) == (200, 1000)


def test_a_table_becomes_a_csv_that_runs_no_formula(inspector):
    formulas = ["=1.png", "+1.png", "-1.png", "@a.png", "\t=1+1.png", "\r=1.png", "\n=1.png", "\uff1d1.png", " =1.png"]
    rows = page.table_of(formulas, page.inspect_uploads(inspector, [b""] * len(formulas)))
    read = list(csv.DictReader(io.StringIO(page.csv_of(rows), newline="")))
    assert [row["file"] for row in read] == [f"'{name}" for name in formulas]
    names = ["a.png", "\t=1+1.png", 'b,"c".png']
    rows = page.table_of(names, page.inspect_uploads(inspector, [png(grey(20)), b"", png(grey(128))]))
    read = list(csv.DictReader(io.StringIO(page.csv_of(rows), newline="")))
    assert [row["file"] for row in read] == ["a.png", "'\t=1+1.png", 'b,"c".png']
    assert [row["verdict"] for row in read] == ["good", "unreadable", "undecided"]
    assert float(read[0]["P(defect)"]) == pytest.approx(float(read[0]["P edge"]))
    assert (read[0]["class"], read[1]["class"]) == ("good", "")
    assert read[1]["P(defect)"] == ""


def test_a_cascade_whose_vlm_cannot_be_loaded_says_so_where_it_would_be_asked(tmp_path, capsys):
    folder = brightness_cascade(tmp_path / "cascade", with_vlm=True)
    stated = files.read_json(folder / "cascade.json")
    vlm = {"base": Part("hub", "nowhere/at-all", "0" * 40).to_dict(), "adapter": None}
    hashes = stated["files"] | {"base/model.safetensors": "0" * 64}
    files.write_json(folder / "cascade.json", stated | {"vlm": vlm, "files": hashes})
    alone, _ = page.open_cascade(folder)
    verdict = alone(png(grey(128)))
    assert verdict.reason == "the edge alone is not sure enough; the VLM could not be loaded here"
    assert "the VLM could not be loaded here: " in capsys.readouterr().err
    assert "<dt>VLM</dt><dd>no answer: the VLM could not be loaded here</dd>" in page.verdict_html(
        verdict, alone.policy
    )
    assert alone(png(grey(20))).label == "good"


def test_a_base_that_cannot_be_read_names_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"demo-base is read by gguf: pip install 'hf-inspect\[demo\]'"):
        gguf_tokenizer(tmp_path / "any.gguf")


def drawing():
    spec = importlib.util.spec_from_file_location("draw", SPACE / "examples" / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_examples_are_drawn_and_the_edge_model_does_not_contradict_their_names():
    edge = Inspector.from_pretrained(ASSETS, policy="certified", use_vlm=False)
    never = {"good.png": "defect", "doubtful.png": None, "defective.png": "good"}
    drawn, severities = drawing().drawings(), []
    assert set(drawn) == set(never) == {path.name for path in (SPACE / "examples").glob("*.png")}
    for name, contrary in never.items():
        committed = np.asarray(Image.open(SPACE / "examples" / name), int)
        assert np.abs(committed - np.asarray(drawn[name], int)).max() <= 2
        verdict = edge(SPACE / "examples" / name)
        assert verdict.label != contrary
        severities.append(verdict.severity_of("edge"))
    assert severities == sorted(severities)
    assert edge.policy.first([severities[1]]).codes == [ASK], "the doubtful cell is one that the VLM is asked about"


def test_the_space_pins_the_gradio_and_python_that_it_is_tested_with():
    card = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert card["sdk_version"] == version("gradio")
    assert card["python_version"] == "3.11"
    assert len((SPACE / "app.py").read_text().splitlines()) < 150
    assert set(check(SPACE)) >= {"app.py", "README.md", "requirements.txt", "examples/good.png"}


@pytest.fixture
def space(tmp_path):
    """The Space's small files, and a wheel that nobody installs."""
    folder = tmp_path / "cascade"
    folder.mkdir()
    for name in ("app.py", "README.md", "requirements.txt"):
        (folder / name).write_text((SPACE / name).read_text())
    with zipfile.ZipFile(folder / "hf_inspect-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("hf_inspect/__init__.py", "")
    return folder


def test_a_pushed_space_installs_its_own_wheel_by_address_and_hash(hub, space):
    done = CliRunner().invoke(app, ["push", str(space), "acme/space", "--public"])
    assert done.exit_code == 0, done.output
    shown = done.stdout.splitlines()
    assert any(line.startswith(f"{hub.endpoint}/spaces/acme/space/commit/") for line in shown)
    there = hub.files("spaces", "acme/space")
    wheel = space / "hf_inspect-0.1.0-py3-none-any.whl"
    assert there[wheel.name] == wheel.read_bytes()
    line = there["requirements.txt"].decode().strip()
    stated = f"{hub.endpoint}/spaces/acme/space/resolve/main/{wheel.name}#sha256={files.sha256(wheel)}"
    assert line == f"hf-inspect[space] @ {stated}"
    assert hub.repos["spaces", "acme/space"].sdk == "gradio"
    assert (space / "requirements.txt").read_text().startswith("hf-inspect[space]  #")
    assert any(wheel.name in line for line in shown)
    assert push(space, "acme/space", private=False, show=print) is None
    with zipfile.ZipFile(wheel, "a") as content:
        content.writestr("hf_inspect/more.py", "")
    push(space, "acme/space", private=False, show=print)
    assert files.sha256(wheel) in hub.files("spaces", "acme/space")["requirements.txt"].decode()


def test_a_space_that_could_not_be_built_is_refused(hub, space, monkeypatch):
    with pytest.raises(HubError, match="a private Space cannot fetch its own wheel while it is built"):
        push(space, "acme/hidden", show=print)
    assert ("spaces", "acme/hidden") not in hub.repos
    wheel = next(space.glob("*.whl"))
    (space / "hf_inspect-0.2.0-py3-none-any.whl").write_bytes(wheel.read_bytes())
    with pytest.raises(HubError, match="holds 2 wheels of hf_inspect; leave one"):
        push(space, "acme/space", private=False, show=print)
    for found in space.glob("*.whl"):
        found.unlink()
    monkeypatch.setattr("hf_inspect.hub.space.__file__", str(space / "a" / "b" / "space.py"))
    with pytest.raises(HubError, match="this is no checkout to build one: put it there"):
        push(space, "acme/space", private=False, show=print)


def test_a_space_that_names_its_wheel_otherwise_goes_up_as_it_is(hub, space):
    next(space.glob("*.whl")).unlink()
    (space / "requirements.txt").write_text("hf-inspect[space] @ https://example.org/hf_inspect.whl\n")
    push(space, "acme/space", private=False, show=print)
    assert b"example.org" in hub.files("spaces", "acme/space")["requirements.txt"]


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    return mapping_cascade(tmp_path_factory.mktemp("mapped") / "cascade")


APP = """
import base64, io, json, runpy, sys
import numpy as np
from PIL import Image
own = runpy.run_path(sys.argv[1], run_name="space")
found = {name: own["inspect"](open(path, "rb").read()) for name, path in zip(("bright", "broken"), sys.argv[2:4])}
rates, plot = own["explore"](5, 10, 95, found["bright"][1])
rows, csv = own["inspect_batch"]([("a.png", open(sys.argv[2], "rb").read())])
head = base64.b64decode(csv.partition("base64,")[2].partition(chr(34))[0]).decode().splitlines()[0]
html = found["bright"][0]
heat = html.partition("<figure class=\\"heat\\">")[2].partition("base64,")[2].partition(chr(34))[0]
picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(heat))))
red, dark = picture[12, 16].tolist(), picture[40, 50].tolist()
print(json.dumps({"html": html.partition("<figure")[0], "red": red, "dark": dark,
                  "broken": found["broken"][0], "rates": rates, "plot": plot[:60], "head": head}))
"""


def test_the_app_shows_where_beside_the_image(mapped, tmp_path):
    """The app's own functions, in a process of its own: it patches gradio's classes."""
    (tmp_path / "bright.png").write_bytes(png(spotted()))
    (tmp_path / "broken.png").write_bytes(b"no image")
    given = [sys.executable, "-c", APP, SPACE / "app.py", tmp_path / "bright.png", tmp_path / "broken.png"]
    environment = os.environ | {"HF_INSPECT_CASCADE": str(mapped)}
    done = subprocess.run(list(map(str, given)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["red"][0] > 200 > 100 > max(said["red"][1:])
    assert said["dark"] == [40, 40, 40]
    assert "<figure" not in said["broken"]
    assert "P(defect)" not in said["html"] + said["rates"] + said["head"]
    assert "<strong>defect</strong>, severity 0.9" in said["html"]
    assert "good: never, as 0 calibration defects are too few; defect: above 0.5" in said["html"]
    assert "severity by the edge model would say good: never" in said["rates"]
    assert said["plot"].startswith("<img alt")
    assert said["head"] == "file,verdict,class,P(class),severity,decided by,reason,severity edge,P VLM,ms,notes"


def test_a_model_without_maps_shows_none(inspector):
    assert page.heat_html(inspector, png(grey(240)), inspector(png(grey(240)))) == ""
    assert page.columns_of(inspector.task) == list(page.COLUMNS)
