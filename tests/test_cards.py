"""Cards of every kind: made from the folder's records, true to results.json, fit to be pushed, their snippets run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from hf_inspect import Inspector, demo, files
from hf_inspect.bundle import bundle
from hf_inspect.calibrate import calibrate
from hf_inspect.cli import app
from hf_inspect.data import build, chat, read_manifest
from hf_inspect.errors import DataError, HubError
from hf_inspect.hub import check, push, read_notes, verify
from hf_inspect.hub.kinds import METRICS
from hf_inspect.hub.licences import refuse_wider
from hf_inspect.prompts import Question
from hf_inspect.reports import card_of, evaluate_cascade, evaluate_edge, evaluate_vlm, write_card
from hf_inspect.schema import BINARY, History, Source, TaskSpec
from hf_inspect.vlm import parity
from hf_inspect.vlm.base import base_folder
from tests import raw, tiny, tiny_edge
from tests.conftest import png
from tests.scripted import HISTORY, brightness_cascade, brightness_engine

ROOT = Path(__file__).parent.parent
ASSETS = demo.assets()
EXAMPLE = ROOT / "model_cards" / "examples" / "elpv_cascade"
SHIPPED = (".", "edge", "edge_int8", "adapter")
QUESTIONS = """
direct: Is it good?
system: Look.
templates: ["What is it?"]
classes:
  good: [nothing]
  defect: [a scratch]
good: [good]
"""
ASKED = Question("Look.", "Is it good?", TaskSpec.of(("defect", "good"), good=["good"]))  # an order of its own


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data set of 120 parts of one's own in class folders."""
    return raw.built_parts(tmp_path_factory.mktemp("parts"), good=80, defect=40)


@pytest.fixture(scope="module")
def folders(data, tmp_path_factory) -> dict[str, Path]:
    """A measured folder a kind, of one's own parts: all by the functions behind the command line."""
    root = tmp_path_factory.mktemp("folders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(root / "cache"))
        edge = Path(shutil.copytree(tiny_edge.exported(False), root / "student"))
        files.write_json(edge / "results.json", evaluate_edge(edge, data, "test", root / "edge.jsonl"))
        adapter, whole, made = root / "adapter", root / "vlm", root / "cascade"
        tiny.random_adapter(base_folder("tiny-base"), adapter, ASKED)
        files.write_json(
            adapter / "results.json", evaluate_vlm("tiny-base", str(adapter), data, "test", root / "adapter.jsonl")
        )
        fine_tuned(whole)
        (root / "questions.yaml").write_text(QUESTIONS)
        measured = evaluate_vlm(str(whole), None, data, "test", root / "vlm.jsonl", questions=root / "questions.yaml")
        files.write_json(whole / "results.json", measured)
        calibrate(edge, ("tiny-base", adapter), data, made, escape=0.3, overkill=0.3, confidence=0.5)
        for name in ("edge", "adapter"):
            write_card(made / name)
        files.write_json(made / "results.json", evaluate_cascade(made, data, "test", root / "cascade.jsonl"))
        yield {"student": edge, "adapter": adapter, "vlm": whole, "cascade": made}


def fine_tuned(folder: Path) -> None:
    """A whole fine-tune's folder: a base with the record of a training."""
    tiny.loud_base(folder)
    adapter = folder.parent / "other"
    tiny.random_adapter(folder, adapter, Question("Look.", "Is it good?", BINARY))
    for name in ("trained_on.json", parity.PROMPT, "preprocessor_config.json"):
        shutil.copy(adapter / name, folder)


@pytest.fixture
def own(folders, tmp_path):
    """A copy of a kind's folder with its card, to spoil."""

    def copy(kind: str) -> Path:
        folder = Path(shutil.copytree(folders[kind], tmp_path / kind))
        write_card(folder)
        return folder

    return copy


@pytest.fixture
def cascade(tmp_path) -> Path:
    """A copy of the shipped cascade to spoil."""
    return Path(shutil.copytree(ASSETS, tmp_path / "elpv"))


def snippet(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return code


def run_in(folder: Path, code: str, monkeypatch, capsys) -> str:
    """What a snippet prints in a folder that holds an image of a part."""
    (folder / "part.png").write_bytes(png(tiny_edge.cell(True, np.random.default_rng(0))))
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(code, {})
    return capsys.readouterr().out


@pytest.mark.parametrize("part", SHIPPED)
def test_the_shipped_cards_are_what_the_command_writes(part, cascade):
    kept = (ASSETS / part / "README.md").read_text()
    (cascade / part / "README.md").unlink()
    done = CliRunner().invoke(app, ["card", str(cascade / part)])
    assert done.exit_code == 0, done.output
    assert (cascade / part / "README.md").read_text() == kept
    _, notes = read_notes(ASSETS / part)
    assert len(notes) > 100
    assert notes in kept


def test_the_example_is_the_shipped_cascade_s_card_and_pictures():
    assert (EXAMPLE / "README.md").read_text() == card_of(ASSETS)
    plots = sorted((ASSETS / "plots").glob("*.png"))
    assert len(plots) >= 3
    for path in plots:
        assert (EXAMPLE / "plots" / path.name).read_bytes() == path.read_bytes()
        assert f"(plots/{path.name})" in card_of(ASSETS)


@pytest.mark.parametrize("part", SHIPPED[1:])
def test_the_parts_figures_are_those_of_the_whole(part):
    whole, own = (files.read_json(folder / "results.json") for folder in (ASSETS, ASSETS / part))
    assert own["data"] == whole["data"]
    section = {"edge": "edge", "edge_int8": "edge_int8", "adapter": "vlm"}[part]
    assert own["vlm" if part == "adapter" else "edge"] == whole[section]
    weights = {f"{part}/{name}": sha256 for name, sha256 in own["inputs"]["models"].items()}
    assert len(weights) == 1
    assert weights.items() <= whole["inputs"]["models"].items()


def figures_in(results: dict, kind: str) -> list[dict]:
    """Every figure that a card's head should hold, found without the package's own search."""
    reports = [results["edge" if kind == "student" else "vlm"]] if kind != "cascade" else results["cascade"].values()
    names = [one.figure for one in METRICS if one.figure != "macro_f1" or len(results["task"]["classes"]) > 2]
    names = [name for name in names if kind != "cascade" or name != "auroc"]  # `saec` has no score to order parts by
    return [report[name] for report in reports for name in names if name in report]


@pytest.mark.parametrize("kind", ["student", "adapter", "vlm", "cascade"])
def test_its_numbers_go_through_huggingface_hub_unchanged(kind, own):
    folder = own(kind)
    results, text = files.read_json(folder / "results.json"), (folder / "README.md").read_text()
    loaded = ModelCard(text)
    stated = loaded.data.eval_results
    assert ModelCard(str(loaded)).data.eval_results == stated
    wanted = figures_in(results, kind)
    assert len(stated) == len(wanted) >= 4
    assert [(one.metric_value, one.metric_args["low"], one.metric_args["n"]) for one in stated] == [
        (figure["value"], figure["low"], figure["n"]) for figure in wanted
    ]
    for one in stated:
        assert one.dataset_name == one.dataset_type == "folder"
        assert one.dataset_split == "test"
        assert one.dataset_args["fingerprint"] == results["data"]["fingerprint"]
        assert one.dataset_args["evaluations_of_this_split"] == results["data"]["evaluations_of_this_split"]
    assert loaded.data.license == "cc0-1.0"
    assert loaded.data.datasets == ["folder"]


@pytest.mark.parametrize("kind", ["student", "adapter", "vlm", "cascade"])
def test_its_text_says_what_a_reader_must_know(kind, own):
    folder = own(kind)
    text, results = (folder / "README.md").read_text(), files.read_json(folder / "results.json")
    figures = [figure for figure in figures_in(results, kind) if "escapes" not in figure]
    for figure in figures:
        assert f"{figure['value']:.1%} (" in text
        assert f"{figure['low']:.1%} to {figure['high']:.1%}" in text
    report = next(iter(results["cascade"].values())) if kind == "cascade" else results[
        "edge" if kind == "student" else "vlm"
    ]  # fmt: skip
    assert f"{report['escapes']['n']} defects" in text
    assert f"{report['overkill']['n']} good parts" in text
    for wanted in (
        results["data"]["fingerprint"][:12], results["environment"]["processor"], results["environment"]["commit"],
        "95 %", "this split's and no line's", "## Use and misuse", "## Limits", "cc0-1.0",
    ):  # fmt: skip
        assert wanted in text
    assert "None" not in text.replace("None of", "")
    assert "\n\n\n" not in text


@pytest.mark.parametrize("kind", ["student", "adapter", "vlm", "cascade"])
def test_what_it_writes_may_be_pushed_and_its_snippet_runs(kind, own, folders, monkeypatch, capsys):
    folder = own(kind)
    check(folder)
    said = run_in(folder, snippet(folder), monkeypatch, capsys)
    wanted = {"student": "[Prediction(severity=", "adapter": "'defect': ", "vlm": "'good': ", "cascade": "defect, "}
    assert wanted[kind] in said


def test_a_student_s_snippet_needs_transformers_alone(cascade, monkeypatch, capsys):
    code = snippet(cascade / "edge")
    assert "hf_inspect" not in code
    assert "'label': 'good'" in run_in(cascade / "edge", code, monkeypatch, capsys)


def without(value: dict, *path: str) -> dict:
    """A copy of JSON content that lacks one key."""
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return copy


MISSING = [
    ("student", "edge"),
    ("student", "edge", "auroc"),
    ("student", "edge", "escapes", "high"),
    ("student", "edge", "speed", "in_batches"),
    ("adapter", "vlm", "overkill"),
    ("vlm", "vlm", "accuracy", "n"),
    ("cascade", "cascade", "saec"),
    ("cascade", "cascade", "certified", "vlm_calls"),
    ("cascade", "data", "evaluations_of_this_split"),
    ("cascade", "environment", "processor"),
]


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, *path in MISSING])
def test_a_missing_number_is_named_and_nothing_is_written(kind, path, own):
    folder = own(kind)
    files.write_json(folder / "results.json", without(files.read_json(folder / "results.json"), *path))
    (folder / "README.md").unlink()
    with pytest.raises((DataError, HubError), match=path[-1]):
        write_card(folder)
    assert not (folder / "README.md").exists()


def test_results_of_other_files_or_data_are_refused_by_name(own, folders):
    for kind, file in (("student", "openvino_model.bin"), ("adapter", "adapter_model.safetensors")):
        folder = own(kind)
        results = files.read_json(folder / "results.json")
        sha256 = results["inputs"]["models"][file]
        files.write_json(folder / "results.json", results | {"inputs": {"models": {file: sha256[::-1]}}})
        for step in (card_of, check):
            with pytest.raises(HubError, match=f"was measured on another {file} than the folder's"):
                step(folder)
        files.write_json(folder / "results.json", without(results, "inputs"))
        with pytest.raises(HubError, match=f"does not say that it was measured on {file}"):
            card_of(folder)
    folder = own("cascade")
    results = files.read_json(folder / "results.json")
    files.write_json(folder / "results.json", results | {"data": results["data"] | {"fingerprint": "0" * 64}})
    with pytest.raises(HubError, match=r"is of the data 000000000000, not of cascade\.json"):
        card_of(folder)
    other = {"inputs": {"models": without(results["inputs"]["models"], "adapter/adapter_model.safetensors")}}
    files.write_json(folder / "results.json", results | other)
    with pytest.raises(HubError, match=r"does not say that it was measured on adapter/adapter_model\.safetensors"):
        card_of(folder)


def test_push_refuses_a_card_whose_figures_are_missing_or_others(own):
    folder = own("student")
    path, value = folder / "README.md", files.read_json(folder / "results.json")["edge"]["accuracy"]["value"]
    text = path.read_text()
    assert f"value: {value}\n" in text
    path.write_text(text.replace(f"value: {value}\n", "value: 0.999\n"))
    with pytest.raises(HubError, match=rf"does not state the accuracy {value:.4f} of results.json; run"):
        check(folder)
    path.write_text(re.sub(r"model-index:\n.*?\n---", "---", text, flags=re.DOTALL))
    with pytest.raises(HubError, match="does not state the accuracy"):
        check(folder)
    path.write_text(text.replace("model-index:\n", "model-index:\n- nothing\n"))
    with pytest.raises(HubError, match="a model-index that cannot be read"):
        check(folder)
    path.write_text(text)
    (folder / "results.json").unlink()
    with pytest.raises(HubError, match=rf"states accuracy {value}, which is not in results.json beside it"):
        check(folder)


def test_a_part_s_card_is_checked_with_the_cascade(own):
    folder = own("cascade")
    path = folder / "edge" / "README.md"
    path.write_text(re.sub(r"value: [\d.]+\n", "value: 1.0\n", path.read_text()))
    with pytest.raises(HubError, match=r"edge/README\.md does not state the accuracy"):
        check(folder)


@pytest.mark.parametrize("kind", ["student", "adapter", "vlm"])
def test_a_model_that_was_just_trained_says_that_it_is_not_measured(kind, own, folders):
    folder = own(kind)
    (folder / "results.json").unlink()
    text = write_card(folder).read_text()
    assert "Not measured on a test split yet." in text
    assert "hf-inspect eval" in text
    assert ModelCard(text).data.eval_results is None
    check(folder)


def test_a_cascade_must_be_measured_one_without_a_vlm_too(own, data, tmp_path):
    folder = own("cascade")
    (folder / "results.json").unlink()
    with pytest.raises(HubError, match=r"was not measured; run 'hf-inspect eval cascade .*results\.json'"):
        card_of(folder)
    alone = brightness_cascade(tmp_path / "alone")
    results = evaluate_cascade(alone, data, "test", tmp_path / "scores.jsonl")
    files.write_json(alone / "results.json", results)
    text = write_card(alone).read_text()
    check(alone)
    assert "has no vision-language model" in text
    assert "the rest is undecided, for a person to look" in text
    stated = ModelCard(text).data.eval_results
    assert stated[0].metric_value == results["cascade"]["certified"]["accuracy"]["value"]


def test_a_cascade_of_pinned_parts_is_measured_by_what_they_hold(hub, data, tmp_path):
    folder = brightness_cascade(tmp_path / "cascade")
    results = evaluate_cascade(folder, data, "test", tmp_path / "scores.jsonl")
    edge = Path(shutil.move(folder / "edge", tmp_path / "edge"))
    files.write_text(edge / "README.md", "---\nlicense: cc0-1.0\n---\n")
    push(edge, "acme/edge", show=lambda text: None)
    pinned = {"hub": "acme/edge", "revision": hub.repos["models", "acme/edge"].refs["main"]}
    files.write_json(folder / "cascade.json", files.read_json(folder / "cascade.json") | {"edge": pinned})
    files.write_json(folder / "results.json", results)
    assert ModelCard(write_card(folder).read_text()).data.base_model == ["acme/edge"]
    push(folder, "acme/cascade", show=lambda text: None)
    assert "results.json" in hub.files("models", "acme/cascade")
    files.write_json(folder / "results.json", results | {"inputs": {"models": {"openvino_model.bin": "0" * 64}}})
    with pytest.raises(HubError, match=r"was measured on another openvino_model\.bin"):
        push(folder, "acme/cascade")


def test_what_only_a_human_knows_is_added_to_the_letter(own):
    folder = own("adapter")
    notes = "## What we tried\n\nTwo lamps; $x < 3$ and {% nothing %}.\n\n\n    kept   as it is"
    files.write_text(folder / "notes.md", f"---\ntags: [lamps]\nbase_model: acme/base\nlicense: mit\n---\n\n{notes}\n")
    text = write_card(folder).read_text()
    assert f"\n\n{notes}\n\n## Licence\n" in text
    head = ModelCard(text).data
    assert head.tags[-1] == "lamps"
    assert head.base_model == "acme/base"
    assert head.license == "cc0-1.0"
    assert "notes.md" in check(folder)


def test_a_base_of_others_needs_a_licence_in_the_notes(tmp_path):
    folder = tiny.tiny.tiny_base(tmp_path / "base")
    with pytest.raises(HubError, match=r"write `license: \.\.\.` between --- lines at the head of notes"):
        write_card(folder)
    files.write_text(folder / "notes.md", "---\nlicense: apache-2.0\n---\n")
    text = write_card(folder).read_text()
    assert "license: apache-2.0" in text
    assert set(check(folder)) >= {"README.md", "notes.md", "model.safetensors"}


def test_several_licences_hold_at_once():
    stated = {"trained_on.json": "CC-BY-NC-4.0", "inspect.json": "CC-BY-NC-4.0 AND AGPL-3.0"}
    refuse_wider("cc-by-nc-4.0 AND agpl-3.0", stated)
    for narrower in ("cc-by-nc-4.0", "agpl-3.0", "apache-2.0"):
        with pytest.raises(HubError, match=f"says {narrower}, but .*copyleft|says {narrower}, but .*non-commercial"):
            refuse_wider(narrower, stated)
    refuse_wider("acme-internal", {"trained_on.json": "acme-internal"})
    with pytest.raises(HubError, match="what acme-internal permits is not known here"):
        refuse_wider("cc0-1.0", {"trained_on.json": "acme-internal"})


def test_a_data_set_s_card_is_the_one_it_was_built_with(data, tmp_path, monkeypatch, capsys):
    (tmp_path / "questions.yaml").write_text(QUESTIONS)
    chatted = tmp_path / "chat"
    chat(data, chatted, tmp_path / "questions.yaml")
    for built in (Path(shutil.copytree(data, tmp_path / "data")), chatted):
        kept = (built / "README.md").read_text()
        assert write_card(built).read_text() == kept
        assert "num_rows: " in run_in(built, snippet(built), monkeypatch, capsys)
        (built / "part.png").unlink()
        files.write_text(built / "notes.md", "## Lamps\n\nTwo.\n")
        assert "\n\n## Lamps\n\nTwo.\n\n" in write_card(built).read_text()
        check(built)
    manifest = read_manifest(data)
    del manifest["task"]
    files.write_json(tmp_path / "data" / "manifest.json", manifest)
    with pytest.raises(DataError, match="built before its manifest held what a card needs; build it again"):
        write_card(tmp_path / "data")


def test_a_space_writes_its_own(tmp_path):
    (tmp_path / "app.py").write_text("")
    with pytest.raises(HubError, match=r"is a Space, whose README\.md is written by hand"):
        write_card(tmp_path)


def test_a_cascade_that_was_scripted_needs_no_calibration_record(tmp_path, data):
    folder = brightness_cascade(tmp_path / "cascade")
    files.write_json(folder / "results.json", evaluate_cascade(folder, data, "test", tmp_path / "scores.jsonl"))
    write_card(folder)
    check(folder)


ODD = ("good|ok", "crack_1", "*dent* <b>", "[stain](x) `y`")  # what a folder may be called


@pytest.fixture(scope="module")
def of_four(tmp_path_factory) -> Path:
    """A measured edge of four classes with odd names, two of them good, whose card is not written yet."""
    root, task = tmp_path_factory.mktemp("four"), TaskSpec.of((ODD[1], ODD[0], ODD[3], ODD[2]), good=[ODD[0], ODD[3]])
    raw.classes(root / "raw", dict.fromkeys(ODD, 30))
    data = root / "data"
    build("folder", data, src=root / "raw", options={"license": "cc0-1.0", "good": f"{ODD[0]},{ODD[3]}"})
    folder = brightness_engine(root / "edge", task=task)
    info = files.read_json(folder / "inspect.json")
    files.write_json(folder / "inspect.json", info | {"architecture": "brightness", "weights": "fp32"})
    files.write_json(folder / "results.json", evaluate_edge(folder, data, "test", root / "scores.jsonl"))
    return folder


def test_a_card_of_many_classes_states_macro_f1_each_class_and_which_are_good(of_four, tmp_path):
    folder = Path(shutil.copytree(of_four, tmp_path / "edge"))
    files.write_bytes(folder / "plots" / "confusion.png", png(np.zeros((4, 4), np.uint8)))
    text, results = write_card(folder).read_text(), files.read_json(folder / "results.json")
    stated = {(one.metric_type, one.metric_name): one.metric_value for one in ModelCard(text).data.eval_results}
    edge = results["edge"]
    assert stated == {
        ("accuracy", "accuracy"): edge["accuracy"]["value"], ("f1", "macro F1"): edge["macro_f1"]["value"],
        ("roc_auc", "AUROC"): edge["auroc"]["value"], ("escape_rate", "escape rate"): edge["escapes"]["value"],
        ("overkill_rate", "overkill rate"): edge["overkill"]["value"],
    }  # fmt: skip
    assert "Says which of 4 classes one image is of." in text
    assert "It knows 4 classes" in text
    assert "](plots/confusion.png)" in text
    for name in ODD:
        recall = edge["classes"][name]["recall"]
        (row,) = [line for line in text.splitlines() if line.startswith("| ") and f"{recall['k']} of {recall['n']}" in
                  line and rendered(line.split(" | ")[0].removeprefix("| ")) == name]  # fmt: skip
        assert len(re.findall(r"(?<!\\)\|", row)) == 4  # three cells, whatever a name holds
    good, defects = re.search(r"Good: (.*)\. Defects: (.*)\.\n", text).groups()
    assert {rendered(one) for one in good.split(", ")} == {ODD[0], ODD[3]}
    assert {rendered(one) for one in defects.split(", ")} == {ODD[1], ODD[2]}
    check(folder)


def rendered(markdown: str) -> str:
    """A text whose markup is all escaped, as a reader sees it."""
    assert not re.search(r"(?<!\\)[`*_\[\]<>|]", markdown)
    return re.sub(r"\\(.)", r"\1", markdown)


def test_two_classes_have_no_macro_f1(own):
    names = [one.metric_name for one in ModelCard((own("student") / "README.md").read_text()).data.eval_results]
    assert names == ["accuracy", "AUROC", "escape rate", "overkill rate"]


def test_figures_of_another_task_are_refused_with_both_printed(of_four, tmp_path):
    folder = Path(shutil.copytree(of_four, tmp_path / "edge"))
    results = files.read_json(folder / "results.json")
    classes = [one | {"disposition": "defect" if one["disposition"] == "good" else "good"}
               for one in results["task"]["classes"]]  # fmt: skip
    files.write_json(folder / "results.json", results | {"task": results["task"] | {"classes": classes}})
    with pytest.raises(DataError, match=r"answer different questions(.|\n)*results\.json(.|\n)*crack_1 \(good\)"):
        card_of(folder)
    files.write_json(folder / "results.json", without(results, "task"))
    with pytest.raises(DataError, match=r"results\.json does not say which classes there are"):
        card_of(folder)


def test_every_ancestor_is_named_with_its_licence_and_the_unknown_ones_too(of_four, tmp_path):
    folder = Path(shutil.copytree(of_four, tmp_path / "edge"))
    (folder / "results.json").unlink()
    parent = Source("cells", "a" * 64, "CC-BY-NC-4.0", 88)
    seen = History((Source("parts", "b" * 64, "CC0-1.0", 120), parent), unknown=("somebody/s_weights",))
    files.write_json(folder / "trained_on.json", seen.to_dict())
    info = files.read_json(folder / "inspect.json")
    info["files"]["trained_on.json"] = files.sha256(folder / "trained_on.json")
    files.write_json(folder / "inspect.json", info)
    text = write_card(folder).read_text()
    head = ModelCard(text).data
    assert (head.license, head.license_name) == ("other", "cc0-1.0-and-cc-by-nc-4.0")
    assert "- 120 images of parts (fingerprint `bbbbbbbbbbbb`, CC0-1.0)" in text
    assert "- 88 images of cells (fingerprint `aaaaaaaaaaaa`, CC-BY-NC-4.0)" in text
    assert "What somebody/s\\_weights was trained on is not recorded." in text
    assert "**Non-commercial**: whoever uses it" in text
    assert "- images: CC0-1.0 AND CC-BY-NC-4.0" in text
    check(folder)
    (folder / "README.md").write_text(text.replace("license: other", "license: cc0-1.0"))
    with pytest.raises(HubError, match=r"the card says cc0-1\.0, but trained_on\.json is .*: non-commercial"):
        check(folder)


def test_a_cascade_s_card_holds_what_all_of_its_parts_saw(own):
    text = (own("cascade") / "README.md").read_text()
    edge = files.read_json(tiny_edge.exported(False) / "trained_on.json")["sources"]
    for source in (*edge, *(vars_of(one) for one in HISTORY.sources)):
        assert f"- {source['images']} images of {source['name']} (fingerprint `{source['fingerprint'][:12]}`" in text


def vars_of(source: Source) -> dict:
    return {name: getattr(source, name) for name in ("name", "fingerprint", "images")}


def test_a_cascade_with_a_base_out_of_packages_is_bundled_whole(folders, tmp_path, monkeypatch):
    stated = files.read_json(folders["cascade"] / "cascade.json")
    assert stated["vlm"] == {"base": {"packaged": "tiny-base"}, "adapter": {"folder": "adapter"}}
    assert {"base/config.json", "base/model.safetensors"} <= set(stated["files"])
    assert not (folders["cascade"] / "base").exists()
    bundle(folders["cascade"], tmp_path / "bundle")
    inside = files.read_json(tmp_path / "bundle" / "cascade.json")
    assert inside["vlm"]["base"] == {"folder": "base"}
    assert inside["files"] == stated["files"]
    assert inside["from"] == {"base": "tiny-base"}
    assert verify(tmp_path / "bundle") == []
    part = png(tiny_edge.cell(True, np.random.default_rng(0)))
    there, here = (Inspector.from_pretrained(folder)(part) for folder in (tmp_path / "bundle", folders["cascade"]))
    assert (there.label, there.severity, there.class_name) == (here.label, here.severity, here.class_name)


def test_a_cascade_of_many_classes_tells_of_each_what_its_models_do(of_four, tmp_path):
    task = TaskSpec.of((ODD[2], ODD[0], ODD[1], ODD[3]), good=[ODD[0], ODD[3]])
    folder = brightness_cascade(tmp_path / "cascade", task)
    data = of_four.parent / "data"
    results = evaluate_cascade(folder, data, "test", tmp_path / "scores.jsonl")
    files.write_json(folder / "results.json", results)
    text = write_card(folder).read_text()
    check(folder)
    assert "Class by class, the edge alone:" in text
    assert "vision-language model alone" not in text
    assert len([line for line in text.splitlines() if re.match(r"\| .* \| \d+\.\d% .* of \d+", line)]) == len(ODD)
    names = {one.metric_name for one in ModelCard(text).data.eval_results}
    assert names == {f"{name}, policy {policy}" for name in ("accuracy", "escape rate", "overkill rate")
                     for policy in ("certified", "saec")}  # fmt: skip
