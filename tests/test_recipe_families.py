"""The VLM recipe for every family: its documented commands, what it saves, and what is refused with a sentence."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from peft import get_peft_model

from hf_inspect import files, images, metrics, prompts
from hf_inspect.data import build, load_split, questions_of, read_task
from hf_inspect.errors import DataError, HubError, MissingExtraError, ParityError
from hf_inspect.hub import files_to_push
from hf_inspect.schema import TaskSpec
from hf_inspect.training import check_processes, parsed
from hf_inspect.vlm import VLM, families, parity, training
from hf_inspect.vlm import tiny as tiny_bases
from tests import launch, raw, tiny
from tests.test_solar import COUNTS

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes/vlm_sft"
FAMILIES = ["qwen2_5_vl", "qwen3_vl", "smolvlm", "llava"]
WHOLE = {"qwen2_5_vl": "merger", "qwen3_vl": "merger", "smolvlm": "connector", "llava": "multi_modal_projector"}
TARGETS = r".*(text|language)_model.*\.(q|k|v|o|gate|up|down)_proj"


def launched(command, *more):
    """Run a documented command, its program taken from beside this Python; one process is a fork."""
    program, verb, *arguments = command.split()
    if arguments[0].endswith(".py"):
        done = launch.script([*arguments, *more], launch.ON_A_CPU)
    else:
        line = [str(Path(sys.executable).with_name(program)), verb, *arguments, *map(str, more)]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def log_of(out):
    return json.loads((out / "training_log.json").read_text())


def losses(out):
    return [row["loss"] for row in log_of(out)["history"] if "loss" in row]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the tiny bases are made, for this process and for those it starts."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(folder))
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield folder


@pytest.fixture(scope="module")
def main(cache):
    """The recipe in this process: `main(name, key, value, ...)`."""
    spec = importlib.util.spec_from_file_location("vlm_sft_families", RECIPES / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)

    def run(name, *more):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train.py", "--config", str(RECIPES / f"{name}.yaml"), *map(str, more)])
            module.main()

    return run


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, elpv, cache, tmp_path_factory):
    """Family, adapter's folder and what its documented command printed."""
    out = tmp_path_factory.mktemp("trained") / request.param
    command = f"accelerate launch recipes/vlm_sft/train.py --config recipes/vlm_sft/tiny_{request.param}.yaml"
    assert command in (ROOT / "recipes/README.md").read_text()
    return request.param, out, launched(command, "--data", elpv, "--output_dir", out)


@pytest.fixture(scope="module", params=FAMILIES)
def adapted(request, cache, tmp_path_factory):
    """A base whose answers differ from image to image, and a random adapter: folders, unmerged model, processor."""
    name, root = request.param, tmp_path_factory.mktemp("adapted")
    base = tiny.loud_base(root / "base", f"tiny-{name}")
    return base, root / "adapter", *tiny.random_adapter(base, root / "adapter", QUESTION, TARGETS, [WHOLE[name]])


QUESTION = prompts.Question("Look.", "Is it good?", TaskSpec.of(("ab", "cd", "bd"), good=["cd"]))


@pytest.fixture
def moved(adapted, tmp_path):
    """The base, and a copy of the adapter's folder to spoil."""
    return adapted[0], shutil.copytree(adapted[1], tmp_path / "adapter")


def test_each_family_trains_by_its_documented_command(trained, elpv):
    name, out, printed = trained
    assert losses(out)[-1] < losses(out)[0]
    assert f"{WHOLE[name]}: " in printed
    assert re.search(r"longest sample: \d+ tokens, \d+ of them for its image of 300 x 300", printed)
    rows = load_split(elpv, "validation").shuffle(seed=0).select(range(64))
    vlm = VLM.from_pretrained(f"tiny-{name}", out, dtype=torch.float32)
    p = [one.severity for one in vlm.predict([images.load(row["bytes"]).rgb for row in rows["image"]])]
    measured = log_of(out)["best"]["score"]
    assert metrics.auroc(rows["label"], p)["value"] == pytest.approx(measured, abs=0.02)


@pytest.mark.parametrize("trained", ["smolvlm", "qwen2_5_vl"], indirect=True)  # whose positions are unlike all others
def test_two_processes_give_the_losses_of_one(trained, elpv, tmp_path):
    name, one, _ = trained
    config = "recipes/accelerate/multi_cpu.yaml"
    command = (
        f"accelerate launch --config_file {config} recipes/vlm_sft/train.py "
        "--config recipes/vlm_sft/tiny_smolvlm.yaml --use_cpu true"
    )
    assert command in (ROOT / "recipes/README.md").read_text()
    given = ["--data", elpv, "--output_dir", tmp_path / "two", "--per_device_train_batch_size", 8]
    if name == "smolvlm":  # the command itself
        launched(command, *given)
    else:
        for done in launch.two("vlm_sft", "--config", RECIPES / f"tiny_{name}.yaml", *given):
            assert done.returncode == 0, done.stderr[-3000:]
    assert (log_of(tmp_path / "two")["processes"], log_of(one)["processes"]) == (2, 1)
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=5e-4)  # Qwen 1e-4, the others 1e-6
    assert log_of(tmp_path / "two")["best"] == pytest.approx(log_of(one)["best"], rel=1e-4)


def test_processes_that_do_not_work_together_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_processes(2)
    with pytest.raises(DataError, match="--use_cpu true"):
        check_processes(1)


def test_a_merged_adapter_answers_as_the_unmerged_one(adapted):
    base, out, unmerged, processor = adapted
    images = tiny.pictures(8)
    merged = VLM.from_pretrained(base, out, dtype=torch.float32).rank(images)
    assert merged.std(0).max() > 0.01  # the answers do depend on the image
    assert np.abs(merged - VLM(unmerged, processor, QUESTION).rank(images)).max() <= 1e-4


def test_the_batch_size_changes_no_prediction(adapted):
    vlm, images = VLM.from_pretrained(adapted[0], adapted[1], dtype=torch.float32), tiny.pictures(16, seed=1)
    eight, alone = vlm.rank(images, 8), vlm.rank(images, 1)
    assert np.abs(eight - alone).max() <= 1e-4
    assert (eight.argmax(1) == alone.argmax(1)).all()


def test_bfloat16_products_work_in_every_family(adapted):
    plain, fast = (VLM.from_pretrained(*adapted[:2], dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    images = tiny.pictures(4)
    assert np.abs(plain.rank(images) - fast.rank(images)).max() < 0.2


def test_no_order_of_the_classes_changes_a_prediction(adapted):
    found = []
    for names in (("ab", "cd", "bd"), ("bd", "ab", "cd")):
        question = prompts.Question("Look.", "Is it good?", TaskSpec.of(names, good=["cd"]))
        answers = VLM(*adapted[2:], question).predict(tiny.pictures(3))
        found.append([(one.severity, dict(zip(names, one.probabilities, strict=True))) for one in answers])
    assert found[0] == found[1]


def test_another_prompt_is_refused_with_the_difference(moved):
    base, adapter = moved
    record = files.read_json(adapter / parity.PROMPT)
    files.write_json(adapter / parity.PROMPT, record | {"question": record["question"] | {"system": "Look well."}})
    with pytest.raises(ParityError, match=r"\+.*Look well\."):
        VLM.from_pretrained(base, adapter)


def test_another_image_size_is_refused(moved):
    base, adapter = moved
    rule = files.read_json(adapter / "preprocessor_config.json")
    files.write_json(adapter / "preprocessor_config.json", rule | {"size": {k: v * 4 for k, v in rule["size"].items()}})
    with pytest.raises(ParityError, match="trained on another prompt"):
        VLM.from_pretrained(base, adapter)


def test_a_base_without_a_chat_template_is_refused(moved, tmp_path):
    bare = shutil.copytree(moved[0], tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="no chat template"):
        VLM.from_pretrained(bare, moved[1])


def test_an_adapter_without_a_module_that_it_trained_whole_is_a_sentence(moved):
    from safetensors.torch import load_file, save_file

    base, adapter = moved
    [whole] = files.read_json(adapter / "adapter_config.json")["modules_to_save"]
    held = load_file(adapter / "adapter_model.safetensors")
    kept = {name: value for name, value in held.items() if f".{whole}." not in name or "lora_" in name}
    assert 0 < len(kept) < len(held)
    save_file(kept, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=rf"the weights in .* lack '.*{whole}.*trained whole; copy the folder again"):
        VLM.from_pretrained(base, adapter)


def test_an_adapter_of_another_family_is_refused(moved, cache):
    other = (
        "tiny-llava"
        if "llava" not in json.loads((moved[0] / "config.json").read_text())["model_type"]
        else "tiny-smolvlm"
    )
    with pytest.raises(DataError, match="give the base it was trained on"):
        VLM.from_pretrained(other, moved[1])


def test_a_truncated_adapter_file_is_refused(moved):
    weights = moved[1] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="cut off or damaged"):
        VLM.from_pretrained(*moved)


def test_four_bits_train_on_the_cpu(main, elpv, tmp_path, capsys):
    main("tiny_qlora", "--data", elpv, "--output_dir", tmp_path / "qlora")
    assert losses(tmp_path / "qlora")[-1] < losses(tmp_path / "qlora")[0]
    assert "lora_: 20 tensors" in capsys.readouterr().out
    vlm = VLM.from_pretrained("tiny-qwen2_5_vl", tmp_path / "qlora", dtype=torch.float32)
    assert vlm.rank(tiny.pictures(2)).shape == (2, 2)


@pytest.mark.parametrize("family", ["base", *FAMILIES])
def test_a_base_of_some_layers_is_the_same_when_it_is_loaded_again(cache, tmp_path, family):
    name, side = f"tiny-{family}", 84 if family == "qwen2_5_vl" else 64
    whole, cut = (training.load_base(name, side, torch.float32, layers=n)[0] for n in (None, 1))
    assert [len(one.get_decoder().layers) for one in (whole, cut)] == [2, 1]
    assert len(cut.state_dict()) < len(whole.state_dict())
    cut.save_pretrained(tmp_path / "cut")
    again = type(cut).from_pretrained(tmp_path / "cut")
    ids = torch.arange(5, 12)[None]
    says = [one.eval()(input_ids=ids).logits for one in (whole, cut, again)]
    assert torch.equal(says[1], says[2])
    assert not torch.allclose(says[0], says[1])


@pytest.mark.parametrize("layers", [0, 3])
def test_layers_that_are_not_there_are_refused(cache, layers):
    with pytest.raises(DataError, match=f"layers is {layers}, but the base's language model has 2; take 1 to so many"):
        training.load_base("tiny-base", 64, torch.float32, layers=layers)


def test_four_bits_hold_the_language_model_alone(cache):
    model, _ = training.load_base("tiny-smolvlm", 64, torch.float32, quantized="nf4")
    small = [name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"]
    assert len(small) == 14
    assert all("text_model" in name for name in small)
    with pytest.raises(DataError, match="give nf4"):
        training.load_base("tiny-smolvlm", 64, torch.float32, quantized="int8")


def test_four_bits_without_their_library_say_what_to_install(cache, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"hf-inspect\[qlora\]"):
        training._four_bits("nf4", torch.float32, [])


def test_a_length_that_would_cut_the_image_is_refused(main, elpv, tmp_path):
    with pytest.raises(DataError, match=r"max_length is 60, but the longest sample takes \d+ tokens, 16 of them"):
        main("tiny_smolvlm", "--data", elpv, "--output_dir", tmp_path / "cut", "--max_length", 60)


def test_six_classes_of_solar_panels_fine_tuned_whole(main, tmp_path, capsys):
    raw.classes(tmp_path / "raw" / "Faulty_solar_panel", dict.fromkeys(COUNTS, 10), suffix=".jpg")
    data, out = tmp_path / "solar", tmp_path / "model"
    build("solar_panels", data, src=tmp_path / "raw", accept_license=True)
    small = [
        "--base",
        "tiny-smolvlm",
        "--side",
        128,
        "--num_train_epochs",
        3,
        "--warmup_steps",
        2,
        "--report_to",
        "none",
    ]
    main("smolvlm_256m_solar", "--data", data, "--output_dir", out, "--train_split", "default/train", *small,
         "--early_stopping_patience", 1, "--logging_steps", 1, "--bfloat16", "true")  # fmt: skip
    assert losses(out)[-1] < losses(out)[0]
    assert "frozen: the rest of" in capsys.readouterr().out
    vlm = VLM.from_pretrained(out, dtype=torch.float32)
    assert vlm.question == questions_of(data).question()
    assert vlm.task.same_as(read_task(data))
    assert vlm.task.good == ("Clean",)
    assert len(vlm.history.signatures) == 42 + 6
    for answer, p in zip(vlm.predict(tiny.pictures(3)), vlm.rank(tiny.pictures(3)), strict=True):
        assert answer.severity == pytest.approx(1 - p[vlm.task.index("Clean")], abs=1e-6)
    with pytest.raises(ParityError, match="Is it good"):
        VLM.from_pretrained(out, question=prompts.Question("", "Is it good?", vlm.task))
    with pytest.raises(DataError, match="answer different questions"):
        VLM.from_pretrained(out, question=QUESTION)


def test_the_table_names_modules_that_are_there(cache):
    for name in FAMILIES:
        model, _ = tiny.parts(tiny_bases.tiny_base(name=f"tiny-{name}"))
        family = families.family_of(model.config)
        assert model.get_submodule(family.tower) is not model.get_submodule(family.projector)
        wrapped = get_peft_model(model, training.Tuning(lora_r=2, lora_alpha=4, lora_dropout=0.0).lora(model.config))
        adapted = {n.split(".lora_")[0] for n, p in wrapped.named_parameters() if p.requires_grad}
        assert all(re.search(r"self_attn|merger|connector|projector", n) for n in adapted)
        assert not any("vision" in n or "visual.blocks" in n for n in adapted)
        assert len(adapted) == 8 + (1 if name == "smolvlm" else 2)


def test_what_the_table_does_not_hold_is_a_sentence(cache):
    from transformers import AutoConfig, CLIPConfig

    with pytest.raises(DataError, match=r"type 'clip'; give one of qwen2_5_vl, qwen3_vl, smolvlm"):
        families.family_of(CLIPConfig())
    folder = tiny_bases.tiny_base(name="tiny-llava")
    with pytest.raises(DataError, match="this base sees 64 pixels"):
        families.set_side(None, AutoConfig.from_pretrained(folder), 96)


def test_every_recipe_stands_in_the_table_with_its_command():
    table = (ROOT / "recipes/README.md").read_text()
    found = sorted(RECIPES.glob("*.yaml"))
    assert len(found) == 12
    for path in found:
        assert f"--config recipes/vlm_sft/{path.name}" in table
        assert path.read_text().startswith("# ")
        assert yaml.safe_load(path.read_text())["learning_rates"]


def test_what_is_published_is_ours_and_private(main, elpv, tmp_path, hub):
    main("tiny_llava", "--data", elpv, "--output_dir", tmp_path / "out", "--push_to_hub", "true",
         "--hub_model_id", "acme/cells", "--num_train_epochs", 1, "--max_rows", 16)  # fmt: skip
    assert hub.repos["models", "acme/cells"].private
    assert hub.titles("models", "acme/cells") == ["Push the adapter out with hf-inspect", "initial commit"]
    held = hub.files("models", "acme/cells")
    assert set(held) == set(files_to_push(tmp_path / "out")) | {".gitattributes"}
    card = held["README.md"].decode()
    assert "license: cc-by-nc-sa-4.0" in card
    assert "`tiny-llava`" in card
    assert "base_model" not in card  # it is no repository
    assert "Is this cell good or defective?" in card
    assert "TRL" not in card


@pytest.mark.parametrize("recipe", ["vlm_sft/train.py", "edge_classifier/train.py", "saec/run.py"])
def test_settings_that_nobody_knows_are_a_sentence(recipe, tmp_path):
    stated = yaml.safe_load((ROOT / "recipes" / recipe).with_name("tiny.yaml").read_text())
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(stated | {"lora_rank": 4}))
    for config, said in ((tmp_path / "wrong.yaml", "lora_rank"), (tmp_path / "missing.yaml", "missing.yaml")):
        done = launch.script([f"recipes/{recipe}", "--config", config])
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def recipe_module(name):
    """A recipe's script, loaded as a module."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_student_goes_up_checked_and_private_and_a_push_that_fails_leaves_it_whole(
    elpv, cache, hub, tmp_path, monkeypatch
):
    """What a Trainer pushes by itself is public, with training_args.bin, a pickle, and a card without a licence."""
    module, out = recipe_module("edge_classifier/train"), tmp_path / "out"
    given = ["--config", RECIPES.parent / "edge_classifier/tiny.yaml", "--data", elpv, "--output_dir", out]
    given += ["--max_rows", 32, "--num_train_epochs", 1, "--push_to_hub", "true", "--hub_model_id", "acme/cells"]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, given)])
    hub.fail("POST /api/models/acme/cells/commit", 403)
    with pytest.raises(HubError, match=rf"may not write there.*whole in {out}: .* run 'hf-inspect push {out} acme/cel"):
        module.main()
    steps = log_of(out)["ran"]["steps"]
    assert set(hub.files("models", "acme/cells")) == {".gitattributes"}
    module.main()
    assert log_of(out)["ran"]["steps"] == steps
    assert hub.repos["models", "acme/cells"].private
    held = hub.files("models", "acme/cells")
    assert set(held) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "trained_on.json", "training_log.json",
    }  # fmt: skip
    assert "license: cc-by-nc-sa-4.0" in held["README.md"].decode()


def test_a_repository_that_may_not_be_written_is_said_before_the_first_step(elpv, cache, hub, tmp_path, monkeypatch):
    for name in ("edge_classifier/train", "vlm_sft/train"):
        module = recipe_module(name)
        given = ["--config", (ROOT / "recipes" / name).with_name("tiny.yaml"), "--data", elpv, "--max_rows", 32]
        given += ["--output_dir", tmp_path / "out", "--push_to_hub", "true", "--hub_model_id", "other/cells"]
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, given)])
        with pytest.raises(HubError, match="other/cells: your token may not write there"):
            module.main()
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["vlm_sft/train", "edge_classifier/train"])
@pytest.mark.parametrize(("split", "wanted"), [("train", "train on is defect"), ("validation", "is a defect one")])
def test_one_class_alone_is_said_before_a_model_is_made(elpv, cache, monkeypatch, tmp_path, name, split, wanted):
    def goods_alone(folder, asked):
        rows = load_split(folder, asked)
        return rows.select([i for i, label in enumerate(rows["label"]) if not label]) if asked == split else rows

    def make(*given, **more):
        raise AssertionError("a model was made")

    for place in ("hf_inspect.data.load_split", "hf_inspect.vlm.training.load_split"):
        monkeypatch.setattr(place, goods_alone)
    module = recipe_module(name)
    monkeypatch.setattr(module, "load" if "vlm" in name else "new_student", make)
    tiny_yaml = (ROOT / "recipes" / name).with_name("tiny.yaml")
    given = ["--config", tiny_yaml, "--data", elpv, "--output_dir", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["x.py", *map(str, given)])
    with pytest.raises(DataError, match=rf"none of the \d+ images to .*{wanted}"):
        module.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("vlm_sft/train", "give --use_cpu true"), ("edge_classifier/train", "give --use_cpu true"),
        ("saec/run", "start it by python"),
    ],
)  # fmt: skip
def test_each_recipe_refuses_processes_that_stay_alone(cache, monkeypatch, tmp_path, name, instead):
    module, tiny_yaml = recipe_module(name), (ROOT / "recipes" / name).with_name("tiny.yaml")
    understood = parsed

    def parse(*classes):
        found = understood(*classes)
        monkeypatch.setenv("WORLD_SIZE", "2")  # after the settings were read, which would wait for the other process
        return found

    monkeypatch.setattr("hf_inspect.training.parsed", parse)
    monkeypatch.setattr(module, "parsed", parse, raising=False)
    monkeypatch.setattr(sys, "argv", ["x.py", "--config", str(tiny_yaml), "--output_dir", str(tmp_path / "out")])
    with pytest.raises(DataError, match=f"2 processes were started, 1 of them work together; {instead}"):
        module.main()
    assert not (tmp_path / "out").exists()


def test_torchrun_without_a_gpu_trains_nothing(tmp_path):
    """Each of the two would train alone into the folder of both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("torchrun"), "--nproc_per_node", "2", "--master_port", str(port)]
    command += ["recipes/edge_classifier/train.py", "--config", "recipes/edge_classifier/tiny.yaml"]
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    done = subprocess.run(
        [*command, "--output_dir", tmp_path / "out"], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=environment | {"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode != 0
    said = "edge_classifier: 2 processes were started, 1 of them work together; give --use_cpu true."
    assert done.stderr.count(said) == 2, done.stderr[-3000:]
    assert not (tmp_path / "out").exists()
