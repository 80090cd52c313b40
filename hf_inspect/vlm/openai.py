"""A VLM that any OpenAI-compatible server serves (vLLM, say), as a `Predictor` that scores a question's options.

A server that gives no probabilities of them is refused: a threshold, and a promise, would rest on nothing.
Needs neither torch nor transformers.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np

from hf_inspect import prompts
from hf_inspect.errors import DataError, ParityError, ServerError
from hf_inspect.images import Rgb
from hf_inspect.schema import History, Prediction, TaskSpec
from hf_inspect.tasks import TASKS
from hf_inspect.vlm.ranking import scored_ids
from hf_inspect.vlm.remote import encode
from hf_inspect.vlm.wire import DEADLINE, PATIENCE, REST, Reply, Trust, Unanswered, Wire, refusal

KIND = "openai"  # what a cascade.json calls such a server
SCHEME = "openai+"  # before http:// or https://, so that no server is taken for one of another kind
PROMPT_LOGPROBS, TOP_LOGPROBS = "prompt_logprobs", "top_logprobs"  # ways to score options, the better one first
_SHOWN = 20  # likeliest first tokens, the most that the interface has
_LONGEST = 16 << 20  # bytes of an answer: a prompt's every token, those of its image too
_AS_IT_IS = {"do_resize": False}  # image rule: the server's own processor sizes images
_PROBE = np.full((64, 64, 3), 128, np.uint8)
_SCORELESS = ("refused", "garbage", "broken")  # how a server answers that has no such scores
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
        self._trust = Trust(wire, self._check)

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
        connected = cls(wire, name, question, scoring)
        connected._trust.checked = True
        return connected

    @classmethod
    def awaited(
        cls, url: str, states: Mapping[str, Any], *, deadline: float = DEADLINE, patience: float = PATIENCE
    ) -> "OpenAIVLM":
        """The model that a cascade.json `states`, at the server at `url`; one that is not there is asked when it is.

        ParityError where the server lists no such model, or this version asks by another prompt; ServerError where it
        no longer scores options so; DataError for a statement that is none.
        """
        try:
            question = prompts.Question.from_dict(states["question"], url)
            model, scoring, wanted = str(states["model"]), str(states["scoring"]), states["fingerprint"]
            way = _WAYS[scoring]
        except (KeyError, TypeError) as error:
            raise DataError(f"The cascade does not say how {url} is asked ({error!r}); calibrate again.") from None
        vlm = cls(Wire(url.removeprefix(SCHEME), deadline, REST, _LONGEST), model, question, scoring)
        if vlm.states != dict(states):
            raise ParityError(f"The VLM of {url} would be asked by another prompt ({wanted}) now; calibrate again.")
        vlm._trust.connect(url, patience, wait=True)
        if vlm._trust.checked:
            _refuse_scoreless(vlm.wire, partial(way, vlm.wire, model, question, _picture(_PROBE)), patience)
        return vlm

    @property
    def task(self) -> TaskSpec:
        """What it answers: the question's classes."""
        return self.question.task

    @property
    def identity(self) -> str:
        """SHA-256 (hex) over the model's name, the question, how images are sized, and the way of scoring."""
        return _sha256(self.states)

    @property
    def address(self) -> str:
        """Where it is served, as a cascade.json names it."""
        return f"{SCHEME}{self.wire.url}"

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of the files that decide: none can be had."""
        return {}

    @property
    def caveats(self) -> tuple[str, ...]:
        """What a promise made with it must say of it besides, in sentences."""
        return (
            f"The VLM is the model {self.model} of an OpenAI-compatible server, known by its name alone: its weights "
            "cannot be checked, and nothing is promised once they are others than in calibration.",
            "What it was trained on is not known: if these parts were among it, the promise is not made.",
        )

    @property
    def states(self) -> dict[str, Any]:
        """What a cascade.json keeps of it, as plain JSON values: all by which it is known."""
        messages = [prompts.render(self.question, class_id) for class_id in range(len(self.question.options))]
        return {
            "kind": KIND, "model": self.model, "scoring": self.scoring, "question": self.question.to_dict(),
            "image_rule": _AS_IT_IS, "fingerprint": _sha256({"messages": messages, "image_rule": _AS_IT_IS}),
        }  # fmt: skip

    @property
    def history(self) -> History:
        """Nothing is known of what the server's model was trained on; ServerError where it is not there at all."""
        self._trust.require(self.wire.url)
        return History(unknown=(self.model,))

    def predict(self, images: Sequence[Rgb]) -> list[Prediction]:
        """An answer for each RGB uint8 (h, w, 3) image of any size, in order; they travel as they are, all at once."""
        found = self.wire.each([partial(self._trust.ask, partial(self._asked, image)) for image in images])
        return [Prediction(None, unreadable=str(one)) if isinstance(one, Unanswered) else one for one in found]

    async def _asked(self, image: Rgb) -> Prediction:
        """One image's answer, by the log-probability of each option."""
        picture = await asyncio.to_thread(_picture, image)
        scores = await _WAYS[self.scoring](self.wire, self.model, self.question, picture)
        return TASKS[self.task.kind].decode(np.array([scores], np.float64), self.task)[0]

    async def _check(self) -> None:
        """ParityError unless the server lists the model by the name that is known."""
        if self.model not in (listed := await _models(self.wire)):
            raise ParityError(
                f"{self.wire.url} serves {', '.join(listed[:5]) or 'no model that it lists'}, not {self.model!r}; "
                "start that model there, or calibrate with another."
            )


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
            if error.kind not in _SCORELESS:
                raise
            said = str(error)
            continue
        if scoring == TOP_LOGPROBS:
            _refuse_beginnings(question.options)
        return scoring
    raise ServerError(f"{wire.url}: the server {_NO_PROMISE} (Asked for them, {said}.)")


def _refuse_scoreless(wire: Wire, score: Callable[[], Awaitable[Any]], patience: float) -> None:
    """ServerError, and the wire closed, where the server is there and does not score options in the way that it did."""
    try:
        wire.wait(wire.within(score, max(patience, wire.deadline)))
    except _NoOption:
        pass
    except Unanswered as error:
        if error.kind in _SCORELESS:
            wire.close()
            raise ServerError(f"{wire.url}: the server {_NO_PROMISE} (Asked as in calibration, {error}.)") from None


def _sha256(stated: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


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
