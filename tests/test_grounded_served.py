"""A tiny VLM that says where things are, served by what it is: by its adapter, guided, and out of a cascade."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hf_inspect import Inspector, files, hub
from hf_inspect.bundle import bundle
from hf_inspect.calibrate import calibrate
from hf_inspect.cli import app
from hf_inspect.data import refuse_seen
from hf_inspect.data.pool import write_pool
from hf_inspect.errors import DataError, HubError, LeakageError, ParityError
from hf_inspect.hub import push
from hf_inspect.metrics.findings import Thing
from hf_inspect.reports import write_card
from hf_inspect.schema import History
from hf_inspect.vlm import VLM, GroundedVLM, grounded, load, parity
from hf_inspect.vlm.generating import Generated
from hf_inspect.vlm.grounded import Learned
from hf_inspect.vlm.guiding import Guide
from hf_inspect.vlm.remote import RemoteVLM
from hf_inspect.vlm.serve import about_of, load_served
from hf_inspect.vlm.tiny import tiny_base
from tests import finders, tiny
from tests.saying import TASK
from tests.scripted import brightness_cascade, brightness_engine, grey
from tests.serving import serving

ANSWER = [
    {"bbox_2d": [5, 8, 20, 30], "label": "red", "description": "a dent"},
    {"bbox_2d": [0, 0, 27, 28], "label": "smudge"},
]


@dataclass(frozen=True, eq=False)
class Exemplar:
    rgb: np.ndarray
    things: tuple


class Fixed:
    """A guide that shows every image the same."""

    identity, shared, history = "f" * 64, True, History()

    def with_features(self, features):
        return self

    def for_image(self, rgb):
        return [Exemplar(tiny.pictures(1, seed=4)[0], (Thing("red", (3.0, 4.0, 30.0, 33.0)),))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, and a grounded and a closed adapter for it."""
    folder = tmp_path_factory.mktemp("made")
    tiny_base(folder / "base", "tiny-qwen2_5_vl")
    tiny.grounded_adapter(folder / "base", folder / "adapter", TASK, Learned(told=0.3, longest=16), describe=True)
    shutil.copytree(folder / "adapter", folder / "closed")
    _, processor = tiny.parts(folder / "base")
    ids = parity.encode(processor, tiny.QUESTION, [parity._ramp()])["input_ids"][0].tolist()
    ids += parity.answer_ids(processor, tiny.QUESTION)[-1]
    parity.write_prompt(folder / "closed", processor, tiny.QUESTION, ids)
    return folder


def generate(model, processor, asked, most, prefix=None):
    """ANSWER, whatever was asked; its tokens' probabilities rise from one to the next."""
    ids = processor.tokenizer(json.dumps(ANSWER), add_special_tokens=False)["input_ids"]
    p = np.linspace(0.5, 0.9, len(ids)).tolist()
    return [Generated(tuple(ids), tuple(p), ended=True) for _ in asked]


@pytest.fixture
def answering(monkeypatch):
    """Every generated answer is ANSWER."""
    monkeypatch.setattr(grounded, "generate", generate)


def test_an_adapter_is_served_as_what_it_was_trained_to_be(made, answering):
    vlm = load_served(made / "adapter", made / "base", Fixed())
    assert isinstance(vlm, GroundedVLM)
    about, images = about_of(vlm), tiny.pictures(6)
    record = files.read_json(made / "adapter" / "prompt.json")
    assert (about.fingerprint, about.task.kind) == (record["sha256"], "detection")
    assert (about.told, about.guide, about.identity) == (0.3, "f" * 64, vlm.identity)
    assert about.decides["question"] == {key: record[key] for key in ("question", "task")}
    assert {"adapter/prompt.json", "adapter/adapter_model.safetensors"} < set(about.files)
    with serving(vlm, about) as url:
        remote = RemoteVLM.connect(url, deadline=60)
        there = remote.predict(images)
        assert remote.history == vlm.history
    for image, here, other in zip(images, vlm.predict(images), there, strict=True):
        assert [(one.name, one.description) for one in other.findings] == [("smudge", ""), ("red", "a dent")]
        assert other.severity == here.severity == other.findings[0].score
        for one, two in zip(here.findings, other.findings, strict=True):
            assert one.score == two.score
            assert np.abs(np.subtract(one.box, two.box)).max() < 1e-6
            assert two.box[2] <= image.shape[1]
    assert isinstance(load_served(made / "closed", made / "base"), VLM)


def test_what_its_tiny_weights_say_is_unreadable_here_and_there(made):
    vlm, images = load_served(made / "adapter", made / "base"), tiny.pictures(3)
    with serving(vlm, about_of(vlm)) as url:
        there = RemoteVLM.connect(url, deadline=60).predict(images)
    for here, other in zip(vlm.predict(images), there, strict=True):
        assert (here.severity, here.unreadable, here.findings) == (None, other.unreadable, other.findings)
        assert here.unreadable


def test_exemplars_are_for_whom_they_can_guide(made, tmp_path):
    with pytest.raises(DataError, match="is shown no exemplars"):
        load_served(made / "closed", made / "base", Fixed())
    cascade = brightness_cascade(tmp_path / "cascade", with_vlm=True)
    with pytest.raises(DataError, match="shows the exemplars that it was calibrated with, if any"):
        load_served(cascade, None, Fixed())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return finders.built(tmp_path_factory.mktemp("data"), 60, shares="5/35/40/20")


def test_a_cascade_holds_it_as_its_parts_and_serves_it(made, data, tmp_path, answering):
    out = tmp_path / "cascade"
    stated = calibrate(
        brightness_engine(tmp_path / "edge"), (made / "base", made / "adapter"), data, out, escape=0.3, overkill=0.3
    )
    assert stated["vlm"] == {"base": {"folder": "base"}, "adapter": {"folder": "adapter"}}
    assert stated["vlm_task"] == TASK.to_dict()
    inspector = Inspector.from_pretrained(out)
    assert isinstance(inspector.vlm, GroundedVLM)
    assert (inspector.told_of("vlm"), inspector.things) == (0.3, TASK)
    vlm = load_served(out)
    with serving(vlm, about_of(vlm)) as url:
        far = Inspector.from_pretrained(out, vlm=url, deadline=60)
        assert far.vlm.predict([grey(9)])[0].findings == inspector.vlm.predict([grey(9)])[0].findings
    guided = about_of(load(made / "base", made / "adapter", Fixed()))
    with serving(vlm, guided) as url, pytest.raises(ParityError, match="shows the exemplars ffffffffffff first"):
        Inspector.from_pretrained(out, vlm=url, deadline=5)
    assert hub.kind_of(out / "adapter") is hub.kinds.ADAPTER


@pytest.fixture(scope="module")
def pool(data, tmp_path_factory):
    """Three exemplars, of parts that were for training."""
    out = tmp_path_factory.mktemp("pools") / "pool"
    write_pool(data, out, 3, split="train")
    return out


@pytest.fixture(scope="module")
def calibrated(made, data, pool, tmp_path_factory):
    """A cascade whose VLM is shown one exemplar first, by the command."""
    folder = tmp_path_factory.mktemp("calibrated")
    out, edge = folder / "cascade", brightness_engine(folder / "edge")
    command = ["calibrate", "--edge", edge, "--base", made / "base", "--adapter", made / "adapter", "--exemplars"]
    command += [pool / "pool.jsonl", "--num", "1", "--data", data, "--out", out, "--escape", "0.3", "--overkill", "0.3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grounded, "generate", generate)
        done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return out


@pytest.fixture
def guided(calibrated, tmp_path, answering):
    """That cascade, to spoil."""
    return Path(shutil.copytree(calibrated, tmp_path / "cascade"))


def test_a_cascade_holds_its_exemplars_and_shows_them_wherever_it_runs(guided, made, pool, tmp_path):
    stated, want = files.read_json(guided / "cascade.json"), Guide.from_path(pool, 1)
    assert len(hub.own_files(pool, hub.kinds.EXEMPLARS)) == len(want.pool.exemplars) + 3
    assert stated["vlm"]["exemplars"] == {"folder": "exemplars"}
    assert stated["vlm"]["states"] == {"guide": want.identity, "num": 1, "how": "fixed"}
    assert {name for name in stated["files"] if name.startswith("exemplars/")} == {
        f"exemplars/{name}" for name in hub.own_files(pool, hub.kinds.EXEMPLARS)
    }
    bundle(guided, tmp_path / "bundle")
    assert "exemplars" in (tmp_path / "bundle" / "LICENCES.md").read_text()
    for folder in (guided, tmp_path / "bundle"):
        vlm = Inspector.from_pretrained(folder).vlm
        assert vlm.guide.identity == want.identity
        assert [one.sha256 for one in vlm.prepare(grey(9)).exemplars] == [want.pool.exemplars[0].sha256]
    vlm = load_served(guided)
    assert vlm.guide.identity == want.identity
    with serving(vlm, about_of(vlm)) as url:
        far = Inspector.from_pretrained(guided, vlm=url, deadline=60)
        assert far.vlm.predict([grey(9)])[0].findings == vlm.predict([grey(9)])[0].findings
    alone = load(made / "base", made / "adapter")
    with serving(alone, about_of(alone)) as url, pytest.raises(ParityError, match="shows no exemplars first"):
        Inspector.from_pretrained(guided, vlm=url, deadline=5)
    assert hub.kind_of(guided / "exemplars") is hub.kinds.EXEMPLARS


def test_a_cascade_with_exemplars_is_measured_described_and_pushed(guided, data, tmp_path, hub):
    results = guided / "results.json"
    for command in (["eval", "cascade", guided, "--data", data, "--out", results], ["card", guided]):
        done = CliRunner().invoke(app, list(map(str, command)))
        assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    assert "shown 1 exemplars of `exemplars` first (fixed)" in (guided / "README.md").read_text()
    push(guided, "acme/guided", show=lambda text: None)
    pulled = Inspector.from_pretrained("acme/guided")
    assert pulled.vlm.guide.identity == Inspector.from_pretrained(guided).vlm.guide.identity
    with pytest.raises(HubError, match="exemplars, which have no card of their own"):
        write_card(guided / "exemplars")


def altered_line(folder):
    path = folder / "exemplars" / "pool.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def without_an_image(folder):
    next((folder / "exemplars" / "images").iterdir()).unlink()


def other_pixels(folder):
    path = next((folder / "exemplars" / "images").iterdir())
    path.write_bytes(path.read_bytes() + b" ")


def stating(**values):
    def change(folder):
        stated = files.read_json(folder / "cascade.json")
        stated["vlm"]["states"] |= values
        files.write_json(folder / "cascade.json", stated)

    return change


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (altered_line, ParityError, "pool.jsonl is not the file that the cascade was calibrated with"),
        (other_pixels, ParityError, r"\.png is not the file that the cascade was calibrated with"),
        (without_an_image, ParityError, "is missing; it is one that the cascade was calibrated with"),
        (stating(num=2), ParityError, "its exemplars are not shown as they were calibrated with"),
        (stating(how="nearest"), ParityError, "its exemplars are not shown as they were calibrated with"),
        (stating(num="two"), DataError, "does not say how exemplars are shown"),
    ],
)
def test_other_exemplars_than_it_was_calibrated_with_are_refused(guided, change, error, said):
    change(guided)
    with pytest.raises(error, match=said):
        Inspector.from_pretrained(guided)


def test_exemplars_of_what_it_is_calibrated_on_or_of_nobody_here_are_refused(made, data, pool, tmp_path):
    edge, both = brightness_engine(tmp_path / "edge"), (made / "base", made / "adapter")
    write_pool(data, tmp_path / "seen", 2, split="calibration")
    with pytest.raises(LeakageError):
        calibrate(edge, both, data, tmp_path / "out", exemplars=tmp_path / "seen")
    with pytest.raises(DataError, match="names a class, and is shown no exemplars"):
        calibrate(edge, (made / "base", made / "closed"), data, tmp_path / "out", exemplars=pool)
    with pytest.raises(DataError, match="one at a server is shown the server's"):
        calibrate(edge, "http://127.0.0.1:1", data, tmp_path / "out", exemplars=pool)
    with pytest.raises(DataError, match=r"nor the pool\.jsonl in it"):
        calibrate(edge, both, data, tmp_path / "out", exemplars=pool / "pool.json")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [["--num", "2"], ["--nearest"]])
@pytest.mark.parametrize(
    "command",
    [
        ["calibrate", "--edge", "x", "--base", "x", "--data", "x", "--out", "x"],
        ["serve", "x"],
        ["eval", "ground", "x", "--data", "x", "--out", "x"],
    ],
)
def test_how_exemplars_are_shown_without_any_is_refused(command, more):
    done = CliRunner().invoke(app, [*command, *more])
    assert done.exit_code == 2
    assert "--num and --nearest are of exemplars: give their pool." in re.sub(r"[│\s]+", " ", done.output)


def test_a_head_s_files_belong_to_it_and_decide(made, data, tmp_path):
    adapter = tmp_path / "adapter"
    for path in (made / "adapter").iterdir():
        files.write_bytes(adapter / path.name, path.read_bytes())
    files.write_bytes(adapter / "head.safetensors", b"\x02\0\0\0\0\0\0\0{}")
    files.write_json(adapter / "head.json", {})
    assert {"head.safetensors", "head.json"} < set(hub.files_to_push(adapter))
    hashes = hub.file_hashes({"adapter": adapter})
    assert {"adapter/head.safetensors", "adapter/head.json"} < set(hashes)


def test_the_command_shows_a_pool_s_exemplars_first(made, data, tmp_path, monkeypatch):
    """Two that are the pool's first, or the two nearest; a client is told by which."""
    import uvicorn

    ran, adapter, base = [], made / "adapter", made / "base"
    monkeypatch.setattr(uvicorn, "run", lambda app, **settings: ran.append(app))
    write_pool(data, tmp_path / "pool", 3, split="calibration")
    pool = tmp_path / "pool" / "pool.jsonl"
    command = ["serve", str(adapter), "--base", str(base), "--exemplars", str(pool), "--num", "2"]
    for more, how in (([], "fixed"), (["--nearest"], "nearest")):
        done = CliRunner().invoke(app, [*command, *more])
        assert done.exit_code == 0, f"{done.output}{done.exception!r}"
        assert f"exemplars {Guide.from_path(pool, 2, how).identity[:16]}" in done.output
    assert len(ran) == 2
    vlm = load_served(adapter, base, Guide.from_path(pool, 2, "nearest"))
    image = tiny.pictures(1, seed=9)[0]
    shown, about = vlm.prepare(image).exemplars, about_of(vlm)
    assert len(shown) == 2
    assert [one.file for one in vlm.prepare(vlm._sizing.fit(image)).exemplars] == [one.file for one in shown]
    with serving(vlm, about) as url:
        remote = RemoteVLM.connect(url, deadline=60)
        assert remote.states["guide"] == about.guide == vlm.guide.identity
        with pytest.raises(LeakageError):
            refuse_seen(remote.history, data, "calibration", "the VLM")
