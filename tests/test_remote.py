"""A VLM at the other end of a wire: the same verdicts as in process, and a reason for every part without one."""

import dataclasses
import json
import logging
import re
import threading
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from hf_inspect import files, hub
from hf_inspect.cli import app
from hf_inspect.errors import DataError, ParityError, ServerError
from hf_inspect.inspector import Inspector
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.schema import TaskSpec
from hf_inspect.vlm import parity
from hf_inspect.vlm import tiny as tiny_bases
from hf_inspect.vlm.remote import RemoteVLM
from hf_inspect.vlm.serve import about_of, load_served
from hf_inspect.vlm.wire import FAILURES, TOKEN
from tests import line, tiny, tiny_edge
from tests.scripted import brightness_cascade, grey
from tests.serving import PROMPT, Brightness, about, answering, reply, serving, wanted

SECRET = "correct-horse-battery-staple"
FAST = {"deadline": 5.0, "patience": 0.3}


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """A cascade folder with a tiny VLM, its base and its adapter in it."""
    folder = brightness_cascade(tmp_path_factory.mktemp("whole") / "cascade", tiny.QUESTION.task, with_vlm=True)
    tiny.loud_base(folder / "base")
    tiny.random_adapter(folder / "base", folder / "adapter")
    stated = files.read_json(folder / "cascade.json")
    stated["vlm"] = {"base": {"folder": "base"}, "adapter": {"folder": "adapter"}}
    stated["files"] |= hub.file_hashes({role: folder / role for role in ("base", "adapter")})
    files.write_json(folder / "cascade.json", stated)
    return folder


@pytest.fixture(scope="module")
def served(cascade):
    """The cascade's VLM as `hf-inspect serve` loads it, and where it is served."""
    vlm = load_served(cascade)
    with serving(vlm, about_of(vlm)) as url:
        yield vlm, url


@pytest.fixture(scope="module")
def bright():
    """A stand-in's server."""
    with serving(Brightness()) as url:
        yield url


def middling(seed):
    """An image of medium brightness, which the edge hands on, of a size of its own."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(40, 120, 2)
    return rng.integers(118 - seed % 9, 138 - seed % 9, (height, width, 3)).astype(np.uint8)


def test_in_process_and_remote_verdicts_are_equal(cascade, served):
    vlm, url = served
    remote = Inspector.from_pretrained(cascade, vlm=url, deadline=60)
    here = dataclasses.replace(remote, vlm=vlm)
    parts = [middling(seed) for seed in range(24)]
    at_home, over_the_wire = list(here.inspect(parts)), list(remote.inspect(parts))
    assert all(one.severity_of("vlm") is not None for one in at_home)
    for a, b in zip(at_home, over_the_wire, strict=True):
        assert (a.label, a.decided_by, a.reason, a.class_name) == (b.label, b.decided_by, b.reason, b.class_name)
        assert a.severity == pytest.approx(b.severity, abs=0.02)  # bfloat16 where the machine has it, in other batches
    assert remote.vlm.about.identity == vlm.identity
    assert remote.vlm.wire.counts["answered"] == 24


def test_alone_an_image_has_the_very_same_answer(served):
    """What the server's VLM sees is, to the last bit, what the one in process makes of the image."""
    vlm, url = served
    remote = RemoteVLM.connect(url, deadline=60)
    for part in (middling(3), middling(4)):
        assert remote.predict([part]) == vlm.predict([part])
    assert remote.predict([]) == []
    assert remote.history == vlm.history
    assert (remote.task, remote.reading) == (vlm.task, vlm.reading)


@pytest.mark.parametrize("name", list(tiny_bases.BASES))
def test_the_one_resize_leaves_nothing_to_the_processor_and_comes_within_a_level_of_its_own(name):
    """Fails when this package's sizes and transformers' part: then another image travels than the prompt needs."""
    from transformers import AutoProcessor

    from hf_inspect.vlm.base import base_folder

    processor = AutoProcessor.from_pretrained(base_folder(name))
    sizing, settings = sizing_of(parity.image_settings(processor)), parity.image_settings(processor)
    rng = np.random.default_rng(0)
    for size in ((40, 50), (64, 64), (300, 300), (31, 97), (333, 200)):
        image = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
        fitted = sizing.fit(image)
        assert sizing.fit(fitted) is fitted
        whole, sent = (processor.image_processor([[one]], return_tensors="np") for one in (image, fitted))
        assert {key: np.shape(value) for key, value in whole.items()} == {k: np.shape(v) for k, v in sent.items()}
        step = 1 / 255 / min(settings["image_std"])
        assert np.abs(whole["pixel_values"] - sent["pixel_values"]).max() <= 1.1 * step


def test_images_of_a_rule_that_is_not_known_travel_as_they_are():
    image = grey(3, side=50)
    for rule in ({}, {"size": {"shortest_edge": 30}}, {"size": {"height": 9, "width": 9}, "do_resize": False}):
        assert sizing_of(rule).fit(image) is image


def test_what_travels_is_small_and_jpeg_is_another_identity():
    said = about(rule=PROMPT | {"size": {"height": 96, "width": 96}})
    part = np.random.default_rng(0).integers(0, 255, (400, 600, 3)).astype(np.uint8)
    with serving(Brightness(), said) as url:
        plain, jpeg = (RemoteVLM.connect(url, wanted(), jpeg=quality, **FAST) for quality in (None, 60))
        for one in (plain, jpeg):
            assert one.predict([part])[0].severity == pytest.approx(0.5, abs=0.02)
        for quality in (0, 101):
            with pytest.raises(DataError, match="JPEG quality"):
                RemoteVLM.connect(url, jpeg=quality)
    assert plain.wire.counts["bytes"] < 96 * 96 * 3 + 1000
    assert jpeg.wire.counts["bytes"] < plain.wire.counts["bytes"] / 2
    assert plain.identity == wanted().identity != jpeg.identity


def test_the_day_of_a_line_loses_no_part(tmp_path):
    """A torch-free process, a server killed twice, slow, garbled once and refusing for a while."""
    up = line.Phase("up", 12)
    phases = [
        up, line.Phase("killed", 28), up, line.Phase("slow 5", 8), up, line.Phase("killed", 28), up,
        line.Phase("garbage", 4), up, line.Phase("503", 8), up,
    ]  # fmt: skip
    rows, counts, alone = line.live(phases, tmp_path, deadline=1.5, rest=0.3)
    n = sum(phase.parts for phase in phases)
    assert n == 148
    assert [row["path"] for row in rows] == [f"{i:05}.png" for i in range(n)]
    for row, severity in zip(rows, alone, strict=True):
        if line.by_vlm(row) is not None:
            assert line.by_vlm(row) == pytest.approx(severity, abs=1e-9)
            assert "gave no answer" not in row["reason"]
        else:
            assert row["label"] == "undecided"
            assert re.search(r"the VLM gave no answer: its server \w", row["reason"]), row["reason"]
    at = 0
    for phase in phases:
        said = [line.by_vlm(row) for row in rows[at : at + phase.parts]]
        assert phase.what != "up" or None not in said, (phase, said)
        assert phase.what == "up" or None in said, (phase, said)
        at += phase.parts
    words = " | ".join(line.reasons(rows))
    for reason in ("cannot be reached", "did not answer within 1.5 s", "no JSON", "503", "given up until"):
        assert reason in words, words
    assert counts["late"] >= 1
    assert counts["reconnected"] >= 4
    assert counts["answered"] == sum(line.by_vlm(row) is not None for row in rows)
    asked = sum(counts[kind] for kind in ("answered", "late", "failed", "garbage", "busy", "changed") if kind in counts)
    assert asked + counts["given up"] == n


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"adapter/adapter_model.safetensors": "e" * 64}, "serves another adapter than the cascade was calibrated"),
        ({"base/model.safetensors": "e" * 64}, "serves another base than the cascade was calibrated"),
        ({"adapter/prompt.json": "e" * 64}, "serves another prompt than the cascade was calibrated"),
        ({"base/new.json": "e" * 64}, "serves another base .*base/new.json"),
    ],
    ids=["adapter", "base", "prompt", "a file more"],
)
def test_the_wrong_vlm_is_refused_when_it_is_connected(tmp_path, other, words):
    with serving(Brightness(), about(**other)) as url, pytest.raises(ParityError, match=words):
        Inspector.from_pretrained(line.cascade_with_vlm(tmp_path / "cascade"), vlm=url)


def test_another_task_is_refused_when_it_is_connected(tmp_path):
    task = TaskSpec.of(("fine", "crack"), good=["fine"])
    with serving(Brightness(task), about(task)) as url, pytest.raises(DataError, match="answer different questions"):
        Inspector.from_pretrained(line.cascade_with_vlm(tmp_path / "cascade"), vlm=url)


def test_an_identity_that_is_not_of_the_files_stated_is_refused():
    lying = dataclasses.replace(about(), identity="0" * 64)
    with serving(Brightness(), lying) as url, pytest.raises(ParityError, match="not of the files it states"):
        RemoteVLM.connect(url, **FAST)


def test_a_server_that_has_another_vlm_since_decides_nothing():
    """A load balancer, or a restart with another adapter: the connection stays whole, the answers are no longer his."""
    with serving(Brightness()) as url:
        remote = RemoteVLM.connect(url, wanted(), deadline=2)
        assert remote.predict([grey(51)])[0].severity == pytest.approx(0.2)
        remote._about = dataclasses.replace(remote.about, identity="0" * 64)
        for _ in range(2):
            [found] = remote.predict([grey(51)])
            assert "another VLM now than the one that was checked" in str(found.unreadable)
    assert remote.wire.counts["changed"] == 2


def elsewhere(handler, body):
    reply(handler, 307, location="https://elsewhere.example/vlm")


def shop(handler, body):
    reply(handler, 200, b"<html>Welcome</html>", content_type="text/html")


def no_page(handler, body):
    reply(handler, 404, b"<html>Not here</html>")


def old(handler, body):
    reply(handler, 200, json.dumps(about().to_dict() | {"format": 0, "version": "0.0.1"}).encode())


def empty(handler, body):
    reply(handler, 200, json.dumps({"server": "hf_inspect", "format": 3}).encode())


def endless(handler, body):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"0" * 100_000)
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (shop, DataError, "is no server of a VLM of ours"),
        (no_page, DataError, "is no server of a VLM of ours"),
        (elsewhere, ServerError, r"sends on to elsewhere.example \(307\)"),
        (old, DataError, "is of hf-inspect 0.0.1 and speaks format 0"),
        (empty, DataError, "does not say what its VLM is"),
        (endless, DataError, "is no server of a VLM of ours"),
    ],
)
def test_what_is_no_server_of_ours_is_refused_in_a_sentence(answer, error, words):
    with answering(answer) as url, pytest.raises(error, match=words):
        RemoteVLM.connect(url, **FAST)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1, and that of the authority that signed it."""
    import trustme

    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    signed = authority.issue_cert("127.0.0.1")
    signed.private_key_pem.write_to_path(folder / "key.pem")
    signed.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return folder


def test_tls_is_believed_only_when_its_certificate_is(certificate, monkeypatch):
    options = {"ssl_certfile": str(certificate / "cert.pem"), "ssl_keyfile": str(certificate / "key.pem")}
    with serving(Brightness(), **options) as url:
        with pytest.raises(ServerError, match=r"no secure connection comes about \(.*certificate"):
            RemoteVLM.connect(url, **FAST)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "ca.pem"))
        assert RemoteVLM.connect(url, wanted(), deadline=5).predict([grey(51)])[0].severity == pytest.approx(0.2)


def test_tls_to_a_server_without_it_is_a_sentence(bright):
    with pytest.raises(ServerError, match="no secure connection comes about"):
        RemoteVLM.connect(bright.replace("http:", "https:"), **FAST)


def test_nobody_there_is_a_sentence():
    with pytest.raises(ServerError, match=r"http://127.0.0.1:1: its server cannot be reached \(Connection refused\)"):
        RemoteVLM.connect("http://127.0.0.1:1", **FAST)


def test_a_token_missing_or_wrong_is_a_sentence_and_stands_in_no_log(tmp_path, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    said = []
    with serving(Brightness(), token=SECRET, log_level="debug", access_log=True) as url:
        for given, words in ((None, "none is there"), (f"not-{SECRET}", "the token in it is another")):
            monkeypatch.delenv(TOKEN, raising=False) if given is None else monkeypatch.setenv(TOKEN, given)
            with pytest.raises(ServerError, match=rf"wants a token \(401\); set {TOKEN}, {words}") as raised:
                RemoteVLM.connect(url, **FAST)
            said.append(repr(raised.getrepr(showlocals=False)) + str(raised.value))
        monkeypatch.setenv(TOKEN, SECRET)
        remote = RemoteVLM.connect(url, deadline=5)
        assert remote.predict([grey(51)])[0].severity == pytest.approx(0.2)
    said += [str(remote.predict([grey(51)])), remote.wire.summary(), repr(remote), repr(remote.wire)]
    written = capfd.readouterr()
    assert SECRET not in caplog.text + written.out + written.err + "".join(said)
    for token in (f"{SECRET}\n", f"{SECRET} ", "Straße"):
        monkeypatch.setenv(TOKEN, token)
        with pytest.raises(DataError, match=f"{TOKEN} holds a space") as raised:
            RemoteVLM.connect("http://127.0.0.1:1", **FAST)
        assert token.strip() not in str(raised.value)


@pytest.mark.parametrize("url", [f"http://me:{SECRET}@h:1", f"http://h:1/?token={SECRET}", f"http://h:1/#{SECRET}"])
def test_an_address_with_a_secret_in_it_is_refused_and_not_repeated(url):
    with pytest.raises(DataError, match=f"give http://host:port alone, and a token in the environment as {TOKEN}") as e:
        RemoteVLM.connect(url)
    assert SECRET not in str(e.value)


@pytest.mark.parametrize("url", ["", "10.0.0.5:8100", "ftp://h", "http://", "http://h:port", "cascade"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(DataError, match="is no address"):
        RemoteVLM.connect(url)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b'{"severity": 0.5}', "what is no prediction"),
        (b'{"severity": NaN, "identity": "x"}', "what is no prediction"),
        (b'{"severity": "0.5", "probabilities": [0.5, 0.5], "identity": "x"}', "what is no prediction"),
        (b'{"severity": true, "probabilities": [0.5, 0.5], "identity": "x"}', "what is no prediction"),
        (b'{"severity": 0.5, "probabilities": [0.2, 0.2], "identity": "x"}', "what is no prediction"),
        (b'{"severity": 0.5, "probabilities": "ab", "identity": "x"}', "what is no prediction"),
        (b'{"severity": 0.5, "probabilities": [0.2, 0.3, 0.5], "identity": "x"}', "3 probabilities, not 2"),
        (b'{"severity": 0.5, "unreadable": "why", "identity": "x"}', "what is no prediction"),
        (b"[" * 100_000, "what is no JSON"),
        (b"\xff\xfe", "what is no JSON"),
        (b"null", "what is no prediction"),
    ],
)
def test_garbage_is_undecided_with_its_reason(answer, words):
    def garbled(handler, body):
        reply(handler, 200, answer if handler.command == "POST" else json.dumps(about().to_dict()).encode())

    with answering(garbled) as url:
        remote = RemoteVLM.connect(url, wanted(), deadline=5)
        [found] = remote.predict([grey(51)])
    assert found.severity is None
    assert words in str(found.unreadable)
    assert remote.wire.counts["garbage"] == 1


def test_busy_is_asked_again_when_the_server_says_and_is_no_failure():
    asked = []

    def busy(handler, body):
        if handler.command == "POST":
            asked.append(time.monotonic())
            if len(asked) == 1:
                return reply(handler, 429, b'{"error": "64 images wait already; ask again"}', retry_after="1")
            return reply(handler, 200, json.dumps({"severity": 0.25, "identity": about().identity}).encode())
        reply(handler, 200, json.dumps(about().to_dict()).encode())

    with answering(busy) as url:
        remote = RemoteVLM.connect(url, wanted(), deadline=10)
        assert remote.predict([grey(51)])[0].severity == 0.25
    assert asked[1] - asked[0] >= 1
    assert remote.wire.counts["retries"] == 1


def test_a_server_that_stays_busy_is_not_given_up():
    def busy(handler, body):
        full = handler.command == "POST"
        reply(handler, 429 if full else 200, b"" if full else json.dumps(about().to_dict()).encode())

    with answering(busy) as url:
        remote = RemoteVLM.connect(url, wanted(), deadline=2)
        found = remote.predict([grey(51)] * (FAILURES + 2))
        assert {one.unreadable for one in found} == {"its server is busy (429), for 2 s"}
        assert remote.predict([grey(51)])[0].unreadable == "its server is busy (429), for 2 s"
    assert remote.wire.counts["busy"] == FAILURES + 3


def test_an_image_that_the_server_refuses_is_its_own_alone():
    def picky(handler, body):
        if handler.command == "POST":
            return reply(handler, 413, b'{"error": "the image has more than 100 bytes; send it smaller"}')
        reply(handler, 200, json.dumps(about().to_dict()).encode())

    with answering(picky) as url:
        remote = RemoteVLM.connect(url, wanted(), deadline=5)
        for _ in range(FAILURES + 1):
            [found] = remote.predict([grey(51)])
    assert found.unreadable == "its server answered 413 (the image has more than 100 bytes; send it smaller)"


def test_one_answer_that_drips_does_not_outlast_the_deadline():
    ended = threading.Event()

    def dripping(handler, body):
        if handler.command == "GET":
            return reply(handler, 200, json.dumps(about().to_dict()).encode())
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        while not ended.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    with answering(dripping) as url:
        remote = RemoteVLM.connect(url, wanted(), deadline=0.5)
        begin = time.monotonic()
        assert remote.predict([grey(51)])[0].unreadable == "its server did not answer within 0.5 s"
        assert time.monotonic() - begin < 20  # the answer would take 50 s
        ended.set()


def test_threads_may_share_one(bright):
    remote, found = RemoteVLM.connect(bright, wanted(), deadline=20), {}

    def ask(first):
        levels = range(first, first + 12)
        found.update(zip(levels, remote.predict([grey(level) for level in levels]), strict=True))

    asking = [threading.Thread(target=ask, args=(first,)) for first in range(0, 96, 12)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert {level: one.severity for level, one in found.items()} == {level: level / 255 for level in range(96)}


def test_predict_asks_the_server_and_says_what_it_cost(tmp_path, bright):
    cascade, parts = line.cascade_with_vlm(tmp_path / "cascade"), tmp_path / "parts"
    line.write_parts(parts, 5)
    command = ["predict", str(cascade), str(parts), "--vlm", bright, "--deadline", "20"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "decided by both " in done.output or "decided by rule " in done.output
    assert re.search(rf"the VLM's server {bright}: 5 parts asked \(5 answered\); \d+ bytes a part", done.output)
    settings = {"vlm": bright, "deadline": 20.0}
    assert f"VLM {wanted().identity[:16]}" in Inspector.from_pretrained(cascade, **settings).identity


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"deadline": 2.0}, "are of a VLM's server; give its address"),
        ({"jpeg": 90}, "are of a VLM's server; give its address"),
        ({"vlm": "http://127.0.0.1:1", "deadline": 0.0}, "The deadline is 0 s"),
        ({"vlm": "http://127.0.0.1:1", "deadline": float("nan")}, "The deadline is nan s"),
    ],
)
def test_settings_without_a_meaning_are_refused(tmp_path, settings, words):
    with pytest.raises(DataError, match=words):
        Inspector.from_pretrained(line.cascade_with_vlm(tmp_path / "cascade"), **settings)


def test_a_cascade_without_a_vlm_takes_no_server(tmp_path, bright):
    with pytest.raises(DataError, match=r"has no VLM, and http.* was given for one"):
        Inspector.from_pretrained(brightness_cascade(tmp_path / "cascade"), vlm=bright)


def test_eval_wire_states_what_jpeg_costs_on_validation(tmp_path):
    """Of 120 small cells with a mean for a severity, few come to another side of 0.5; bytes are counted both ways."""
    said, out = about(rule={}), tmp_path / "wire.json"
    with serving(Brightness(), said) as url:
        command = ["eval", "wire", url, "--data", str(tiny_edge.data()), "--out", str(out), "--jpeg", "50"]
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    cost = files.read_json(out)["wire"]
    assert re.search(r"JPEG 50: \d+ of 120 validation images are answered otherwise", done.output)
    assert (cost["flips"]["n"], cost["unanswered"], cost["quality"]) == (120, 0, 50)
    assert 0 < cost["max_change"] < 0.1
    assert cost["bytes"]["jpeg"] < cost["bytes"]["lossless"]


def test_the_command_serves_what_a_cascade_has_at_this_machine_alone(cascade, served, monkeypatch):
    """`hf-inspect serve outputs/cascade --host 0.0.0.0` is asked for where others are to reach it."""
    import uvicorn

    ran = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **settings: ran.append(settings))
    done = CliRunner().invoke(app, ["serve", str(cascade), "--port", "8123"])
    assert done.exit_code == 0, done.output
    assert f"identity {served[0].identity[:16]}" in done.output
    assert "http://127.0.0.1:8123, no token asked for" in done.output
    assert [(one["host"], one["port"], one["access_log"]) for one in ran] == [("127.0.0.1", 8123, False)]
    assert ran[0]["log_config"] is None  # uvicorn's own would close the logging handlers of everybody else here
    monkeypatch.setenv(TOKEN, SECRET)
    done = CliRunner().invoke(app, ["serve", str(cascade), "--host", "0.0.0.0"])
    assert "a token asked for" in done.output
    assert SECRET not in done.output
    assert ran[1]["host"] == "0.0.0.0"
