"""Pretext tasks: what they plant and show, that weights move, which images are seen, and a kill that changes no bit."""

import json
import runpy
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import TrainingArguments

from hf_inspect import images
from hf_inspect.anomaly import AnomalyDetector, Settings, fit
from hf_inspect.anomaly.cutpaste import AREA, BROAD, LONG, cut_paste, draw_patch
from hf_inspect.anomaly.fitting import good_rows
from hf_inspect.anomaly.network import new_network
from hf_inspect.anomaly.pretext import NAMES, Pretext, collate, learner_of, moved, views_of
from hf_inspect.anomaly.tuning import Origin, tuned
from hf_inspect.data import load_split, read_history, read_task, refuse_seen
from hf_inspect.errors import DataError, LeakageError, MissingExtraError
from hf_inspect.training import newest_whole_checkpoint
from tests import launch, tiny_anomaly

LAYERS, SIDE = ("blocks.1", "blocks.2"), tiny_anomaly.SIDE
TINY = Pretext("3way", LAYERS, SIDE, projection=16, prediction=8, head=(16,))
SIZES = st.integers(16, 90)
COUNTS = {"grid": (24, 4, 6), "wood": (16, 4, 6)}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return tiny_anomaly.built_parts(tmp_path_factory.mktemp("parts"), 40, 20)


@pytest.fixture(scope="module")
def mvtec(tmp_path_factory):
    return tiny_anomaly.built_mvtec(tmp_path_factory.mktemp("mvtec"), COUNTS)


def training(**more):
    few = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "use_cpu": True}
    return TrainingArguments("unused", report_to="none", **few | more)


def noise(height, width, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width), np.uint8))


@given(SIZES, SIZES, st.sampled_from(["normal", "scar"]), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_patch_stays_in_the_image_and_changes_nothing_outside_of_it(height, width, kind, seed):
    torch.manual_seed(seed)
    before = noise(height, width)
    after, where = cut_paste(before, kind)
    assert (after.shape, after.dtype, where.shape) == (before.shape, torch.uint8, (height, width))
    assert torch.equal(after[:, ~where], before[:, ~where])
    assert 0 < where.sum() < height * width
    assert (after[:, where] != before[:, where]).any() or where.sum() < 8


@given(SIZES, SIZES, st.sampled_from(["normal", "scar"]), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_patches_are_of_the_papers_sizes(height, width, kind, seed):
    torch.manual_seed(seed)
    patch = draw_patch(kind, height, width)
    assert 0 <= patch.top <= height - patch.height
    assert 0 <= patch.left <= width - patch.width
    if kind == "scar":
        assert max(1, LONG[0] * height - 0.5) <= patch.height <= LONG[1] * height + 0.5
        assert max(1, BROAD[0] * width - 0.5) <= patch.width <= max(1, BROAD[1] * width + 0.5)
        assert -45 <= patch.angle <= 45
    else:
        rounding = 0.5 * (patch.height + patch.width) + 0.25  # of each side
        assert AREA[0] * height * width - rounding <= patch.height * patch.width <= AREA[1] * height * width + rounding
        assert patch.angle == 0


def test_without_jitter_a_normal_patch_is_a_piece_of_the_image():
    torch.manual_seed(3)
    before = noise(40, 50)
    after, where = cut_paste(before, "normal", jitter=0)
    rows, columns = np.flatnonzero(where.any(1)), np.flatnonzero(where.any(0))
    piece = after[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    windows = before.unfold(1, piece.shape[1], 1).unfold(2, piece.shape[2], 1)
    assert (windows == piece[:, None, None]).all(-1).all(-1).all(0).any()


@pytest.mark.parametrize("name", NAMES)
def test_views_have_their_labels_and_a_seed_gives_them_again(name):
    pretext = replace(TINY, name=name)
    rgb = noise(SIDE, SIDE).permute(1, 2, 0).numpy()
    first, second = (seeded(views_of(pretext), rgb, 5) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, seeded(views_of(pretext), rgb, 6))
    assert first.shape == (3 if name == "3way" else 2, 3, SIDE, SIDE)
    assert 0 <= first.min() < first.max() <= 1
    _, preprocess = new_network(tiny_anomaly.RANDOM, SIDE)
    batch = collate([{"views": first}, {"views": second}], preprocess)
    assert batch["labels"].tolist() == [list(range(len(first)))] * 2
    assert torch.allclose(batch["views"][1, 0], (first[0] - 0.5) / 0.5)


def test_the_part_as_it_is_comes_first_then_a_patch_then_a_scar():
    pretext = replace(TINY, min_crop=1.0, jitter=0.0)
    flat = np.zeros((SIDE, SIDE, 3), np.uint8)
    flat[:, ::2] = 200
    areas = []
    for seed in range(20):
        plain, patched, scarred = seeded(views_of(pretext), flat, seed)
        areas.append([float((plain != one).any(0).float().mean()) for one in (patched, scarred)])
    patch, scar = np.mean(areas, 0)
    assert patch > 3 * scar > 0


def seeded(views, rgb, seed):
    torch.manual_seed(seed)
    np.random.seed(seed)
    import random

    random.seed(seed)
    return views(rgb)


def test_cutpaste_learns_its_labels_and_swapped_ones_are_noticed():
    torch.manual_seed(0)
    network, preprocess = new_network(tiny_anomaly.RANDOM, SIDE)
    learner = learner_of(network, replace(TINY, name="normal", area=(0.2, 0.3), min_crop=1.0, jitter=0.0))
    dark = torch.zeros(16, 2, 3, SIDE, SIDE)
    dark[:, 1, :, 10:40, 10:40] = 1.0
    batch = collate(list({"views": one} for one in dark), preprocess)
    optimizer = torch.optim.AdamW(learner.parameters(), 1e-2)
    for _ in range(12):
        loss = learner.train()(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = learner(**batch)["loss"].item()
    swapped = learner(batch["views"], batch["labels"].flip(1))["loss"].item()
    assert right < 0.3 < 1.0 < swapped


def test_simsiam_s_loss_is_the_papers_and_stops_at_the_target():
    torch.manual_seed(0)
    network, _ = new_network(tiny_anomaly.RANDOM, SIDE)
    learner = learner_of(network, replace(TINY, name="simsiam")).eval()
    one, other = torch.rand(4, 3, SIDE, SIDE), torch.rand(4, 3, SIDE, SIDE)
    views = torch.stack([one, other], 1)
    z, w = (learner.projection(learner.features(network, x)) for x in (one, other))
    p, q = learner.prediction(z), learner.prediction(w)
    cosine = torch.nn.functional.cosine_similarity
    wanted = -(cosine(p, w).mean() + cosine(q, z).mean()) / 2
    loss = learner(views, torch.zeros(4, 2))["loss"]
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
    ours = torch.autograd.grad(loss, learner.prediction.layers[0].weight, retain_graph=True)
    stopped = -(cosine(p, w.detach()).mean() + cosine(q, z.detach()).mean()) / 2
    weight = learner.projection.layers[0].weight
    wanted_there, whole = (torch.autograd.grad(x, weight, retain_graph=True)[0] for x in (stopped, wanted))
    found = torch.autograd.grad(loss, weight)[0]
    assert torch.allclose(found, wanted_there, atol=1e-6)
    assert not torch.allclose(found, whole, atol=1e-6)
    assert ours[0].abs().sum() > 0


@pytest.mark.parametrize("name", ["simsiam", "3way"])
def test_every_weight_below_the_features_moves_and_the_fit_is_of_it(parts, tmp_path, name):
    out = tuned(Origin(tiny_anomaly.RANDOM, parts), replace(TINY, name=name), training(seed=1), tmp_path / "network")
    log = json.loads((out / "training_log.json").read_text())
    below = ("timm_model.conv_stem.", "timm_model.blocks.0.", "timm_model.blocks.1.", "timm_model.blocks.2.")
    used = {name: share for name, share in log["moved"].items() if name.startswith(below) and name.endswith("weight")}
    assert len(used) > 10
    assert min(used.values()) > 1e-5
    torch.manual_seed(1)
    began, _ = new_network(tiny_anomaly.RANDOM, SIDE)
    fresh = dict(began.named_parameters())
    saved, _ = new_network(str(out), SIDE)
    assert all(torch.equal(value, dict(saved.named_buffers())[name]) for name, value in began.named_buffers())
    assert max(moved({k: v.detach() for k, v in fresh.items()}, saved).values()) > 1e-3
    assert read_history(out, "x").sources[0].images == len(good_rows(parts))
    ours = fit(Settings(str(out), LAYERS, side=SIDE, pool=2), parts)
    used = ours.model.network.timm_model.state_dict()
    assert all(torch.equal(used[name], value) for name, value in load_file(out / "model.safetensors").items())
    assert ours.history.sources[0].images == len(good_rows(parts)) + len(load_split(parts, "validation"))


def test_only_good_images_of_train_are_seen(parts, tmp_path, monkeypatch):
    seen, load = set(), images.load

    def watched(content, *more):
        seen.add(content)
        return load(content, *more)

    monkeypatch.setattr("hf_inspect.anomaly.pretext.images.load", watched)
    out = tuned(Origin(tiny_anomaly.RANDOM, parts), TINY, training(), tmp_path / "network")
    rows = load_split(parts, "train")
    good = {row["image"]["bytes"] for row in rows if row["label"] == read_task(parts).good[0] or row["label"] == 0}
    assert seen
    assert seen <= good
    assert len(seen) < len(rows)
    history = read_history(out, "x")
    with pytest.raises(LeakageError):
        refuse_seen(history, parts, "train", "a network")
    for split in ("validation", "test"):
        refuse_seen(history, parts, split, "a network")


def arguments(kind, data, out, *more):
    return ["--config", f"recipes/anomaly/tiny_{kind}.yaml", "--data", data, "--output_dir", out, *more]


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("model.safetensors")}


def finished(folder):
    return {k: v for k, v in content(folder).items() if "checkpoint" not in k}


@pytest.mark.parametrize(("kind", "named"), [("simsiam", ["wood"]), ("cutpaste", ["grid", "wood"])])
def test_one_command_trains_and_fits_each_category_and_a_kill_changes_no_bit(mvtec, tmp_path, kind, named):
    whole, out = tmp_path / "whole", tmp_path / "cut"
    done = launch.recipe("anomaly", *arguments(kind, mvtec, whole, "--only", *named))
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in Path(f"{whole}-networks").iterdir()) == named
    assert AnomalyDetector.from_pretrained(whole / "wood").history.sources[0].images == 16
    assert f'pretext: "{"simsiam" if kind == "simsiam" else "3way"}"' in (whole / "wood" / "README.md").read_text()
    networks, first = Path(f"{out}-networks"), named[0]
    given_ = ["recipes/anomaly/train.py", *arguments(kind, mvtec, out, "--only", *named)]
    process = launch.started(given_, launch.ON_A_CPU, tmp_path / "out", tmp_path / "err")
    while newest_whole_checkpoint(networks / first) is None and process.exitcode is None:
        time.sleep(0.003)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    if (networks / first / "training_log.json").exists():  # too quick to be killed: as if it had been
        (networks / first / "training_log.json").unlink()
        shutil.rmtree(out, ignore_errors=True)
    again = launch.recipe("anomaly", *arguments(kind, mvtec, out, "--only", *named))
    assert again.returncode == 0, again.stderr[-3000:]
    assert content(out) == content(whole)
    assert finished(networks) == finished(Path(f"{whole}-networks"))


def test_what_is_finished_is_left_alone_and_other_settings_are_refused(mvtec, tmp_path):
    out, networks = tmp_path / "models", tmp_path / "models-networks"
    given_ = arguments("cutpaste", mvtec, out, "--only", "wood", "--pretext", "scar", "--num_train_epochs", "1")
    assert launch.recipe("anomaly", *given_).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in networks.rglob("*") if path.is_file()}
    assert launch.recipe("anomaly", *given_).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in networks.rglob("*") if path.is_file()} == before
    other = launch.recipe("anomaly", *given_, "--learning_rate", "0.5")
    assert other.returncode == 1
    assert "was made from something else (learning_rate 0.001 there, 0.5 here)" in other.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--pretext", "rotation"), "There is no pretext task 'rotation'; give one of simsiam, normal, scar, 3way"),
        (("--per_device_train_batch_size", "64"), "there are 24 good images to learn from, and a batch takes 64"),
        (("--learning_rate", "0"), "no weight of random:test_efficientnet moved"),
        (("--layers", "layer3"), "There is no layer 'layer3'; the network has conv_stem"),
        (("--area", "0.5", "0.1"), "area is (0.5, 0.1)"),
        (("--eval_strategy", "epoch"), "push_to_hub and eval_strategy have no use here"),
        (("--shots", "25"), "shots is 25, and there are 24 good parts to draw from"),
    ],
)
def test_what_cannot_be_is_one_sentence(mvtec, tmp_path, more, message):
    done = launch.recipe("anomaly", *arguments("cutpaste", mvtec, tmp_path / "models", *more))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("trained_on.json"))


@pytest.mark.parametrize("name", ["simsiam", "scar"])
def test_without_lightly_it_says_how_to_have_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "lightly", None)
    for module in [one for one in sys.modules if one.startswith("lightly.")]:
        monkeypatch.delitem(sys.modules, module)
    network, _ = new_network(tiny_anomaly.RANDOM, SIDE)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-inspect\[pretext\]'"):
        learner_of(network, replace(TINY, name=name))


def test_shots_are_so_many_parts_each_of_another_group_by_the_seed(parts):
    drawn = {seed: good_rows(parts, shots=4, seed=seed) for seed in (0, 0, 1, 2)}
    assert all(len(set(rows["group"])) == len(rows) == 4 for rows in drawn.values())
    assert len({tuple(rows["group"]) for rows in drawn.values()}) == 3
    assert drawn[0]["group"] == good_rows(parts, shots=4, seed=0)["group"]
    few = fit(Settings(tiny_anomaly.RANDOM, LAYERS, side=SIDE, score="patches", shots=1, seed=2), parts)
    assert few.figures["fitted"] == 1
    assert few.figures["validation"]["auroc"]["n"] == len(load_split(parts, "validation"))
    with pytest.raises(DataError, match="takes at least 2"):
        fit(Settings(tiny_anomaly.RANDOM, LAYERS, side=SIDE, shots=1), parts)


def few_shot(data, out, *more):
    settings_ = ["--config", "recipes/anomaly/elpv_few_shot.yaml", "--fit", "recipes/anomaly/tiny.yaml"]
    few = ["--scores", "patches", "fre", "--shots", "1", "2", "--draws", "2"]
    return launch.script(["recipes/anomaly/few_shot.py", *settings_, "--data", data, "--output_dir", out, *few, *more])


def test_few_shot_is_a_curve_with_its_spread_and_is_not_done_twice(parts, tmp_path):
    out = tmp_path / "few"
    done = few_shot(parts, out)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((out / "few_shot.json").read_text())["draws"]
    assert [(row["score"], row["shots"], row["draw"]) for row in rows] == [
        *((("patches"), n, draw) for n in (1, 2) for draw in (0, 1)), ("fre", 2, 0), ("fre", 2, 1),
    ]  # fmt: skip
    logs = [json.loads((out / f"patches-1-{draw}/training_log.json").read_text()) for draw in (0, 1)]
    assert [log["ran"]["fitted"] for log in logs] == [1, 1]
    assert [row["auroc"] for row in rows[:2]] == [log["ran"]["validation"]["auroc"] for log in logs]
    said = (out / "few_shot.md").read_text().splitlines()
    assert said == done.stdout.splitlines()[-len(said) :]
    ones = [row["auroc"]["value"] for row in rows[:2]]
    assert f"| `patches` | 1 | {np.mean(ones):.3f} | {np.std(ones, ddof=1):.3f} | {min(ones):.3f}" in said[2]
    assert (out / "few_shot.png").read_bytes()[:4] == b"\x89PNG"
    again = few_shot(parts, out)
    assert again.returncode == 0
    assert again.stdout.count("is there") == len(rows)
    refused = few_shot(parts, out, "--split", "train")
    assert refused.returncode == 1
    assert "split is train, draws 2; give validation or test" in refused.stderr


def test_the_benchmark_s_table_says_what_was_measured():
    given_ = runpy.run_path("benchmarks/anomaly_elpv.py")

    def seed(value):
        return {"auroc": {"value": value, "low": value - 0.05, "high": value + 0.04, "n": 515}, "validation": value}

    said = given_["table"]({"simsiam": [seed(v) for v in (0.86, 0.90, 0.87)], "pretrained": [seed(0.865)]}).splitlines()
    wanted = "| simsiam | 3 | 0.877 | 0.021 | 0.860 | 0.900 | 0.820 to 0.910 | 515 | 0.877 |"
    assert said[2] == wanted
    assert said[3].startswith("| pretrained | 1 | 0.865 | - |")
