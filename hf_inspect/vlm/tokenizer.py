"""Byte-level tokenizers: SmolLM2's out of its GGUF file, and one that knows single bytes alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_inspect.errors import MissingExtraError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IMAGE_TOKEN = "<image>"
IMAGE_NAMED = {"image_token": IMAGE_TOKEN}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # padding and unknown, start and end of a turn
CONTROL = 3  # GGUF's type of a control token
BYTES = len(SPECIAL) + 256


def gguf_tokenizer(path: Path) -> "PreTrainedTokenizerFast":
    """SmolLM2's byte-level BPE out of a GGUF file, plus the image token.

    transformers' own conversion makes a CodeLlama tokenizer of it, with another end token.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingExtraError("demo-base is read by gguf: pip install 'hf-inspect[demo]'") from error
    fields = GGUFReader(path).fields
    tokens, merges, kinds = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges", "token_type"))
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    return _tokenizer(tokens, [tuple(merge.split(" ")) for merge in merges], control)


def byte_tokenizer(
    special: Sequence[str] = SPECIAL, named: Mapping[str, str] = IMAGE_NAMED
) -> "PreTrainedTokenizerFast":
    """One token a byte, plus the special tokens of the chat template.

    `special` are padding and unknown, start and end of a turn, and maybe others; `named` what a processor looks up.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    return _tokenizer([*special, *sorted(ByteLevel.alphabet())], [], special, named)


def _tokenizer(
    tokens: Sequence[str],
    merges: list[tuple[str, str]],
    control: Sequence[str],
    named: Mapping[str, str] = IMAGE_NAMED,
) -> "PreTrainedTokenizerFast":
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, normalized=False) for token in [*control, *named.values()]])
    nothing, start, end = control[:3]
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=start, eos_token=end, pad_token=nothing, unk_token=nothing,
        model_max_length=8192, clean_up_tokenization_spaces=False, padding_side="left",
        extra_special_tokens=dict(named),
    )  # fmt: skip
