"""The recipe of grounded VLMs: its YAMLs of every family, losses apart, a head inside the model, and going on."""

import importlib.util
import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from hf_inspect import data as sets
from hf_inspect import prompts
from hf_inspect.cli import app
from hf_inspect.data.pool import read_pool, write_pool
from hf_inspect.errors import DataError
from hf_inspect.metrics.findings import Shown, Thing
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.schema import Finding, Prediction, TaskSpec
from hf_inspect.vlm import GroundedVLM, ground_scores, parity, seeing
from hf_inspect.vlm import ground_training as grounding
from hf_inspect.vlm.conversation import IGNORED
from hf_inspect.vlm.families import family_of
from hf_inspect.vlm.ground_trainer import GroundTrainer
from hf_inspect.vlm.head import find, load_head, new_head
from hf_inspect.vlm.head_loss import HeadWeights
from hf_inspect.vlm.learned import Learned
from hf_inspect.vlm.tiny import tiny_base
from tests import finders, tiny

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes/vlm_ground"
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "smolvlm")
TASK = TaskSpec(finders.NAMES, ("defect",) * 2, "detection")
SMALL = ["--max_rows", 8, "--max_validation", 1]
LOSSES = {f"loss_{name}" for name in ("answer", "exemplar", "objectness", "bbox", "giou", "caption", "place")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of squares, and a pool of exemplars from it."""
    folder = tmp_path_factory.mktemp("ground")
    built = finders.built(folder, 32, shares="50/25/5/20", good=0.2)
    write_pool(built, folder / "pool", size=4)
    return built


@pytest.fixture(scope="module")
def recipe(cache):
    """The recipe as a module."""
    spec = importlib.util.spec_from_file_location("vlm_ground_train", RECIPES / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(recipe, data):
    """The recipe in this process: `run(name, out, key, value, ...)`."""

    def train(name, out, *more):
        given = ["--config", RECIPES / f"tiny_{name}.yaml", "--data", data, "--exemplars", data.parent / "pool",
                 "--output_dir", out, *SMALL, *more]  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train.py", *map(str, given)])
            recipe.main()
        return out

    return train


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, run, tmp_path_factory):
    """A family, and what its YAML trained."""
    return request.param, run(request.param, tmp_path_factory.mktemp("trained") / request.param)


def rows_of(data, split="train", base="tiny-qwen2_5_vl", **given):
    model, processor = tiny.parts(tiny_base(name=base))
    question = prompts.Grounding.about(TASK, family_of(model.config).frame)
    sizing = sizing_of(parity.image_settings(processor))
    fingerprint = sets.read_head(data)["fingerprint"]
    made = grounding.GroundedRows(
        sets.load_split(data, split), question, processor, sets.read_reading(data), sizing, fingerprint, **given
    )
    return model, processor, made


def history_of(out):
    return json.loads((out / "training_log.json").read_text())["history"]


def test_each_family_trains_a_model_that_says_where_things_are(trained, data):
    name, out = trained
    command = f"accelerate launch recipes/vlm_ground/train.py --config recipes/vlm_ground/tiny_{name}.yaml"
    assert command in (ROOT / "recipes/README.md").read_text()
    steps = [row for row in history_of(out) if "loss" in row]
    assert {key for row in steps for key in row if key.startswith("loss_")} == LOSSES
    assert steps[-1]["samples_per_second"] > 0
    scored = next(row for row in history_of(out) if "eval_ap50" in row)
    assert {"eval_ap50_guided", "eval_ap50_head", "eval_unreadable", "eval_unknown_guided"} <= set(scored)
    given = (out,) if name == "qwen3_vl" else (f"tiny-{name}", out)
    vlm = GroundedVLM.from_pretrained(*given, dtype=torch.float32, most=8)
    assert vlm.question.frame == family_of(vlm.model.config).frame
    assert vlm.learned.longest > 20
    assert {source.name for source in vlm.history.sources} == {"coco"}
    [said] = vlm.predict(tiny.pictures(1))
    assert said.severity is None or said.findings
    held = {key for path in out.glob("*model*.safetensors") for key in load_file(path)}
    assert held
    assert not [key for key in held if "detection" in key or "original_module" in key]
    head, shown = load_head(out, vlm.model), sizing_of(parity.image_settings(vlm.processor)).fit(tiny.pictures(1)[0])
    scores, _ = find(vlm.model, head, seeing.look(vlm.processor, [shown]))
    assert scores.shape == (1, 9, 2)
    assert {"head.json", "head.safetensors"} <= {key.partition("/")[2] for key in vlm.decides["files"]}


def test_each_family_is_measured_by_the_readme_s_commands(trained, data, tmp_path):
    """Plainly and after an exemplar: the same images, the same question."""
    name, out = trained
    lines = (ROOT / "recipes/README.md").read_text().replace("\\\n", "").splitlines()
    own = [" ".join(read.split()) for read in lines if f"outputs/tiny/ground_{name} " in read]
    read_them = [
        read for read in own if read.startswith(("hf-inspect eval ground tiny-", "hf-inspect eval ground out"))
    ]
    assert len(read_them) == 2
    assert all("--max-new-tokens 16" in read for read in read_them)
    assert ["--exemplars outputs/pool/parts --num 1" in read for read in read_them] == [False, True]
    assert all(("--adapter" in read) == (name != "qwen3_vl") for read in read_them)
    if name == "qwen3_vl":  # a whole model with a head, as the demo's is
        demos = [" ".join(read.split()) for read in lines if "eval ground outputs/ground_demo " in read]
        assert all("--by text" in read for read in demos)
        read_them += [f"{read} --max-new-tokens 16" for read in demos]
    reports = []
    for number, command in enumerate(read_them):
        places = {f"outputs/tiny/ground_{name}": out, "outputs/ground_demo": out, "outputs/data/parts": data,
                  "outputs/pool/parts": data.parent / "pool"}  # fmt: skip
        words = [str(places.get(word, word)) for word in command.split()[1:]]
        words[words.index("--out") + 1] = str(tmp_path / f"{number}.json")
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        reports.append(json.loads((tmp_path / f"{number}.json").read_text())["detection"])
    assert len(reports) == (4 if name == "qwen3_vl" else 2)
    for plain, guided in zip(reports[::2], reports[1::2], strict=True):
        assert plain["n"] == guided["n"] > 0
        assert plain["guide"] is None
        assert (guided["guide"]["num"], guided["guide"]["how"]) == (1, "fixed")
        assert plain["question"] == guided["question"]


def test_a_training_that_goes_on_ends_as_one_that_never_stopped(trained, run, data, tmp_path):
    name, whole = trained
    if name != "qwen2_5_vl":
        pytest.skip("one epoch: there is nothing to go on from")
    out = tmp_path / "out"
    shutil.copytree(whole / "checkpoint-2", out / "checkpoint-2")
    assert (whole / "checkpoint-4").is_dir()
    run(name, out)
    for part in ("adapter_model.safetensors", "head.safetensors"):
        one, two = load_file(whole / part), load_file(out / part)
        assert one.keys() == two.keys()
        assert max((one[key].float() - two[key].float()).abs().max() for key in one) <= 1e-6
    first = load_file(whole / "checkpoint-2/adapter_model.safetensors")
    last = load_file(whole / "checkpoint-4/adapter_model.safetensors")
    moved = {key for key in first if not torch.equal(first[key], last[key])}
    assert any("detection" in key for key in moved)
    assert any("lora_" in key for key in moved)
    write_pool(data, tmp_path / "others", size=4, seed=7, split="validation")
    with pytest.raises(DataError, match=r"other data or settings.*exemplars"):
        run(name, out, "--exemplars", tmp_path / "others")


def test_what_no_rate_names_stays_as_it_was(recipe, data):
    arguments = recipe.GroundArguments(
        data=data, base="tiny-qwen2_5_vl", side=56, lora_r=0, detection=True, bfloat16=False,
        head={"queries": 4, "width": 32, "heads": 4}, learning_rates={"detection": 1e-3, "merger": 1e-3},
    )  # fmt: skip
    base, model, processor = recipe.load(arguments, torch.float32, TASK)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    _, _, rows = rows_of(data)
    batch = grounding.collated([rows[i] for i in range(3)], base, processor, in_one_row=True, head=True)
    given = {key: value for key, value in batch.items() if key not in ("labels", grounding.SHOWN_BEFORE)}
    out = model(**given, use_cache=False)
    [(total, n)] = grounding.token_losses(out["logits"][:, :-1], batch["labels"][:, 1:].contiguous())
    (total / n + out[grounding.HEAD_LOSS]).backward()
    torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], 1e-3).step()
    moved = {name for name, one in model.named_parameters() if not torch.equal(one, before[name])}
    assert {name.split(".")[0] for name in moved} == {"detection", "model"}
    assert all("detection" in name or "merger" in name for name in moved)
    assert any("merger" in name for name in moved)
    head = grounding.take_head(base)
    assert not [name for name, _ in base.named_parameters() if "detection" in name]
    assert head.config.queries == 4
    assert "there" not in base.forward.__code__.co_varnames


@pytest.mark.parametrize("base", ["tiny-qwen2_5_vl", "tiny-smolvlm"])
def test_a_packed_batch_teaches_what_a_padded_one_does(data, cache, base):
    pool = read_pool(data.parent / "pool")
    model, processor, rows = rows_of(data, base=base, pool=pool, ratio=0.6)
    torch.manual_seed(0)
    grounding.with_head(model, new_head(model, TASK.classes, queries=5, width=32, heads=4), HeadWeights(captions=99))
    samples = [rows[i] for i in range(4)]
    assert len({len(one.conversation.turns) for one in samples}) == 2  # some are guided
    found = []
    for in_one_row in (True, False):
        batch = grounding.collated(samples, model, processor, in_one_row=in_one_row, head=True)
        labels, before = batch.pop("labels"), batch.pop(grounding.SHOWN_BEFORE)
        assert not ((labels != IGNORED) & (before != IGNORED)).any()
        out = model(**batch, use_cache=False)
        losses = grounding.token_losses(out["logits"][:, :-1], labels[:, 1:].contiguous(), before[:, 1:].contiguous())
        names = (grounding.HEAD_LOSS, "objectness", "bbox", "giou", "caption")
        found.append([*(float(total / n) for total, n in losses), *(out[name].item() for name in names)])
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    wanted = grounding.collated(samples, model, processor, in_one_row=True, head=False, exemplars=True)["labels"]
    assert (wanted != IGNORED).sum() == ((labels != IGNORED) | (before != IGNORED)).sum()


def test_each_loss_is_of_its_own_tokens_alone():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    first, second = torch.full((2, 5), IGNORED), torch.full((2, 5), IGNORED)
    first[0, 1:3], second[1, 2:] = torch.tensor([3, 6]), torch.tensor([0, 1, 6])
    second[0, 1] = first[0, 1]  # both want this one
    for (total, n), labels in zip(grounding.token_losses(logits, first, second), (first, second), strict=True):
        wanted = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        assert (float(total), int(n)) == (pytest.approx(float(wanted), abs=1e-5), int((labels != IGNORED).sum()))


@pytest.mark.parametrize("in_one_row", [True, False])
@pytest.mark.parametrize("base", ["tiny-qwen3_vl", "tiny-smolvlm"])
def test_the_head_looks_at_the_image_that_is_asked_about_and_at_no_exemplar(data, cache, base, in_one_row):
    model, processor, rows = rows_of(data, base=base, pool=read_pool(data.parent / "pool"), ratio=1.0)
    samples = [rows[i] for i in range(2)]
    rows.pool = None
    samples += [rows[i] for i in range(2)]
    assert [len(one.conversation.turns) for one in samples] == [4, 4, 2, 2]
    batch = grounding.collated(samples, model, processor, in_one_row=in_one_row, head=True)
    looked = {name: batch.pop(name) for name in (seeing.PLACES, seeing.PRESENT, seeing.COUNTS)}
    unseen = ("labels", grounding.SHOWN_BEFORE, grounding.THERE)
    with torch.inference_mode(), seeing.watched(model) as seen:
        model(**{name: value for name, value in batch.items() if name not in unseen}, use_cache=False)
    guided, plain = seeing.rows_of(seen[0], looked).split(2)
    assert (guided - plain).abs().max() <= 1e-5
    assert (plain[0] - plain[1]).abs().max() > 1e-3


def test_exemplars_come_before_a_share_of_rows_and_are_others_in_each_epoch(data, cache):
    pool = read_pool(data.parent / "pool")
    _, _, rows = rows_of(data, pool=pool, ratio=0.7)

    def turns(epoch):
        rows.epoch = epoch
        return [rows[i].conversation for i in range(len(rows))]

    first, again, second = turns(0), turns(0), turns(1)
    guided = [len(one.turns) > 2 for one in first]
    assert 0.4 < np.mean(guided) < 0.95
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(first, again, strict=True))
    assert not all(a.ids.tolist() == b.ids.tolist() for a, b in zip(first, second, strict=True))
    longest, answer = rows.longest()
    assert max(len(one.ids) for one in first + second) <= longest
    assert max(len(one.turns[-1].ids) for one in first) <= answer + 1
    rows.pool = None
    assert {len(rows[i].conversation.turns) for i in range(4)} == {2}


def test_a_mirrored_image_shows_its_things_where_they_are(data, cache):
    _, _, rows = rows_of(data)
    rgb, things = next(pair for pair in map(rows.read, rows.rows) if pair[1])
    turned, moved = grounding.mirrored(rgb, things)
    for one, other in zip(things, moved, strict=True):
        a, b = (tuple(int(side) for side in thing.box) for thing in (one, other))
        assert np.array_equal(rgb[a[1] : a[3], a[0] : a[2]][:, ::-1], turned[b[1] : b[3], b[0] : b[2]])


def test_a_crowd_is_neither_said_nor_found(cache):
    things = Thing("red", (0.0, 0.0, 5.0, 5.0)), Thing("red", (0.0, 0.0, 9.0, 9.0), crowd=True)
    assert grounding.present(things) == things[:1]


def answered(said, things, defect):
    prediction = Prediction(max((one.score for one in said), default=0.0), findings=tuple(said))
    return ground_scores.Answered(Shown(100, 100, tuple(things), tuple(said)), prediction, defect)


def test_scores_come_to_mean_how_often_they_are_right(data, cache, monkeypatch):
    """Of 40 images, what is said with 0.9 is there in nine of ten, with 0.5 in one of ten."""
    box, off = (10.0, 10.0, 30.0, 30.0), (60.0, 60.0, 90.0, 90.0)
    answers = []
    for i in range(40):
        sure = i % 2 == 0
        right = (i % 20 not in (0,)) if sure else (i % 20 == 1)
        found = Finding("red", 0.9 if sure else 0.5, box if right else off)
        answers.append(answered([found], [Thing("red", box)], True))
    answers += [answered([], [], False)] * 10
    monkeypatch.setattr(ground_scores, "answered", lambda *given: answers)
    model, _, rows = rows_of(data)
    learned, question = ground_scores.fitted(model, rows, Learned(longest=5), 50, 8)
    high, low = learned.confidence.severity(np.array([0.9, 0.5]))
    assert high == pytest.approx(0.9, abs=0.06)
    assert low == pytest.approx(0.1, abs=0.06)
    assert low < learned.told < high
    assert question.task.score is not None
    found = ground_scores.figures_of(answers, rows.question)
    assert 0 < found["ap50"] < 1
    assert found["unreadable"] == found["unknown"] == 0


def test_what_cannot_be_trained_on_is_a_sentence(run, data, tmp_path, recipe):
    for more, said in (
        (["--max_length", 100], r"max_length is 100, but the longest sample takes \d+ tokens"),
        (["--num_teacher_samples", 4], r"has 4 exemplars, of which 4 are to come before an image"),
        (["--max_rows", 1], "no image to train on in .* shows a"),
        (["--head.width", 30], "detection head"),
        (["--language", "fr"], "language is 'fr'"),
        (["--layers", 1], "an adapter on some layers would not fit the base of all; set lora_r to 0"),
        (["--adapter", tmp_path], "an adapter on a merged adapter would not fit the base alone"),
        (["--full_modules", "lm_head"], r"learning_rates names .*merger.*, but it is frozen"),
    ):
        with pytest.raises(DataError, match=said):
            run("qwen2_5_vl", tmp_path / "out", *more)
    other = finders.built(tmp_path / "other", 24, names=("green", "red"), shares="50/25/5/20")
    with pytest.raises(DataError, match="different questions"):
        grounding.pool_for(data.parent / "pool", sets.read_objects(other), 1)


def test_every_yaml_says_what_trains_and_stands_in_the_table(recipe):
    table = (ROOT / "recipes/README.md").read_text()
    found = sorted(RECIPES.glob("*.yaml"))
    assert len(found) == 6
    known = set(recipe.GroundArguments.__dataclass_fields__) | set(recipe.TrainingArguments.__dataclass_fields__)
    for path in found:
        stated = yaml.safe_load(path.read_text())
        assert f"`{path.name}`" in table
        assert path.read_text().startswith("# ")
        assert stated["learning_rates"]
        assert set(stated) <= known
    large = yaml.safe_load((RECIPES / "qwen2_5_vl_3b.yaml").read_text())
    assert list(large["learning_rates"].values()) == [1e-3, 1e-4, 5e-6, 1e-6, 2e-6]
    assert (large["head_weights"], large["head"]) == ({"bbox": 10.0, "caption": 1.0}, {"queries": 100})
    assert (large["teacher_ratio"], large["num_teacher_samples"], large["max_length"]) == (0.7, 1, 12000)


def test_the_plates_that_are_drawn_are_a_data_set_of_boxes(tmp_path, monkeypatch):
    given = ["recipes/vlm_ground/parts.py", tmp_path / "raw", "--images", 24]
    monkeypatch.setattr(sys, "argv", [str(ROOT / given[0]), *map(str, given[1:])])
    runpy.run_path(sys.argv[0], run_name="__main__")
    built = ["data", "build", "coco", "--src", str(tmp_path / "raw"), "--license", "cc0-1.0", "--near", "off"]
    done = CliRunner().invoke(app, [*built, "--shares", "70/10/10/10", "--out", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    assert len(sets.read_objects(tmp_path / "data").classes) == 3


def test_the_configs_for_several_gpus_are_ones_that_accelerate_reads(recipe):
    from accelerate.commands.config.config_args import ClusterConfig

    table = (ROOT / "recipes/README.md").read_text()
    for name in ("zero2", "fsdp"):
        start = f"accelerate launch --config_file recipes/accelerate/{name}.yaml recipes/vlm_ground/train.py --config "
        assert f"{start}recipes/vlm_ground/qwen2_5_vl_3b.yaml" in table
        path = ROOT / "recipes/accelerate" / f"{name}.yaml"
        said = " ".join(path.read_text().replace("#", "").split())
        assert re.search(r"never (run )?on two GPUs", said, re.I)
        config = ClusterConfig.from_yaml_file(str(path))
        assert config.num_processes == 2
        assert config.mixed_precision in (None, "no")  # else every weight would become bfloat16, the head's too
    given = json.loads((ROOT / config_file("zero2")).read_text())
    assert given["zero_optimization"]["stage"] == 2
    assert given["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert "bf16" not in given


def config_file(name):
    found = yaml.safe_load((ROOT / f"recipes/accelerate/{name}.yaml").read_text())
    return found["deepspeed_config"]["deepspeed_config_file"]


def test_products_are_bfloat16_and_trained_weights_float32(recipe, run, monkeypatch, tmp_path):
    seen, losses = [], GroundTrainer.compute_loss

    def watched(trainer, model, *args, **kwargs):
        trained = {str(weight.dtype) for weight in model.parameters() if weight.requires_grad}
        seen.append((torch.is_autocast_enabled("cpu"), trained))
        return losses(trainer, model, *args, **kwargs)

    monkeypatch.setattr(GroundTrainer, "compute_loss", watched)
    monkeypatch.setattr(recipe, "fast_dtype", lambda: torch.bfloat16)
    scored = []
    monkeypatch.setattr(ground_scores, "figures", lambda *_: scored.append(torch.is_autocast_enabled("cpu")) or {})
    for low in (True, False):
        seen.clear()
        scored.clear()
        run("qwen2_5_vl", tmp_path / str(low), "--bfloat16", low, "--num_train_epochs", 1)
        assert set(map(str, seen)) == {str((low, {"torch.float32"}))}
        assert scored == [low]
