"""A tiny random model of each family, with the family's own processor and chat template: a recipe tried in seconds.

Tokens are bytes. Made in process from a fixed seed; nothing is downloaded.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect.schema import History
from hf_inspect.vlm.fast_vlm import assemble, processor
from hf_inspect.vlm.made import Parts, made
from hf_inspect.vlm.tokenizer import BYTES, byte_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, ProcessorMixin

TINY = "tiny-base"
TINY_SIDE = 64
_TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024,
}  # fmt: skip
_VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
_QWEN_VISION = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 64}
_QWEN_TOKENS = {
    "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
}  # fmt: skip
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
_QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '<end_of_utterance>\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def tiny_base(out: Path | None = None, name: str = TINY) -> Path:
    """The folder of the tiny base `name`, one of `BASES`; made in `out` (default: the cache) unless it is there."""
    return made(name, out, BASES[name], History())  # random weights, which have seen nothing


def fast_vlm() -> Parts:
    """The demo base's own kind: a tiny EfficientNet, 4 image tokens at 64 px."""
    from transformers import LlamaConfig, LlamaForCausalLM, TimmWrapperConfig

    tokenizer = byte_tokenizer()
    text = LlamaConfig(vocab_size=BYTES, **_TEXT, tie_word_embeddings=True)
    vision = TimmWrapperConfig(architecture="test_efficientnet", do_pooling=False, hidden_size=256)
    return assemble(LlamaForCausalLM(text), vision, tokenizer), processor(tokenizer, TINY_SIDE)


def qwen2_5_vl() -> Parts:
    """Patches of 14 pixels, four of them one token: 4 image tokens at 56 px."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    tokenizer = _qwen_tokenizer()
    vision = _QWEN_VISION | {"fullatt_block_indexes": [1], "window_size": 56}
    config = Qwen2_5_VLConfig(
        vision_config=vision, text_config=_text(tokenizer) | {"rope_parameters": _MROPE}, **_qwen_tokens(tokenizer)
    )
    return Qwen2_5_VLForConditionalGeneration(config), _qwen_processor(Qwen2_5_VLProcessor, tokenizer, 14)


def qwen3_vl() -> Parts:
    """Patches of 16 pixels, four of them one token: 4 image tokens at 64 px; the first layer's go in twice."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    tokenizer = _qwen_tokenizer()
    text = {"rope_parameters": _MROPE | {"mrope_interleaved": True}, "head_dim": 16}
    config = Qwen3VLConfig(
        vision_config=_QWEN_VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 64},
        text_config=_text(tokenizer) | text,
        **_qwen_tokens(tokenizer),
    )
    return Qwen3VLForConditionalGeneration(config), _qwen_processor(Qwen3VLProcessor, tokenizer, 16)


def smolvlm() -> Parts:
    """Tiles of 64 pixels in patches of 8, four of them one token: 16 image tokens a tile."""
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    patch, scale, tiles = 8, 2, 4
    seen = {
        "image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "video_token": "<video>",
        "end_of_utterance_token": "<end_of_utterance>", "global_image_token": "<global-img>",
    }  # fmt: skip
    places = [f"<row_{row}_col_{column}>" for row in range(1, tiles + 1) for column in range(1, tiles + 1)]
    tokenizer = byte_tokenizer(["<|im_end|>", "<|im_start|>", "<end_of_utterance>", *places], seen)
    config = SmolVLMConfig(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=scale,
        vision_config=_VISION | {"image_size": TINY_SIDE, "patch_size": patch},
        text_config=_text(tokenizer) | {"model_type": "llama"},
    )
    tile = {"longest_edge": TINY_SIDE}
    whole = SmolVLMProcessor(
        SmolVLMImageProcessor(size=tile, max_image_size=tile),
        tokenizer,
        SmolVLMVideoProcessor(size=tile, max_image_size=tile, num_frames=1, fps=1),
        image_seq_len=(TINY_SIDE // patch // scale) ** 2,
        chat_template=_SMOLVLM_TEMPLATE,
    )
    return SmolVLMForConditionalGeneration(config), whole


def llava() -> Parts:
    """A CLIP tower with patches of 16 pixels: 16 image tokens at 64 px."""
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    patch = 16
    tokenizer = byte_tokenizer()
    side = {"height": TINY_SIDE, "width": TINY_SIDE}
    config = LlavaConfig(
        vision_config=_VISION | {"model_type": "clip_vision_model", "image_size": TINY_SIDE, "patch_size": patch},
        text_config=_text(tokenizer) | {"model_type": "llama"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    whole = LlavaProcessor(
        CLIPImageProcessor(size=side, do_center_crop=False), tokenizer, patch_size=patch, chat_template=_LLAVA_TEMPLATE,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, image_token="<image>",
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), whole


def _qwen_tokenizer() -> "PreTrainedTokenizerFast":
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    return byte_tokenizer(special, {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"})


def _qwen_tokens(tokenizer: "PreTrainedTokenizerFast") -> dict[str, int]:
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in _QWEN_TOKENS.items()}


def _qwen_processor(kind: "type[ProcessorMixin]", tokenizer: "PreTrainedTokenizerFast", patch: int) -> "ProcessorMixin":
    """A Qwen processor of patches of so many pixels: one to four tokens an image, until a recipe says a side."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (4 * patch) ** 2}
    return kind(
        Qwen2VLImageProcessor(size=size, patch_size=patch), tokenizer, Qwen2VLVideoProcessor(patch_size=patch),
        chat_template=_QWEN_TEMPLATE,
    )  # fmt: skip


def _text(tokenizer: "PreTrainedTokenizerFast") -> dict[str, Any]:
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return _TEXT | ids | {"vocab_size": len(tokenizer)}


BASES: Mapping[str, Callable[[], Parts]] = {
    TINY: fast_vlm, "tiny-qwen2_5_vl": qwen2_5_vl, "tiny-qwen3_vl": qwen3_vl, "tiny-smolvlm": smolvlm,
    "tiny-llava": llava,
}  # fmt: skip
