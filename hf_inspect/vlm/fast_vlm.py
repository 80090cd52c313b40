"""The FastVLM architecture of two parts: a timm vision tower sees, a causal language model speaks; an untrained
projector joins them.
"""

from typing import TYPE_CHECKING

from hf_inspect.vlm.tokenizer import IMAGE_TOKEN

if TYPE_CHECKING:
    from transformers import (
        FastVlmForConditionalGeneration,
        LlamaForCausalLM,
        LlavaProcessor,
        PreTrainedTokenizerFast,
        TimmWrapperConfig,
    )

STRIDE = 32  # an EfficientNet halves the image five times: one image token per 32 x 32 pixels
SEED = 0  # of the projector and of whatever else is random in a base made here
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


def assemble(
    language: "LlamaForCausalLM", vision: "TimmWrapperConfig", tokenizer: "PreTrainedTokenizerFast"
) -> "FastVlmForConditionalGeneration":
    """Join a causal language model and a timm vision tower (its weights not loaded yet) in float32.

    The projector and the image token's embedding come from a fixed seed, whatever the global random state.
    """
    import torch
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration

    text = language.config
    text.name_or_path = ""  # else the folder this machine keeps packages in
    vocabulary, text.vocab_size = text.vocab_size, len(tokenizer)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
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
