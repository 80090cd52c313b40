"""The evaluation of a VLM: ranking on a cache, crops, answers that survive a kill, figures of n classes."""

import numpy as np
import pytest
import torch

from hf_inspect.errors import DataError
from hf_inspect.vlm.ranking import ahead, crops_of, option_scores

OPTIONS = [[5, 6], [7, 8, 9], [5, 9, 9, 10], [11]]


@pytest.fixture(scope="module")
def qwen():
    """A random Qwen2.5-VL, whose positions have three axes and know of padding."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
        "fullatt_block_indexes": [1], "window_size": 28, "patch_size": 4,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=60, video_token_id=61, vision_start_token_id=62,
        vision_end_token_id=63,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in (w for w in model.parameters() if w.ndim > 1):
            weight.mul_(6)
    return model


def qwen_row(model, grid, before):
    """Inputs of one image of grid (t, h, w) patches after `before` tokens."""
    tokens = grid[0] * grid[1] * grid[2] // 4
    ids = torch.tensor([[*range(20, 20 + before), 62, *[60] * tokens, 63, 12, 13]])
    patches = torch.randn(grid[0] * grid[1] * grid[2], 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(before))
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == 60).int(),
        "pixel_values": patches, "image_grid_thw": torch.tensor([grid]),
    }  # fmt: skip


def test_positions_of_three_axes_and_padding_are_kept(qwen):
    rows = [qwen_row(qwen, (1, 4, 4), 3), qwen_row(qwen, (1, 8, 4), 5)]
    width = max(row["input_ids"].shape[1] for row in rows)
    padded = {
        name: torch.cat([torch.nn.functional.pad(row[name], (width - row[name].shape[1], 0)) for row in rows])
        for name in ("input_ids", "attention_mask", "mm_token_type_ids")
    } | {name: torch.cat([row[name] for row in rows]) for name in ("pixel_values", "image_grid_thw")}
    found = option_scores(qwen, padded, OPTIONS)
    for row, scores in zip(rows, found, strict=True):
        wanted = [whole(qwen, row, option) for option in OPTIONS]
        assert scores.tolist() == pytest.approx(wanted, abs=1e-4)
        assert option_scores(qwen, row, OPTIONS)[0].tolist() == pytest.approx(wanted, abs=1e-4)
    assert (found[0] - found[1]).abs().max() > 0.1


def whole(model, row, option):
    """log P of the option from one forward over prompt and option."""
    more = torch.tensor([option])
    given = row | {
        "input_ids": torch.cat([row["input_ids"], more], 1),
        "attention_mask": torch.ones(1, row["input_ids"].shape[1] + len(option), dtype=torch.long),
        "mm_token_type_ids": torch.cat([row["mm_token_type_ids"], torch.zeros_like(more).int()], 1),
    }
    with torch.no_grad():
        log_p = model(**given).logits[0].log_softmax(-1)
    at = torch.arange(len(option)) + row["input_ids"].shape[1] - 1
    return log_p[at, option].sum().item()


def test_five_crops_are_corners_and_centre():
    image = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    crops = crops_of(image, 5)
    assert {crop.shape for crop in crops} == {(14, 21, 3)}
    assert np.array_equal(crops[0], image[:14, :21])
    assert np.array_equal(crops[3], image[2:, 3:])
    assert np.array_equal(crops[4], image[1:15, 1:22])
    assert crops_of(image, 1)[0] is image
    with pytest.raises(DataError, match="crops is 3"):
        crops_of(image, 3)


def test_one_batch_is_made_ahead_and_errors_arrive():
    made = []
    found = ahead(lambda i: made.append(i) or 1 // i, [1, 2, 0, 4])
    assert next(found) == 1
    assert next(found) == 0
    with pytest.raises(ZeroDivisionError):
        list(found)
    assert made[:3] == [1, 2, 0]
