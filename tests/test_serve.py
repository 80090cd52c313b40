"""`hf-inspect serve`: one endpoint that batches, refuses in sentences, and tells no secret and no path."""

import logging
import re
import threading
import time

import httpx
import pytest

from hf_inspect.errors import DataError
from hf_inspect.schema import Prediction
from hf_inspect.vlm.batching import Batcher
from hf_inspect.vlm.remote import LEFT, encode
from hf_inspect.vlm.serve import Limits, load_served
from hf_inspect.vlm.wire import TOKEN
from tests.conftest import png
from tests.scripted import brightness_cascade, brightness_engine, grey
from tests.serving import Brightness, about, serving

SECRET = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def plain():
    """A server of a predictor that fails at an image that is all 9."""
    with serving(Brightness(fails=9), limits=Limits(most_bytes=100_000)) as url:
        yield url


def sentence(response) -> str:
    """What an answer that is an error says: one sentence, and nothing of the machine."""
    assert set(response.json()) == {"error"}
    said = response.json()["error"]
    assert not re.search(r"Traceback|File \"|/(work|tmp|usr|home|secret|root)\b", said)
    return said


def test_an_image_in_any_of_its_files_is_answered_with_what_the_answer_rests_on(plain):
    for content in (png(grey(51)), encode(grey(51)), encode(grey(51), 90)):
        found = httpx.post(f"{plain}/predict", content=content).json()
        assert found == {"severity": 0.2, "probabilities": [0.8, 0.2], "identity": about().identity}


def test_it_says_what_it_is_and_that_it_lives(plain):
    stated = httpx.get(f"{plain}/vlm").json()
    assert stated == about().to_dict()
    assert {"task", "fingerprint", "image_rule", "identity", "decides", "version"} <= set(stated)
    assert httpx.get(f"{plain}/health").json()["server"] == "hf_inspect"
    assert set(httpx.get(f"{plain}/history").json()) == {"format", "sources", "licences", "unknown", "images"}


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 400, "no image came"),
        (b"<html>", 400, "the image \\(6 bytes\\)"),
        (png(grey(7))[:60], 400, "the image \\(60 bytes\\)"),
        (b"0" * 100_001, 413, "more than 100000 bytes"),
        (b"0" * 60_000_000, 413, "more than 100000 bytes"),
    ],
    ids=["nothing", "text", "cut off", "too large", "60 MB"],
)
def test_what_is_no_image_is_refused_in_a_sentence(plain, content, status, words):
    response = httpx.post(f"{plain}/predict", content=content, timeout=60)
    assert response.status_code == status
    assert re.search(words, sentence(response))


def test_other_requests_are_refused_in_a_sentence(plain):
    for response in (httpx.get(f"{plain}/"), httpx.get(f"{plain}/predict"), httpx.get(f"{plain}/../../etc/passwd")):
        assert response.status_code in (404, 405)
        assert "POST /predict" in sentence(response)
    response = httpx.post(f"{plain}/predict", content=png(grey(7)), headers={LEFT: "soon"})
    assert (response.status_code, LEFT in sentence(response)) == (400, True)


def test_an_image_at_which_the_vlm_fails_is_its_own_alone_and_names_no_path(plain):
    with httpx.Client() as client:
        found = [client.post(f"{plain}/predict", content=encode(grey(level))).json() for level in (8, 9, 10)]
    assert [one.get("severity") for one in found] == [8 / 255, None, 10 / 255]
    assert found[1]["unreadable"] == "the VLM failed at the image (RuntimeError)"


def test_what_comes_together_is_answered_together_each_with_its_own():
    predictor = Brightness(seconds=0.004)
    found: dict[int, float] = {}

    def ask(url: str, level: int) -> None:
        found[level] = httpx.post(f"{url}/predict", content=encode(grey(level)), timeout=60).json()["severity"]

    with serving(predictor, limits=Limits(window=0.05)) as url:
        asking = [threading.Thread(target=ask, args=(url, level)) for level in range(100, 140)]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
    assert found == {level: level / 255 for level in range(100, 140)}
    assert sum(predictor.asked) == 40
    assert max(predictor.asked) <= 16
    assert len(predictor.asked) < 20


def test_clients_that_ask_again_stay_in_one_batch():
    """The first of a batch is back before the others are: without patience it would run alone, and they after it."""
    predictor = Brightness(seconds=0.1)
    batcher, until, done = Batcher(predictor), time.monotonic() + 60, threading.Event()

    def ask(level: int, left: int) -> None:
        if not left:
            return done.set()
        again = threading.Timer(0.006 * level, ask, (level, left - 1))  # 0 to 18 ms after its answer
        batcher.submit(grey(level), until).add_done_callback(lambda _: again.start())

    for level in range(4):
        ask(level, 6)
    assert done.wait(60)
    batcher.close()
    assert predictor.asked[2:5] == [4, 4, 4]


def test_a_full_queue_is_429_and_says_when_to_come_again():
    with serving(Brightness(seconds=1.0), limits=Limits(waiting=1, window=0)) as url:
        content, answers = encode(grey(3)), []
        asking = [
            threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/predict", content=content, timeout=60)))
            for _ in range(6)
        ]
        for one in asking:
            one.start()
            time.sleep(0.05)
        for one in asking:
            one.join()
    refused = [one for one in answers if one.status_code == 429]
    assert refused
    assert refused[0].headers["retry-after"] == "1"
    assert "1 images wait already" in sentence(refused[0])
    assert {one.status_code for one in answers} == {200, 429}


def test_nobody_is_answered_who_waits_no_more():
    """A client's deadline travels with its image; without, a slow server would answer stale parts for ever."""
    predictor = Brightness(seconds=0.4)
    with serving(predictor, limits=Limits(window=0)) as url:
        first = threading.Thread(target=lambda: httpx.post(f"{url}/predict", content=encode(grey(3))))
        first.start()
        while not predictor.asked:
            time.sleep(0.01)
        response = httpx.post(f"{url}/predict", content=encode(grey(4)), headers={LEFT: "0.1"})
        first.join()
    assert response.status_code == 504
    assert "time that its client waits" in sentence(response)
    assert predictor.asked == [1]


def test_serving_closes_no_handler_of_others():
    class Others(logging.NullHandler):
        closed = False

        def close(self):
            self.closed = True
            super().close()

    handler = Others()
    with serving(Brightness()) as url:
        assert httpx.get(f"{url}/health").status_code == 200
    assert not handler.closed


def test_one_who_goes_away_does_not_stop_the_server_for_the_others():
    """A request that was cancelled cannot be answered: the thread that answers batches must outlive that."""
    predictor = Brightness(seconds=0.2)
    batcher = Batcher(predictor, window=0)
    first, gone, last = (batcher.submit(grey(level), time.monotonic() + 30) for level in (3, 4, 5))
    assert gone.cancel()
    assert [one.result(20).severity for one in (first, last)] == [3 / 255, 5 / 255]
    assert sum(predictor.asked) == 2
    batcher.close()


def test_a_token_is_asked_for_of_everything_but_health(caplog):
    caplog.set_level(logging.DEBUG)
    with serving(Brightness(), token=SECRET, log_level="debug", access_log=True) as url:
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer ü".encode()}):
            for method, path in (("GET", "/vlm"), ("GET", "/history"), ("POST", "/predict")):
                response = httpx.request(method, f"{url}{path}", headers=given)
                assert response.status_code == 401
                assert TOKEN in sentence(response)
        assert httpx.get(f"{url}/health").status_code == 200
        right = {"authorization": f"Bearer {SECRET}"}
        assert httpx.post(f"{url}/predict", content=encode(grey(0)), headers=right).json()["severity"] == 0
    assert '"GET /vlm HTTP/1.1" 401' in caplog.text  # the server's own log is in it
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: brightness_cascade(folder), "has no VLM to serve"),
        (lambda folder: brightness_engine(folder), "is a student; give a cascade, an adapter, or a VLM"),
    ],
    ids=["edge-only cascade", "student"],
)
def test_what_has_no_vlm_cannot_be_served(tmp_path, make, words):
    with pytest.raises(DataError, match=words):
        load_served(make(tmp_path / "given"))
    with pytest.raises(DataError, match="leave --base out"):
        load_served(tmp_path / "given", "demo-base")


def test_an_adapter_s_base_is_looked_for_in_no_folder_that_merely_bears_its_name(tmp_path, monkeypatch):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "my-base"}')
    (tmp_path / "my-base").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="names its base as 'my-base', which may lie anywhere; give it with --base"):
        load_served("adapter")


def test_a_predictor_s_unreadable_answer_travels():
    class Silent(Brightness):
        def predict(self, images):
            return [Prediction(None, unreadable="the script has no answer here")] * len(images)

    with serving(Silent()) as url:
        found = httpx.post(f"{url}/predict", content=encode(grey(0))).json()
    assert found["unreadable"] == "the script has no answer here"
