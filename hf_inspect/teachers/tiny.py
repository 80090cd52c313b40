"""A base by its name -> its folder; and tiny random teachers of each kind, to try a recipe in seconds, offline.

Made in process from a fixed seed. The tiny tokenizer's words are single letters.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect import hub
from hf_inspect.schema import History
from hf_inspect.vlm.made import Parts, made

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SIDE = 64
_SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}  # BERT's own ids
_LETTERS = [chr(i) for i in range(33, 127) if chr(i) not in _SPECIAL]
_DINO = {
    "num_queries": 20, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 32, "max_text_len": 128,
    "num_feature_levels": 3, "dropout": 0.0, "fusion_droppath": 0.0, "disable_custom_kernels": True,
}  # fmt: skip
_DECODER = {
    "hidden_size": 32,
    "mlp_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "iou_head_hidden_dim": 32,
}


def base_folder(base: str | Path) -> Path:
    """Where a teacher's base lies: of `BASES` the folder it is made in, else the folder or repository that it names."""
    return tiny_base(str(base)) if str(base) in BASES else hub.resolve(base)


def tiny_base(name: str, out: Path | None = None) -> Path:
    """The folder of the tiny base `name`, one of `BASES`; made in `out` (default: the cache) unless it is there."""
    return made(name, out, BASES[name], History())  # random weights, which have seen nothing


def grounding_dino(mm: bool = False) -> Parts:
    """A Swin backbone, a BERT of one layer and 20 queries at 64 px; `mm`: MM-Grounding-DINO."""
    import transformers as t

    tokenizer = _tokenizer()
    swin = {
        "model_type": "swin", "image_size": SIDE, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8],
        "window_size": 4, "out_features": ["stage2", "stage3", "stage4"],
    }  # fmt: skip
    bert = {
        "model_type": "bert", "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 128,
    }  # fmt: skip
    images = t.GroundingDinoImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE})
    processor = t.GroundingDinoProcessor(images, tokenizer)
    if mm:
        own = t.MMGroundingDinoConfig(backbone_config=swin, text_config=bert, **_DINO)
        return _boxed(t.MMGroundingDinoForObjectDetection(own)), processor
    config = t.GroundingDinoConfig(backbone_config=swin, text_config=bert, **_DINO)
    return _boxed(t.GroundingDinoForObjectDetection(config)), processor


def sam() -> Parts:
    """A ViT of two layers at 64 px, masks of 32 x 32."""
    import transformers as t

    vision = {
        "hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": SIDE,
        "patch_size": 8, "mlp_dim": 64, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 16,
    }  # fmt: skip
    prompts = {"hidden_size": 32, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 8}
    edge, square = {"longest_edge": SIDE}, {"height": SIDE, "width": SIDE}
    images = t.SamImageProcessor(size=edge, pad_size=square, mask_size=edge, mask_pad_size=square)
    config = t.SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=_DECODER)
    return _loud(t.SamModel(config)), t.SamProcessor(images)


def sam2() -> Parts:
    """A Hiera of four stages at 64 px, masks of 16 x 16."""
    import transformers as t

    trunk: dict[str, Any] = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 16, "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 2, 2, 1], "embed_dim_per_stage": [16, 32, 64, 128],
        "num_attention_heads_per_stage": [1, 2, 4, 8], "window_size_per_stage": [4, 4, 4, 2],
        "global_attention_blocks": [4],
        "window_positional_embedding_background_size": [4, 4],
    }  # fmt: skip
    vision = {
        "backbone_config": trunk, "backbone_channel_list": [128, 64, 32, 16], "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[SIDE // n, SIDE // n] for n in (4, 8, 16)],
    }  # fmt: skip
    prompts = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 8}
    images = t.Sam2ImageProcessor(
        size={"height": SIDE, "width": SIDE}, mask_size={"height": SIDE // 4, "width": SIDE // 4}
    )
    config = t.Sam2Config(
        vision_config={"model_type": "sam2_vision_model"} | vision, prompt_encoder_config=prompts,
        mask_decoder_config=_DECODER,
    )  # fmt: skip
    return _loud(t.Sam2Model(config)), t.Sam2Processor(images)


def _boxed(model: "PreTrainedModel") -> "PreTrainedModel":
    """The model with boxes that depend on what it sees: fresh ones ignore it, as their last layers are zero."""
    import torch

    for heads in (model.bbox_embed, [model.model.encoder_output_bbox_embed]):
        for head in heads:
            torch.nn.init.normal_(head.layers[-1].weight, std=0.1)
    return model


def _loud(model: "PreTrainedModel") -> "PreTrainedModel":
    """The model with weights as large as a trained one's, so that its masks differ from box to box."""
    import torch

    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "position" not in name:
            torch.nn.init.normal_(weight, std=(2 / weight[0].numel()) ** 0.5)
    return model


def letter_tokenizer() -> "Tokenizer":
    """BERT's own tokenizer, special ids and all, with a letter a token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary, free = dict(_SPECIAL), (i for i in range(1030) if i not in _SPECIAL.values())
    vocabulary |= {word: next(free) for letter in _LETTERS for word in (letter, f"##{letter}")}
    vocabulary |= {f"[unused{i}]": i for i in free}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    return tokenizer


def _tokenizer() -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    named = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=letter_tokenizer(), **named)


BASES: Mapping[str, Callable[[], Parts]] = {
    "tiny-grounding_dino": grounding_dino, "tiny-mm_grounding_dino": functools.partial(grounding_dino, mm=True),
    "tiny-sam": sam, "tiny-sam2": sam2,
}  # fmt: skip
