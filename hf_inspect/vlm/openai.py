"""A VLM that any OpenAI-compatible server serves (vLLM, say), as a `Predictor` that scores a question's options.

A server that gives no probabilities of them is refused: a threshold, and a promise, would rest on nothing.
Needs neither torch nor transformers.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np

from hf_inspect import prompts
from hf_inspect.errors import DataError, ServerError
from hf_inspect.images import Rgb
from hf_inspect.schema import History, Prediction, TaskSpec
from hf_inspect.tasks import TASKS
from hf_inspect.vlm.ranking import scored_ids
from hf_inspect.vlm.remote import encode
from hf_inspect.vlm.wire import DEADLINE, PATIENCE, REST, Reply, Unanswered, Wire, refusal

SCHEME = "openai+"  # before http:// or https://, so that no server is taken for one of another kind
PROMPT_LOGPROBS, TOP_LOGPROBS = "prompt_logprobs", "top_logprobs"  # ways to score options, the better one first
_SHOWN = 20  # likeliest first tokens, the most that the interface has
_LONGEST = 16 << 20  # bytes of an answer: a prompt's every token, those of its image too
_PROBE = np.full((64, 64, 3), 128, np.uint8)
_NO_PROMISE = (
    "gives the probability of no answer, neither by prompt_logprobs nor by top_logprobs: no promise can be made with "
    "it, and calibration is refused. Serve the model with vLLM, or with 'hf-inspect serve'."
)


class _NoOption(Unanswered):
    """The server scores tokens, and of this image none that begins an option."""


class OpenAIVLM:
    """A `Predictor` whose options are scored by an OpenAI-compatible server; see `connect`.

    By `prompt_logprobs` (vLLM) each option's log-probability is summed over the tokens in which the options differ, as
    in process; by `top_logprobs` it is that of the option's first token, at most that of the least likely token shown.
    The server's weights have no hash here: `identity` knows the model by its name alone.
    """

    reading = None

    def __init__(self, wire: Wire, model: str, question: prompts.Question, scoring: str) -> None:
        """`scoring` is PROMPT_LOGPROBS or TOP_LOGPROBS; `connect` finds out which the server has."""
        self.wire, self.model, self.question, self.scoring = wire, model, question, scoring

    @classmethod
    def connect(
        cls,
        url: str,
        question: prompts.Question,
        model: str | None = None,
        *,
        deadline: float = DEADLINE,
        rest: float = REST,
        patience: float = PATIENCE,
    ) -> "OpenAIVLM":
        """Ask the server at `url`, openai+http://host:port/v1, for its models, and for a first score.

        `model` may be left out where it serves one. ServerError where no server answers, or where it gives no scores.
        """
        question.task.refuse_one_sided("The question")
        wire = Wire(url.removeprefix(SCHEME), deadline, rest, _LONGEST)
        try:
            name = model or _only(wire.wait(wire.within(partial(_models, wire), patience)), url)
            scoring = _offered(wire, name, question, patience)
        except Unanswered as error:
            wire.close()
            raise refusal(error, url) from None
        except BaseException:
            wire.close()
            raise
        return cls(wire, name, question, scoring)

    @property
    def task(self) -> TaskSpec:
        """What it answers: the question's classes."""
        return self.question.task

    @property
    def identity(self) -> str:
        """SHA-256 (hex) over the model's name, the question, and the way of scoring."""
        stated = {"model": self.model, "question": self.question.to_dict(), "scoring": self.scoring}
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()

    @property
    def history(self) -> History:
        """Nothing is known of what the server's model was trained on."""
        return History(unknown=(self.model,))

    def predict(self, images: Sequence[Rgb]) -> list[Prediction]:
        """An answer for each RGB uint8 (h, w, 3) image of any size, in order; they travel as they are, all at once."""
        asks = [partial(_asked, self.wire, self.model, self.question, self.scoring, image) for image in images]
        found = self.wire.each(asks)
        return [Prediction(None, unreadable=str(one)) if isinstance(one, Unanswered) else one for one in found]


async def _asked(wire: Wire, model: str, question: prompts.Question, scoring: str, image: Rgb) -> Prediction:
    """One image's answer, by the log-probability of each option."""
    picture = await asyncio.to_thread(_picture, image)
    scores = await _WAYS[scoring](wire, model, question, picture)
    return TASKS[question.task.kind].decode(np.array([scores], np.float64), question.task)[0]


async def _by_prompt(wire: Wire, model: str, question: prompts.Question, picture: str) -> list[float]:
    """Each option as the answer that was given, and the log-probabilities of its tokens."""
    asks = []
    for class_id in range(len(question.options)):
        rendered = prompts.render(question, class_id)
        settings = {PROMPT_LOGPROBS: 0, "add_generation_prompt": False}
        asks.append(_chat(wire, model, _messages(rendered["prompt"] + rendered["completion"], picture), settings))
    rows = [_tokens(answer.get(PROMPT_LOGPROBS)) for answer in await asyncio.gather(*asks)]
    ids = [[token for token, _ in row] for row in rows]
    same = sum(1 for _ in takewhile(lambda at: len(set(at)) == 1, zip(*ids, strict=False)))
    tails = [row[same:] for row in rows]
    if not same or not all(tails):
        raise Unanswered("garbage", "its server's prompt_logprobs do not end in the options")
    kept = scored_ids([row[same:] for row in ids])
    return [sum(p for _, p in tail[: len(one)]) for tail, one in zip(tails, kept, strict=True)]


async def _by_first_token(wire: Wire, model: str, question: prompts.Question, picture: str) -> list[float]:
    """The likeliest first tokens; one that begins several options says nothing of any."""
    settings = {"logprobs": True, TOP_LOGPROBS: _SHOWN}
    answer = await _chat(wire, model, _messages(prompts.render(question)["prompt"], picture), settings)
    try:
        shown = [
            (str(one["token"]).strip(), float(one["logprob"]))
            for one in answer["choices"][0]["logprobs"]["content"][0][TOP_LOGPROBS]
        ]
        least = min(p for _, p in shown)
    except (KeyError, TypeError, ValueError, IndexError):
        raise Unanswered("garbage", "its server's answer has no top_logprobs") from None
    of_each: list[list[float]] = [[] for _ in question.options]
    for token, p in shown:
        begun = [found for found, option in zip(of_each, question.options, strict=True) if option.startswith(token)]
        if token and len(begun) == 1:
            begun[0].append(p)
    if not any(of_each):
        raise _NoOption("refused", f"none of the {len(shown)} likeliest first tokens begins an option")
    return [float(np.logaddexp.reduce(found)) if found else least for found in of_each]


_WAYS = {PROMPT_LOGPROBS: _by_prompt, TOP_LOGPROBS: _by_first_token}


def _offered(wire: Wire, model: str, question: prompts.Question, patience: float) -> str:
    """The first way of scoring that the server has; ServerError, with what it says, where it has none."""
    said, seconds = "", max(patience, wire.deadline)
    for scoring, score in _WAYS.items():
        try:
            wire.wait(wire.within(partial(score, wire, model, question, _picture(_PROBE)), seconds))
        except _NoOption:
            pass
        except Unanswered as error:
            if error.kind not in ("refused", "garbage", "broken"):
                raise
            said = str(error)
            continue
        if scoring == TOP_LOGPROBS:
            _refuse_beginnings(question.options)
        return scoring
    raise ServerError(f"{wire.url}: the server {_NO_PROMISE} (Asked for them, {said}.)")


async def _chat(wire: Wire, model: str, messages: list[dict[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    body = {"model": model, "messages": messages, "max_tokens": 1, "temperature": 0.0, **settings}
    reply = await wire.send(
        "POST", "/chat/completions", content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    return _object(reply)


async def _models(wire: Wire) -> list[str]:
    listed = _object(await wire.send("GET", "/models")).get("data")
    try:
        return [str(one["id"]) for one in listed or ()]
    except (KeyError, TypeError):
        raise Unanswered("garbage", "its server lists no models; the address ends in /v1, as a rule") from None


def _object(reply: Reply) -> dict[str, Any]:
    try:
        found = json.loads(reply.content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Unanswered("garbage", "its server answered what is no JSON object")
    return found


def _only(models: list[str], url: str) -> str:
    if len(models) != 1:
        raise DataError(f"{url} serves {', '.join(models[:5]) or 'no model that it lists'}; name the one to ask.")
    return models[0]


def _messages(rendered: Sequence[prompts.Message], picture: str) -> list[dict[str, Any]]:
    """Chat messages in OpenAI's form, the picture where the image goes."""
    image = {"type": "image_url", "image_url": {"url": picture}}
    return [
        {"role": one["role"], "content": [image if part["type"] == "image" else part for part in one["content"]]}
        for one in rendered
    ]


def _picture(image: Rgb) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode(image)).decode()}"


def _tokens(stated: Any) -> list[tuple[int, float]]:
    """Id and log-probability of a prompt's every token, the first but for which nothing is stated."""
    try:
        firsts = [next(iter(one.items())) for one in stated if one]  # vLLM puts the prompt's own token first
        return [(int(token), float(found["logprob"])) for token, found in firsts]
    except (TypeError, AttributeError, KeyError, ValueError):
        raise Unanswered("garbage", "its server's answer has no prompt_logprobs") from None


def _refuse_beginnings(options: Sequence[str]) -> None:
    for one in options:
        if other := next((other for other in options if other != one and other.startswith(one)), None):
            raise DataError(f"The option {other!r} begins with the option {one!r}; name them apart for such a server.")
