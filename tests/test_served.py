"""A cascade whose VLM is a server: calibrated with it, bound to it, and not lost for it when it is not there."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from hf_inspect import files, hub
from hf_inspect.bundle import bundle
from hf_inspect.calibrate import calibrate
from hf_inspect.cli import app
from hf_inspect.data import read_task, record_history
from hf_inspect.errors import DataError, LeakageError, ParityError, ServerError
from hf_inspect.hub import push
from hf_inspect.inspector import Inspector
from hf_inspect.reports import evaluate_cascade, write_card
from hf_inspect.vlm.identity import history_sha256
from hf_inspect.vlm.openai import OpenAIVLM
from hf_inspect.vlm.remote import RemoteVLM
from tests import line
from tests.raw import pairs
from tests.scripted import brightness_engine, grey
from tests.serving import Brightness, about, answering, free_port, reply, serving, wanted
from tests.test_openai import completion, first_tokens, speaking

RISK = {"escape": 0.2, "overkill": 0.3, "confidence": 0.8}
DOWN = "The VLM does not answer"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A good part and one with a dent of each of 250 numbers, which are one group."""
    return pairs(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def edge(data, tmp_path_factory):
    return brightness_engine(tmp_path_factory.mktemp("edge") / "edge", task=read_task(data))


@pytest.fixture(scope="module")
def ours(data, edge, tmp_path_factory):
    """A cascade that was calibrated with a stand-in's server, gone since, and where that was."""
    out = tmp_path_factory.mktemp("ours") / "cascade"
    with serving(Brightness(read_task(data))) as url:
        given = ["--edge", str(edge), "--vlm", url, "--data", str(data), "--out", str(out)]
        done = CliRunner().invoke(app, ["calibrate", *given, "--escape", "0.2", "--overkill", "0.3"])
    assert done.exit_code == 0, done.output
    return out, url


def test_what_the_server_states_is_what_the_cascade_is_bound_to(data, ours):
    out, url = ours
    stated, served = files.read_json(out / "cascade.json"), about(read_task(data))
    assert stated["vlm"] == {
        "server": url,
        "states": {"kind": "hf_inspect", "identity": served.identity, "fingerprint": served.fingerprint},
    }
    assert served.files.items() <= stated["files"].items()
    assert set(hub.weights_of(stated)) == {"edge/openvino_model.bin", "adapter/adapter_model.safetensors"}
    assert {path.name for path in out.iterdir()} >= {"edge", "cascade.json", "calibration.jsonl"}


def test_it_is_asked_elsewhere_if_it_is_the_same_and_refused_if_not(data, ours):
    out, task = ours[0], read_task(data)
    with serving(Brightness(task)) as url:
        assert Inspector.from_pretrained(out, vlm=url, deadline=5).vlm.about.identity == about(task).identity
    other = about(task, **{"adapter/adapter_model.safetensors": "e" * 64})
    with serving(Brightness(task), other) as url, pytest.raises(ParityError, match="serves another adapter"):
        Inspector.from_pretrained(out, vlm=url)
    otherwise = dataclasses.replace(about(task), fingerprint="e" * 64)
    with serving(Brightness(task), otherwise) as url, pytest.raises(ParityError, match="asks by another prompt"):
        Inspector.from_pretrained(out, vlm=url)
    with pytest.raises(DataError, match="was not calibrated with the model of such a server"):
        Inspector.from_pretrained(out, vlm="openai+http://127.0.0.1:1/v1")


def test_a_bundle_leaves_the_server_where_it_is(ours, tmp_path):
    bundle(ours[0], tmp_path / "out")
    stated, inside = (files.read_json(at / "cascade.json") for at in (ours[0], tmp_path / "out"))
    assert (inside["vlm"], inside["from"]) == (stated["vlm"], {})
    assert hub.verify(tmp_path / "out") == []


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_a_served_vlm_may_not_have_seen_the_calibration_split(data, edge, tmp_path, split):
    vlm = Brightness(read_task(data))
    vlm.history = record_history(data, {split: None})
    says = dataclasses.replace(about(vlm.task), history=history_sha256(vlm.history))
    with serving(vlm, says) as url:
        if split == "calibration":
            with pytest.raises(LeakageError, match="vlm or an ancestor of it"):
                calibrate(edge, url, data, tmp_path / "cascade", **RISK)
            assert not (tmp_path / "cascade").exists()
        else:
            calibrate(edge, url, data, tmp_path / "cascade", **RISK)


def test_a_history_that_is_not_the_one_stated_is_refused(data):
    vlm = Brightness(read_task(data))
    vlm.history = record_history(data, {"calibration": None})
    with serving(vlm) as url, pytest.raises(ParityError, match="tells of another training"):
        _ = RemoteVLM.connect(url).history


def test_a_part_that_the_server_leaves_out_ends_the_calibration(data, edge, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_inspect.calibrate._DEADLINE", 0.5)
    said = json.dumps(about(read_task(data)).to_dict()).encode()
    history = json.dumps(Brightness.history.to_dict()).encode()
    asked = {"/vlm": said, "/history": history}

    def refusing(handler, body):
        known = asked.get(handler.path)
        reply(handler, 200 if known else 503, known or b"")

    with answering(refusing) as url, pytest.raises(ServerError, match=r"gave no answer for .* run the same command"):
        calibrate(edge, url, data, tmp_path / "cascade", **RISK)
    kept = (tmp_path / "cascade.validation.scores.jsonl").read_text().splitlines()
    assert len(kept) == 1, "an image without an answer is kept"


def test_a_server_that_fails_midway_ends_an_evaluation_which_goes_on_later(data, ours, tmp_path, monkeypatch):
    """What it left unanswered would be counted against its VLM."""
    vlm, port, kept = Brightness(read_task(data)), int(ours[1].rpartition(":")[2]), tmp_path / "scores.jsonl"
    says, asked = about(vlm.task), 0

    def failing(handler, body):
        nonlocal asked
        if handler.path == "/vlm":
            return reply(handler, 200, json.dumps(says.to_dict()).encode())
        if handler.path == "/history":
            return reply(handler, 200, json.dumps(vlm.history.to_dict()).encode())
        asked += 1
        return reply(handler, 503)

    said = r"gave no answer for .* run the same command"
    with answering(failing, port=port), monkeypatch.context() as patch:
        patch.setattr("hf_inspect.reports.evaluate._DEADLINE", 3.0)  # a busy machine asks late
        with pytest.raises(ServerError, match=said):
            evaluate_cascade(ours[0], data, "test", kept)
    assert asked
    with serving(vlm, port=port):
        found = evaluate_cascade(ours[0], data, "test", kept)
    assert found["vlm"]["unreadable"]["k"] == 0


def test_a_server_that_is_not_there_leaves_parts_undecided_until_it_is(tmp_path, caplog):
    cascade, port = line.cascade_with_vlm(tmp_path / "cascade"), free_port()
    inspector = Inspector.from_pretrained(cascade, vlm=f"http://127.0.0.1:{port}", deadline=0.5)
    assert [one.getMessage().startswith(DOWN) for one in caplog.records if one.name == "hf_inspect.wire"] == [True]
    before = inspector.identity
    verdict = inspector(grey(128))
    assert (verdict.label, verdict.decided_by) == ("undecided", "rule")
    assert "the VLM gave no answer: its server cannot be reached" in verdict.reason
    with serving(Brightness(), port=port):
        assert inspector.vlm.predict([grey(51)])[0].severity == pytest.approx(0.2)
        assert inspector.identity == before
        assert Inspector.from_pretrained(cascade, vlm=f"http://127.0.0.1:{port}").identity == before
    assert inspector.wire.counts["reconnected"] == 1


def test_nothing_is_evaluated_with_a_server_that_is_not_there(ours):
    with pytest.raises(ServerError, match="cannot be reached"):
        _ = RemoteVLM.connect(ours[1], wanted(), deadline=0.5, patience=0.3, wait=True).history


def test_another_vlm_that_comes_up_later_decides_nothing_and_ends_with_2(tmp_path, monkeypatch):
    cascade, parts, port = line.cascade_with_vlm(tmp_path / "cascade"), tmp_path / "parts", free_port()
    line.write_parts(parts, 3)
    other = about(**{"adapter/adapter_model.safetensors": "e" * 64})
    connect = RemoteVLM.connect.__func__
    starts = []

    def late(cls, *given, **settings):
        vlm = connect(cls, *given, **settings | {"patience": 0.3})
        starts.append(serving(Brightness(), other, port=port))
        starts[0].__enter__()
        return vlm

    monkeypatch.setattr(RemoteVLM, "connect", classmethod(late))
    command = ["predict", str(cascade), str(parts), "--vlm", f"http://127.0.0.1:{port}", "--deadline", "5"]
    try:
        done = CliRunner().invoke(app, command)
    finally:
        starts[0].__exit__(None, None, None)
    assert done.exit_code == 2, done.output
    assert "3 inspected: undecided 3" in done.output
    assert "serves another adapter than the cascade was calibrated with" in done.output
    assert "3 parts have no answer of the VLM, as its server has another one" in done.output


def test_a_model_of_an_openai_server_is_known_by_name_and_the_promise_says_so(data, edge, tmp_path):
    out = tmp_path / "cascade"
    with answering(first_tokens({"good": np.log(0.6), "d": np.log(0.3)})) as url:
        stated = calibrate(edge, f"openai+{url}/v1", data, out, **RISK)
        found = Inspector.from_pretrained(out).vlm
        assert isinstance(found, OpenAIVLM)
        assert found.states == stated["vlm"]["states"]
        assert {"model": "big", "scoring": "top_logprobs"}.items() <= found.states.items()
        changed = shutil.copytree(out, tmp_path / "changed")
        less = {**stated["vlm"]["states"], "fingerprint": "0" * 64}
        files.write_json(changed / "cascade.json", {**stated, "vlm": {**stated["vlm"], "states": less}})
        with pytest.raises(ParityError, match="would be asked by another prompt"):
            Inspector.from_pretrained(changed)
    said = stated["policies"]["certified"]["statement"]
    assert "the model big of an OpenAI-compatible server, known by its name alone: its weights cannot be chec" in said
    assert "What it was trained on is not known" in said
    listing = json.dumps({"object": "list", "data": [{"id": "small"}]}).encode()
    only = answering(lambda handler, body: reply(handler, 200, listing))
    with only as url, pytest.raises(ParityError, match="serves small, not 'big'"):
        Inspector.from_pretrained(out, vlm=f"{url}/v1")
    with answering(speaking(lambda body: (200, completion()))) as url:
        with pytest.raises(ServerError, match="no promise can be made"):
            Inspector.from_pretrained(out, vlm=f"{url}/v1")
        with pytest.raises(ServerError, match="no promise can be made with it, and calibration is refused"):
            calibrate(edge, f"openai+{url}/v1", data, tmp_path / "none", **RISK)


@pytest.mark.parametrize("kind", ["serve", "openai"])
def test_it_is_measured_described_pushed_and_asked_from_the_hub(data, edge, hub, tmp_path, kind):
    """A card that names the server and not what is not known; a push that sends no VLM; a pull that asks the server."""
    out, task = tmp_path / "cascade", read_task(data)
    answers = first_tokens({"good": np.log(0.6), "d": np.log(0.3)})
    with serving(Brightness(task)) if kind == "serve" else answering(answers) as at:
        url = at if kind == "serve" else f"openai+{at}/v1"
        calibrate(edge, url, data, out, **RISK)
        files.write_json(out / "results.json", evaluate_cascade(out, data, "test", tmp_path / "scores.jsonl"))
        card = " ".join(write_card(out).read_text().split())
        push(out, "acme/served", show=lambda text: None)
        there = hub.files("models", "acme/served")
        one, two = (Inspector.from_pretrained(which, deadline=20) for which in (out, "acme/served"))
        said = [[(v.label, v.decided_by, v.severity) for v in map(i, map(grey, (20, 128, 240)))] for i in (one, two)]
    assert said[0] == said[1]
    assert url in card
    assert ("served by `hf-inspect serve`" in card) == (kind == "serve")
    assert ("the model `big` of the server" in card) == (kind == "openai")
    assert files.read_json(out / "cascade.json")["policies"]["certified"]["statement"] in card
    assert {name.partition("/")[0] for name in there if "/" in name} == {"edge"}
    assert json.loads(there["cascade.json"])["vlm"]["server"] == url
    assert "base_model" not in card.split("---")[1]


@pytest.mark.parametrize("more", [["--base", "demo-base", "--vlm", "http://h:1"], ["--model", "big"]])
def test_a_vlm_is_given_one_way(tmp_path, more):
    given = ["--edge", "e", "--data", "d", "--out", str(tmp_path / "o"), *more]
    done = CliRunner().invoke(app, ["calibrate", *given])
    assert done.exit_code == 2
    assert "or --vlm with its --model" in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize("url", ["http://me:correct-horse@h:1", "http://h:1/?token=correct-horse"])
def test_an_address_with_a_secret_is_refused_and_not_shown(data, edge, ours, tmp_path, url):
    with pytest.raises(DataError, match="give http://host:port alone") as raised:
        calibrate(edge, url, data, tmp_path / "cascade")
    assert "correct-horse" not in str(raised.value)
    stated = files.read_json(ours[0] / "cascade.json")
    with pytest.raises(DataError, match="no name or password") as raised:
        hub.parts_of({**stated, "vlm": {**stated["vlm"], "server": url}})
    assert "correct-horse" not in str(raised.value)
