"""A question's options scored by an OpenAI-compatible server: as vLLM documents its answers, and by a real process."""

import base64
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from hf_inspect.errors import DataError, ServerError
from hf_inspect.prompts import Question
from hf_inspect.schema import BINARY, TaskSpec
from hf_inspect.vlm import VLM
from hf_inspect.vlm.openai import OpenAIVLM
from tests import tiny
from tests.scripted import grey
from tests.serving import answering, free_port, reply

SEVERAL = Question("Look.", "Which?", TaskSpec.of(("fine", "finely cracked", "dented"), good=["fine"]))
FIRST = Question("Look.", "Is it good? Answer good or defect.", BINARY)


def completion(**beside) -> dict:
    """An answer of /v1/chat/completions in vLLM's form."""
    message = {"role": "assistant", "content": "g", "refusal": None, "annotations": None, "audio": None,
               "function_call": None, "tool_calls": [], "reasoning": None}  # fmt: skip
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length", "stop_reason": None}
    choice |= beside.pop("choice", {})
    usage = {"prompt_tokens": 9, "total_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": None}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "big", "choices": [choice],
        "service_tier": None, "system_fingerprint": None, "usage": usage, "prompt_logprobs": None, **beside,
    }  # fmt: skip


def speaking(answer):
    """A handler of /v1/models and of chats, the latter answered by `answer(body)` -> status, JSON."""

    def handle(handler, body):
        if handler.path == "/v1/models":
            return reply(handler, 200, json.dumps({"object": "list", "data": [{"id": "big"}]}).encode())
        status, value = answer(json.loads(body))
        return reply(handler, status, json.dumps(value).encode())

    return handle


def shown(body) -> np.ndarray:
    """The picture of a request."""
    [url] = [part["image_url"]["url"] for one in body["messages"] if isinstance(one["content"], list)
             for part in one["content"] if part["type"] == "image_url"]  # fmt: skip
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))))


def connect(url, question=FIRST, **settings) -> OpenAIVLM:
    return OpenAIVLM.connect(f"openai+{url}/v1", question, deadline=30, **settings)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    """A tiny VLM's model and processor, and a stand-in for vLLM around them."""
    import torch

    model, processor = tiny.parts(tiny.loud_base(tmp_path_factory.mktemp("tiny") / "base"))

    def answer(body):
        assert (body["prompt_logprobs"], body["add_generation_prompt"], body["max_tokens"]) == (0, False, 1)
        rendered = [
            {"role": one["role"],
             "content": [{"type": "image"} if p["type"] == "image_url" else p for p in one["content"]]}
            for one in body["messages"]
        ]  # fmt: skip
        text = processor.apply_chat_template(rendered, add_generation_prompt=False, tokenize=False)
        inputs = processor(images=[[shown(body)]], text=[text], add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            log_p = model(**inputs).logits[0].log_softmax(-1)
        ids = inputs["input_ids"][0].tolist()
        stated = [
            {str(token): {"logprob": log_p[at, token].item(), "rank": 1, "decoded_token": "x"}}
            for at, token in enumerate(ids[1:])
        ]
        return 200, completion(prompt_logprobs=[None, *stated])

    return model, processor, speaking(answer)


@pytest.mark.parametrize("question", [tiny.QUESTION, SEVERAL], ids=["pair", "one begins another"])
def test_prompt_logprobs_rank_the_options_as_the_same_weights_do_in_process(scorer, question):
    model, processor, handler = scorer
    images = [np.random.default_rng(i).integers(0, 255, (64, 64, 3)).astype(np.uint8) for i in range(3)]
    with answering(handler) as url:
        remote = connect(url, question)
        found = remote.predict(images)
    assert remote.scoring == "prompt_logprobs"
    wanted = VLM(model, processor, question).predict(images)
    for one, other in zip(found, wanted, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
        assert one.severity == pytest.approx(other.severity, abs=1e-4)


def first_tokens(tokens):
    """A server that has no prompt_logprobs, and shows these first tokens for any picture but that of the probe."""

    def answer(body):
        if "prompt_logprobs" in body:
            return 400, {"error": {"message": "prompt_logprobs is unknown", "type": "BadRequestError", "code": 400}}
        assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
        top = [{"token": token, "logprob": p, "bytes": None} for token, p in tokens.items()]
        content = [{**top[0], "top_logprobs": top}]
        return 200, completion(choice={"logprobs": {"content": content}})

    return speaking(answer)


@pytest.mark.parametrize(
    ("tokens", "severity"),
    [
        ({" good": np.log(0.6), "def": np.log(0.2), "x": np.log(0.01)}, 0.25),
        ({"good": np.log(0.3), " go": np.log(0.3), "d": np.log(0.2)}, 0.25),
        ({"good": np.log(0.9), "x": np.log(0.1)}, 0.1),
        ({"defect": np.log(0.75), "x": np.log(0.25), "": np.log(0.5)}, 0.75),
    ],
    ids=["both", "in parts", "one is not shown", "the other is not"],
)
def test_the_first_token_s_top_logprobs_rank_the_options(tokens, severity):
    with answering(first_tokens(tokens)) as url:
        remote = connect(url)
        [found] = remote.predict([grey(3)])
    assert remote.scoring == "top_logprobs"
    assert found.severity == pytest.approx(severity, abs=1e-6)


def test_first_tokens_of_which_none_is_an_option_s_are_no_answer():
    with answering(first_tokens({"Well": -0.1, "I": -2.0})) as url:
        [found] = connect(url).predict([grey(3)])
    assert found.severity is None
    assert "none of the 2 likeliest first tokens begins an option" in str(found.unreadable)


def test_options_that_begin_alike_need_prompt_logprobs():
    with (
        answering(first_tokens({"fine": -0.1})) as url,
        pytest.raises(DataError, match="begins with the option 'fine'"),
    ):
        connect(url, SEVERAL)


@pytest.mark.parametrize(
    "answer",
    [
        lambda body: (200, completion()),
        lambda body: (422, {"detail": "Unsupported fields in the request: {'logprobs'}"}),
        lambda body: (200, completion(prompt_logprobs=[None], choice={"logprobs": {"content": []}})),
    ],
    ids=["passed over", "refused", "empty"],
)
def test_a_server_that_gives_no_probability_is_refused(answer):
    with answering(speaking(answer)) as url, pytest.raises(ServerError, match="no promise can be made") as raised:
        connect(url)
    assert "calibration is refused" in str(raised.value)


def test_a_model_is_named_where_there_is_not_one():
    with answering(first_tokens({"good": -0.1})) as url:
        assert connect(url, model="big").identity == connect(url).identity != connect(url, tiny.QUESTION).identity
        assert connect(url).history.unknown == ("big",)
    nothing = json.dumps({"object": "list", "data": []}).encode()
    listing = answering(lambda handler, body: reply(handler, 200, nothing))
    with listing as url, pytest.raises(DataError, match="no model that it lists; name the one to ask"):
        connect(url)


def test_transformers_serve_gives_no_probability_and_is_refused(tmp_path):
    """Version 5.5 as a real process of a tiny model: it says so itself."""
    base, port = tiny.loud_base(tmp_path / "base"), free_port()
    command = [Path(sys.executable).with_name("transformers"), "serve", base, "--port", port, "--device", "cpu"]
    server = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url, ends = f"http://localhost:{port}", time.monotonic() + 240
        while True:
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                assert server.poll() is None
                assert time.monotonic() < ends
                time.sleep(0.2)
        with pytest.raises(ServerError, match="no promise can be made with it, and calibration is refused") as raised:
            connect(url, model=str(base), patience=60)
    finally:
        server.kill()
        server.wait()
    assert "Asked for them, its server" in str(raised.value)
