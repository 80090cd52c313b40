"""The evaluation of a VLM: ranking on a cache, crops, answers that survive a kill, figures of n classes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_inspect import demo, files, prompts
from hf_inspect.cli import main
from hf_inspect.data import build, questions_of, read_manifest
from hf_inspect.errors import DataError, ParityError
from hf_inspect.metrics import class_report, fit_temperature, softmax, with_temperature
from hf_inspect.reports import evaluate_vlm, results_table, vlm_summary, vlm_table, write_comparison
from hf_inspect.vlm import VLM, parity
from hf_inspect.vlm.answers import Asking
from hf_inspect.vlm.ranking import ahead, crops_of, option_scores
from tests import tiny
from tests.test_solar import COUNTS as SOLAR_COUNTS
from tests.test_solar import write_solar

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "model_cards" / "examples" / "elpv_vlm"
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


@pytest.fixture(scope="module")
def solar(tmp_path_factory):
    """Six classes of 20 images each."""
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("solar") / "data"
    write_solar(raw / "panels", dict.fromkeys(SOLAR_COUNTS, 20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(raw / ".cache"))
        build("solar_panels", out, src=raw, accept_license=True)
    return out


@pytest.fixture
def data(solar, tmp_path):
    return shutil.copytree(solar, tmp_path / "data")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(tiny.loud_base(tmp_path_factory.mktemp("base") / "base"))


@pytest.fixture(scope="module")
def adapter(base, solar, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapter") / "adapter"
    tiny.random_adapter(Path(base), out, questions_of(solar).task())
    return out


@pytest.fixture
def plain(monkeypatch):
    """float32, so that figures do not depend on which images share a batch."""
    monkeypatch.setattr("hf_inspect.vlm.model.fast_dtype", lambda: torch.float32)


@pytest.fixture
def asked(monkeypatch):
    """How many images each forward was asked about."""
    counts, log_p = [], VLM.log_p

    def counting(self, inputs, crops=1):
        counts.append(len(inputs["input_ids"]) // crops)
        if counts[-1] and len(counts) == counting.dies_at:
            raise KeyboardInterrupt
        return log_p(self, inputs, crops)

    counting.dies_at = None
    monkeypatch.setattr(VLM, "log_p", counting)
    return counts, counting


def spoil(data, split, at):
    """Cut the image `at` of a split's Parquet short; returns its name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (path,) = (data / "data").glob(f"*{split}*.parquet")
    table = pq.read_table(path)
    column = table.column("image").to_pylist()
    column[at]["bytes"] = column[at]["bytes"][:40]
    place = table.schema.get_field_index("image")
    field = table.schema.field("image")
    pq.write_table(table.set_column(place, field, pa.array(column, field.type)), path)
    return column[at]["path"]


def test_six_classes_end_to_end_beside_zero_shot(data, base, adapter, tmp_path, capsys, monkeypatch, plain):
    plot = tmp_path / "plot.png"
    run = ["hf-inspect", "eval", "vlm", "--model", base, "--data", str(data)]
    for more in (["zero"], ["adapter", "--adapter", str(adapter), "--plot", str(plot)]):
        name, *options = more
        options += ["--beside", str(tmp_path / "zero.json")] if options else []
        monkeypatch.setattr("sys.argv", [*run, "--out", str(tmp_path / f"{name}.json"), *options])
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    assert "VLM zero-shot" in printed
    assert "VLM with adapter" in printed
    assert "| Snow-Covered |" in printed
    assert "images of validation" in printed
    zero, own = (files.read_json(tmp_path / f"{name}.json") for name in ("zero", "adapter"))
    n = sum(read_manifest(data)["counts"]["default"]["test"].values())
    for results in (zero, own):
        report = results["vlm"]
        assert report["n"] == n == np.sum(report["confusion"]["counts"])
        assert list(report["classes"]) == report["task"]["options"] == list(SOLAR_COUNTS)
        assert sum(one["recall"]["k"] for one in report["classes"].values()) == report["accuracy"]["k"]
        assert sum(one["precision"]["n"] for one in report["classes"].values()) == n
        assert report["calibration"]["fitted_on"]["split"] == "validation"
        assert "auroc" not in report
        assert results["environment"]["versions"]["torch"]
    assert (zero["vlm"]["adapter"], own["vlm"]["adapter"]) == (None, adapter.name)
    of_base = files.sha256(Path(base) / "model.safetensors")
    of_adapter = files.sha256(adapter / "adapter_model.safetensors")
    assert zero["inputs"]["models"] == {"model.safetensors": of_base}
    assert own["inputs"]["models"] == {"adapter_model.safetensors": of_adapter}
    assert own["inputs"]["base"] == {"name": "base", "weights": [of_base]}
    assert not [path for path in (base, str(adapter)) if path in json.dumps([zero, own])]
    assert [r["data"]["evaluations_of_this_split"] for r in (zero, own)] == [1, 2]
    assert min(Image.open(plot).size) >= 600


def evaluated(base, data, out, **more):
    settings = {"asking": Asking(), "batch_size": 4} | more
    adapter = settings.pop("adapter", None)
    return evaluate_vlm(base, adapter, data, settings.pop("split", "test"), out, **settings)


def test_a_killed_evaluation_goes_on_and_asks_no_image_twice(data, base, tmp_path, asked, plain):
    counts, switch = asked
    undisturbed = evaluated(base, data, tmp_path / "whole.jsonl")["vlm"]
    whole = sum(counts)
    out = tmp_path / "scores.jsonl"
    counts.clear()
    switch.dies_at = 3
    with pytest.raises(KeyboardInterrupt):
        evaluated(base, data, out)
    switch.dies_at = None
    with out.open("a") as file:
        file.write('{"split": "default/test", "ind')  # torn by the kill
    kept = sum(counts) - counts[-1]
    counts.clear()
    again = evaluated(base, data, out)["vlm"]
    assert kept > 0
    assert sum(counts) == whole - kept
    for key in ("accuracy", "classes", "confusion", "calibration"):
        assert json.dumps(again[key]) == json.dumps(undisturbed[key])
    counts.clear()
    assert evaluated(base, data, out, normalised=True)["vlm"]["normalised"]
    assert not counts  # all is there, and the scores of options serve both


def test_an_evaluation_that_is_read_again_is_counted_once(data, base, tmp_path, asked, plain):
    def times(out):
        return evaluated(base, data, tmp_path / out, batch_size=16)["data"]["evaluations_of_this_split"]

    assert [times("a.jsonl"), times("a.jsonl")] == [1, 1]
    assert [times("b.jsonl"), times("a.jsonl")] == [2, 2]
    (tmp_path / "a.jsonl").unlink()
    assert times("a.jsonl") == 3
    counts, switch = asked
    counts.clear()
    switch.dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        times("killed.jsonl")
    switch.dies_at = None
    assert [times("killed.jsonl"), times("killed.jsonl")] == [4, 4]


def test_scores_of_another_evaluation_are_refused(data, base, tmp_path, plain):
    out = tmp_path / "scores.jsonl"
    evaluated(base, data, out)
    with pytest.raises(DataError, match="another evaluation \\(other crops\\)"):
        evaluated(base, data, out, asking=Asking(crops=5))
    out.write_text("[1]\n")
    with pytest.raises(DataError, match="not written by"):
        evaluated(base, data, out)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_options_do_not_see_each_other_whatever_the_attention(base, attention):
    model, processor = tiny.parts(base)
    model.config.get_text_config()._attn_implementation = attention
    inputs = parity.encode(processor, tiny.TASK, tiny.pictures(3))
    together = option_scores(model, inputs, OPTIONS)
    alone = torch.cat([option_scores(model, inputs, [option]) for option in OPTIONS], 1)
    assert together.numpy() == pytest.approx(alone.numpy(), abs=1e-4)
    assert alone.std() > 0.1


@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_broken_image_is_listed_and_the_others_are_scored(data, base, adapter, tmp_path, batch_size, plain):
    name = spoil(data, "test", 7)
    results = evaluated(base, data, tmp_path / "scores.jsonl", adapter=adapter, batch_size=batch_size)
    report = results["vlm"]
    assert report["n"] == sum(results["data"]["counts"].values()) - 1
    ((source, reason),) = [one.values() for one in report["not_scored"]]
    assert source == name
    assert "damaged image" in reason
    assert f"1 images could not be read and are not in n:\n  {name}" in vlm_summary(report)


def test_generated_answers_are_read_exactly(data, base, tmp_path, monkeypatch, plain):
    said = iter(["Clean", " Dusty\n", "Clean panel", "clean"] * 40)
    monkeypatch.setattr(VLM, "generate", lambda self, inputs: [next(said) for _ in inputs["input_ids"]])
    report = evaluated(base, data, tmp_path / "scores.jsonl", asking=Asking("generate"))["vlm"]
    assert report["unreadable"]["k"] == report["n"] // 2 == sum(row[-1] for row in report["confusion"]["counts"])
    assert report["accuracy"]["n"] == report["n"]
    assert report["calibration"] == {"why": "generated answers carry no probability"}
    assert "name no class and count as wrong" in vlm_summary(report)


def test_greedy_answers_are_those_of_the_likeliest_tokens(base):
    vlm = VLM.from_pretrained(base, task=tiny.TASK, dtype=torch.float32)
    inputs = vlm.prepare(tiny.pictures(3))
    answers = vlm.generate(inputs)
    assert len(answers) == 3
    with torch.no_grad():
        first = vlm.model(**inputs).logits[:, -1].argmax(-1)
    assert [text[:1] for text in answers] == [vlm.processor.tokenizer.decode(i)[:1] for i in first]


def test_five_crops_are_a_mean_of_log_probabilities(base):
    vlm = VLM.from_pretrained(base, task=tiny.TASK, dtype=torch.float32)
    images = tiny.pictures(5)
    found = vlm.rank(images, 2, crops=5)
    by_hand = [np.log(vlm.rank(crops_of(image, 5), 1)).mean(0) for image in images]
    assert found == pytest.approx(softmax(np.array(by_hand)), abs=1e-4)
    assert np.abs(found - vlm.rank(images)).max() > 1e-3


def test_normalised_scores_are_a_mean_over_tokens(base):
    task = prompts.Task("", "Which is it?", ("ab", "cdfgh"))
    vlm = VLM.from_pretrained(base, task=task, dtype=torch.float32)
    log_p = vlm.log_p(vlm.prepare(tiny.pictures(3)))
    lengths = [len(ids) for ids in vlm._options]
    assert lengths[0] < lengths[1]
    assert vlm.probabilities(log_p, normalised=True) == pytest.approx(softmax(log_p / lengths))


def test_an_image_size_is_set_or_refused(data, base, adapter, tmp_path, plain):
    report = evaluated(base, data, tmp_path / "a.jsonl", asking=Asking(imgsz=96))["vlm"]
    assert report["imgsz"] == 96
    with pytest.raises(ParityError, match="96"):
        evaluated(base, data, tmp_path / "b.jsonl", adapter=adapter, asking=Asking(imgsz=96))
    for wrong in ({"mode": "guess"}, {"crops": 3}, {"mode": "generate", "crops": 5}, {"imgsz": 0}):
        with pytest.raises(DataError):
            Asking(**wrong)


def test_no_temperature_is_fitted_on_the_split_measured(data, base, tmp_path, plain):
    report = evaluated(base, data, tmp_path / "scores.jsonl", split="validation")["vlm"]
    assert report["calibration"]["why"] == "the split measured is the one it would be fitted on"
    assert 0 <= report["calibration"]["error"] <= 1


def test_two_classes_have_escapes_and_auroc(elpv, base, tmp_path, plain):
    data = shutil.copytree(elpv, tmp_path / "elpv")
    own = tmp_path / "adapter"
    tiny.random_adapter(Path(base), own, prompts.Task("Look.", "Good?", ("ok", "no")))
    results = evaluated(base, data, tmp_path / "scores.jsonl", adapter=own, split="validation", batch_size=64)
    report = results["vlm"]
    assert report["escapes"]["n"] == results["data"]["counts"]["defect"]
    assert report["escapes"]["k"] + report["overkill"]["k"] == report["n"] - report["accuracy"]["k"]
    assert report["auroc"]["n"] == report["n"]
    assert results_table(results).splitlines()[2].startswith("| VLM with adapter |")


def test_a_temperature_lowers_the_likelihood_s_loss_and_keeps_the_answers():
    rng = np.random.default_rng(0)
    p = softmax(rng.normal(0, 1, (500, 3)))
    labels = [rng.choice(3, p=row) for row in p]
    sure = with_temperature(p, 0.25)
    assert fit_temperature(sure, labels) == pytest.approx(4, rel=0.2)
    assert (sure.argmax(1) == p.argmax(1)).all()


def test_a_class_report_adds_up():
    report = class_report([0, 0, 1, 2], [0, 1, -1, 2], ["a", "b", "c"])
    assert report["confusion"]["counts"] == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert (report["accuracy"]["k"], report["unreadable"]["k"]) == (2, 1)
    assert (report["classes"]["a"]["recall"]["value"], report["classes"]["b"]["precision"]["n"]) == (0.5, 1)
    assert report["classes"]["b"]["precision"]["value"] == 0
    for labels, answers in (([3], [0]), ([0], [3]), ([0, 1], [0])):
        with pytest.raises(DataError):
            class_report(labels, answers, ["a", "b", "c"])


def test_results_of_other_splits_or_of_the_same_kind_are_not_drawn(tmp_path):
    report = {"adapter": None, "crops": 1, "mode": "rank"}
    one = {"data": {"fingerprint": "x", "split": "test"}, "vlm": report}
    for other, message in ((one, "differ in"), (one | {"data": {"fingerprint": "y", "split": "test"}}, "same split")):
        files.write_json(tmp_path / "other.json", other)
        with pytest.raises(DataError, match=message):
            write_comparison(tmp_path / "plot.png", one, tmp_path / "other.json")


def test_readme_s_table_and_picture_are_made_from_the_committed_results(tmp_path):
    names = ("zero_shot_1", "zero_shot_5", "adapter_1", "adapter_5")
    results = {name: files.read_json(EXAMPLES / f"{name}.json") for name in names}
    readme = (ROOT / "README.md").read_text()
    shown = readme.split("<!-- vlm -->\n")[1].split("\n<!-- /vlm -->")[0]
    assert shown == vlm_table(one["vlm"] for one in results.values())
    assert len({json.dumps([one["data"]["fingerprint"], one["data"]["split"]]) for one in results.values()}) == 1
    own = files.sha256(demo.assets() / "adapter" / "adapter_model.safetensors")
    assert [one["vlm"]["weights"]["adapter"] for one in results.values()] == [None, None, own, own]
    write_comparison(tmp_path / "classes.png", results["adapter_1"], EXAMPLES / "zero_shot_1.json")
    kept, drawn = (np.asarray(Image.open(p / "classes.png").convert("L"), float) for p in (EXAMPLES, tmp_path))
    assert kept.shape == drawn.shape
    assert np.abs(kept - drawn).mean() < 1.0  # of 255: another matplotlib may set letters otherwise
