"""Every command and snippet of every README: run here on tiny models, or in a table with the file that runs it."""

import io
import json
import re
import runpy
import shlex
import subprocess
import sys
import tarfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from hf_inspect import demo, files
from hf_inspect.cascade import parts_needed
from hf_inspect.cli import app
from hf_inspect.data import default_questions
from hf_inspect.schema import TaskSpec
from hf_inspect.scoring import read_rows
from tests import raw
from tests.hub import ORGANISATION
from tests.test_solar import COUNTS

ROOT = Path(__file__).parent.parent
READMES = (
    "README.md", "dataset_scripts/README.md", "recipes/README.md", "model_cards/README.md", "hf_inspect/hub/README.md",
    "spaces/README.md",
)  # fmt: skip
PHOTOS = {"ok": (60, 255, 60), "crack": (255, 60, 60), "dent": (60, 60, 255)}  # class folders, and their tints
EACH = 250  # photos a class: 72 defects and 36 good ones for calibration, and some
SMALL = {"demo-base": "tiny-base"}  # what a command is run with in place of what takes minutes


def launched(stage: str, config: str) -> str:
    return f"accelerate launch recipes/{stage}/train.py --config recipes/{stage}/{config}.yaml"


# Commands that are not run here -> the file that runs them, or as much of them as a machine without a GPU can, and what
# must stand in it. Besides, it must name the command's verbs and options.
TABLED = "tests/test_recipe_families.py", 'RECIPES.glob("*.yaml")'  # true size: settings read, and held against tables
ELSEWHERE = {
    "make demo": ("Makefile", "demo: $(READY)"),
    "make test": (".ci/run", "make test"),
    "make space": ("Makefile", "space: $(READY)"),
    ". .venv/bin/activate": ("Makefile", "$(PYTHON) -m venv .venv"),
    'pip install "hf_inspect-0.1.0-py3-none-any.whl[edge]"': ("Makefile", "$$(ls dist/*.whl)[edge]"),
    "HF_INSPECT_CASCADE=outputs/cascade python spaces/cascade/app.py": ("tests/space.py", '"HF_INSPECT_CASCADE"'),
    "hf-inspect push spaces/cascade org/space --public": (
        "tests/test_space.py", '["push", str(space), "acme/space", "--public"]',
    ),
    "hf-inspect data build elpv --accept-license --out outputs/data/elpv": ("tests/conftest.py", 'build("elpv"'),
    "hf-inspect data ground outputs/data/coco --family qwen2_5_vl --side 768 --language en --out outputs/rows": (
        "tests/test_data_ground.py", '["data", "ground", str(src), "--out"',
    ),
    "hf-inspect data validate outputs/rows/train.jsonl --images outputs/rows": (
        "tests/test_data_ground.py", '["data", "validate", str(rows / "train.jsonl"), "--images", str(rows)]',
    ),
    "hf-inspect data pool outputs/data/coco --size 10 --seed 42 --sheet outputs/pool.png --out outputs/pool": (
        "tests/test_pool.py", '"data", "pool", built',
    ),
    "hf-inspect data split outputs/fixed.json --split train:0.7,val:0.15,test:0.15 --group-by '(.+)\\.rf\\.' --seed 42 "
    "--out outputs/coco_parts": (
        "tests/test_coco_split.py", 'words = ["data", "split", str(path), "--split", ',
    ),
    "hf-inspect data build solar_panels --download --accept-license --out outputs/data/solar_panels": (
        "tests/test_solar.py", '{"download": True}',
    ),
    launched("edge_classifier", "tiny"): ("tests/test_recipe_edge.py", '"recipes/edge_classifier/tiny.yaml"'),
    launched("edge_classifier", "tiny_yolo"): ("tests/test_yolo.py", '"recipes/edge_classifier/tiny_yolo.yaml"'),
    launched("anomaly", "tiny"): ("tests/test_anomaly_recipe.py", '"recipes/anomaly/tiny.yaml"'),
    **{
        launched("anomaly", name): ("tests/test_anomaly_recipe.py", 'RECIPES.glob("*.yaml")')
        for name in ("elpv", "elpv_simsiam", "elpv_cutpaste", "mvtec")  # true size: settings read
    },
    "python recipes/anomaly/few_shot.py --config recipes/anomaly/elpv_few_shot.yaml": (
        "tests/test_anomaly_pretext.py", '"recipes/anomaly/elpv_few_shot.yaml"',
    ),
    "hf-inspect eval anomaly outputs/anomaly/mvtec_ad --data outputs/data/mvtec_ad --out outputs/anomaly/mvtec_ad.json "
    "--plot outputs/anomaly/curves.png --sheet outputs/anomaly/maps.png": (
        "tests/test_anomaly_eval.py", '"--plot", plot, "--sheet", sheet',
    ),
    "hf-inspect export outputs/anomaly/mvtec_ad/grid --calibrate outputs/data/mvtec_ad --category grid "
    "--out outputs/anomaly/edge": ("tests/test_anomaly_export.py", '"--calibrate", str(data), "--category", "grid"'),
    "hf-inspect eval detect outputs/detector --data outputs/data/own --out outputs/detector/results.json "
    "--plot outputs/detector/plots/found.png --sheet outputs/detector/plots/worst.png": (
        "tests/test_eval_detect.py", '"--plot", plot, "--sheet", sheet',
    ),
    "hf-inspect eval ground demo-base --adapter outputs/ground --data outputs/data/own "
    "--out outputs/ground/results.json --exemplars outputs/pool/pool.jsonl --num 2 --nearest --match taxonomy "
    "--plot outputs/ground/plots/found.png": (
        "tests/test_eval_ground.py", '"--exemplars", pool',
    ),
    **{
        f"hf-inspect eval ground {base}outputs/tiny/ground_{name} --data outputs/data/parts --max-new-tokens 16 "
        f"--out outputs/tiny/{name}_{how}.json{more}": (
            "tests/test_recipe_ground.py", 'startswith(("hf-inspect eval ground tiny-',
        )
        for name, base in (
            ("qwen2_5_vl", "tiny-qwen2_5_vl --adapter "), ("qwen3_vl", ""), ("smolvlm", "tiny-smolvlm --adapter "),
        )
        for how, more in (("standard", ""), ("guided", " --exemplars outputs/pool/parts --num 1"))
    },
    "hf-inspect eval ground --answers answers.jsonl --data outputs/data/own --out outputs/answers.json "
    "--match semantic --semantic-threshold 0.7 --responses outputs/found.json --metrics outputs/figures.json": (
        "tests/test_eval_ground.py", '"--answers", path, "--frame", frame',
    ),
    "hf-inspect browse outputs/detector/results.json --port 7861": ("tests/test_browse.py", '["browse", results[0]'),
    "hf-inspect data build coco --src wagon/fixed.json --good '' --group-rule '(.+)\\.rf\\.' --shares 60/20/0/20 "
    "--out outputs/data/wagon": ("tests/test_detectors.py", '"coco", "--src"'),
    launched("edge_detector", "tiny"): ("tests/test_detectors.py", '"recipes/edge_detector/tiny.yaml"'),
    launched("edge_detector", "wagon"): ("tests/test_detectors.py", '"recipes/edge_detector/wagon.yaml"'),
    **{
        f"accelerate launch recipes/edge_detector/train.py --config recipes/distill/{name}.yaml": (
            "tests/test_distill.py", f'"recipes/distill/{name}.yaml"',
        )
        for name in ("tiny", "wagon")
    },
    "python recipes/distill/ablation.py --config recipes/distill/ablation.yaml": (
        "tests/test_distill.py", '"recipes/distill/ablation.yaml"',
    ),
    "hf-inspect export outputs/wagon --calibrate outputs/data/wagon --int8 --out outputs/wagon_edge": (
        "tests/test_detectors.py", '"--calibrate", str(data), "--int8"',
    ),
    "hf-inspect predict outputs/wagon_edge line.mp4 --every 0.5s --out outputs/rows.jsonl --maps outputs/maps": (
        "tests/test_predict_sources.py", 'predicted(edge, path, pictures[0], "--maps", maps, "--out", out)',
    ),
    "hf-inspect predict outputs/wagon_edge 'wagon/images/*.jpg' --coco outputs/found.json "
    "--coco-ids wagon/fixed.json": (
        "tests/test_coco_results.py", '"--coco", out, "--coco-ids"',
    ),
    "hf-inspect export outputs/wagon --calibrate outputs/data/wagon --to onnx --out outputs/wagon_onnx": (
        "tests/test_formats.py", '"--to", to, "--calibrate", str(data), "--out"',
    ),
    "hf-inspect eval formats outputs/wagon_edge outputs/wagon_onnx --data outputs/data/wagon "
    "--out outputs/formats.json --plot outputs/formats.png": (
        "tests/test_formats.py", '"--threads", "1", "--plot", str(plot)',
    ),
    launched("teacher_lora", "tiny"): ("tests/test_teachers.py", '"recipes/teacher_lora/tiny.yaml"'),
    f"{launched('teacher_lora', 'teacher')} --lora.r 32": (
        "tests/test_teachers.py", '"recipes/teacher_lora/teacher.yaml"',
    ),
    "hf-inspect label outputs/data/coco --teacher outputs/teacher --out outputs/labels --precision 0.9 --recall 0.8": (
        "tests/test_teachers.py", '["label", str(data), "--teacher"',
    ),
    launched("vlm_sft", "tiny"): ("tests/test_recipe_vlm.py", '"recipes/vlm_sft/tiny.yaml"'),
    **{
        launched("vlm_sft", f"tiny_{family}"): ("tests/test_recipe_families.py", "tiny_{request.param}.yaml")
        for family in ("qwen2_5_vl", "qwen3_vl", "smolvlm", "llava")
    },
    "python recipes/vlm_ground/parts.py outputs/raw/parts --images 4000": (
        "tests/test_recipe_ground.py", '"recipes/vlm_ground/parts.py", tmp_path / "raw", "--images"',
    ),
    "hf-inspect data build coco --src outputs/raw/parts --license cc0-1.0 --near off --shares 70/10/10/10 "
    "--out outputs/data/parts": ("tests/test_recipe_ground.py", '["data", "build", "coco", "--src", '),
    "hf-inspect data pool outputs/data/parts --out outputs/pool/parts --size 10 --seed 42": (
        "tests/test_pool.py", '["data", "pool", ',
    ),
    **{
        launched("vlm_ground", f"tiny_{family}"): ("tests/test_recipe_ground.py", "recipes/vlm_ground/tiny_{name}.yaml")
        for family in ("qwen2_5_vl", "qwen3_vl", "smolvlm")
    },
    "hf-inspect eval ground outputs/ground_eyes --data outputs/data/parts --out outputs/eyes/results.json --by head "
    "--plot outputs/eyes/found.png --sheet outputs/eyes/sheet.png": ("tests/test_eval_ground.py", '"--by", "head"'),
    **{
        f"hf-inspect eval ground outputs/ground_demo --data outputs/data/parts --out outputs/{more}": (
            "tests/test_recipe_ground.py", "--by text",
        )
        for more in (
            "words/results.json --by text",
            "guided/results.json --by text --exemplars outputs/pool/parts --num 1",
        )
    },
    **{
        launched("vlm_ground", name): ("tests/test_recipe_ground.py", 'RECIPES.glob("*.yaml")')  # settings read
        for name in ("demo_eyes", "demo")
    },
    **{
        f"accelerate launch --config_file recipes/accelerate/{how}.yaml recipes/vlm_ground/train.py --config "
        "recipes/vlm_ground/qwen2_5_vl_3b.yaml": ("tests/test_recipe_ground.py", "--config_file recipes/accelerate/")
        for how in ("zero2", "fsdp")
    },
    launched("vlm_sft", "tiny_qlora"): ("tests/test_recipe_families.py", "tiny_qlora"),
    **{
        launched("vlm_sft", name): TABLED
        for name in (
            "elpv", "smolvlm_256m_solar", "smolvlm_256m_solar_lora", "qwen2_5_vl_3b", "qwen2_5_vl_7b_mvtec_qlora",
            "llava_1_5_7b",
        )
    },
    "accelerate launch --config_file recipes/accelerate/multi_cpu.yaml recipes/vlm_sft/train.py "
    "--config recipes/vlm_sft/tiny_smolvlm.yaml --use_cpu true": (
        "tests/test_recipe_families.py", "recipes/accelerate/multi_cpu.yaml",
    ),
    "python recipes/own_parts/run.py photos --good ok --out outputs/own": (
        "tests/test_recipe_own.py", '"recipes/own_parts/run.py"',
    ),
    "hf-inspect serve outputs/cascade --host 0.0.0.0": ("tests/test_remote.py", '["serve", str(cascade), "--host"'),
    "hf-inspect serve outputs/cascade --port 8100": ("tests/test_remote.py", '["serve", str(cascade), "--port"'),
    "hf-inspect calibrate --edge outputs/edge --base outputs/ground_demo --exemplars outputs/pool/parts --num 1 "
    "--data outputs/data/parts --out outputs/guided": (
        "tests/test_grounded_served.py", '"--adapter", made / "adapter", "--exemplars"',
    ),
    "hf-inspect serve outputs/vlm_ground/parts --exemplars outputs/pool/pool.jsonl --num 2": (
        "tests/test_grounded_served.py", '["serve", str(adapter), "--base", str(base), "--exemplars"',
    ),
    "hf-inspect predict outputs/cascade camera --vlm http://10.0.0.5:8100 --deadline 2": (
        "tests/test_remote.py", '"--vlm", bright, "--deadline", "20"',
    ),
    "hf-inspect predict outputs/cascade camera --vlm https://vlm.plant:8100 --deadline 2 --jpeg 95": (
        "tests/test_remote.py", '"--vlm", bright, "--deadline", "20"',
    ),
    "hf-inspect eval wire http://10.0.0.5:8100 --data outputs/data/parts --jpeg 95 --out outputs/wire.json": (
        "tests/test_remote.py", '["eval", "wire", url, "--data"',
    ),
    "hf-inspect calibrate --edge outputs/edge --vlm http://10.0.0.5:8100 --data outputs/data/parts --out outputs/far": (
        "tests/test_served.py", '"--vlm", url, "--data"',
    ),
    "hf-inspect calibrate --edge outputs/anomaly/edge --data outputs/data/own --out outputs/cascade": (
        "tests/test_anomaly_cascade.py", '"calibrate", "--edge", edge, "--data", data, "--out"',
    ),
    "hf-inspect predict outputs/cascade camera --out outputs/verdicts.jsonl --maps outputs/maps": (
        "tests/test_maps.py", '["predict", str(cascade), str(parts), "--out", str(out), "--maps"',
    ),
    "USER_CONSENT=y docker compose up --build": ("tests/test_docker.py", 'UP = "USER_CONSENT=y docker compose'),
    "docker compose logs fit --follow": ("tests/test_docker.py", '"docker compose logs fit --follow"'),
    "docker compose down": ("tests/test_docker.py", '"docker compose down"'),
    "python recipes/saec/run.py --config recipes/saec/tiny.yaml": (
        "tests/test_recipe_saec.py", '"recipes/saec/tiny.yaml"',
    ),
}  # fmt: skip


def text_of(readme: str) -> str:
    return (ROOT / readme).read_text()


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(readme), re.DOTALL | re.MULTILINE)


def commands(readme: str) -> list[str]:
    """Each command of the bash blocks on one line, without its comment."""
    lines = "".join(blocks(readme, "bash")).replace("\\\n", " ").splitlines()
    plain = (re.sub(r"\s+#.*", "", line) for line in lines)
    return [" ".join(line.split()) for line in plain if line.strip()]


def run(command: str) -> str:
    """What a command prints, run in the current folder, in this process: others than ours are a mistake.

    A recipe is run as `accelerate launch` would on one CPU; that it does is tested where ELSEWHERE says.
    """
    words = [re.sub("^org/", f"{ORGANISATION}/", SMALL.get(word, word)) for word in shlex.split(command)]
    if words[:2] == ["accelerate", "launch"]:
        return train(words[2:])
    assert words[0] == "hf-inspect", f"{command}: run it here, or name in ELSEWHERE what does"
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"
    return done.output


def train(words: list[str]) -> str:
    """What a recipe prints; its script and its arguments are `words`."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", words)
        runpy.run_path(words[0], run_name="__main__")
    return printed.getvalue()


def photo(tint: tuple[int, int, int], rng: np.random.Generator) -> Image.Image:
    """A smooth random picture (48, 40) in a class's tint, like no other."""
    coarse = Image.fromarray(rng.integers(60, 256, (8, 8), np.uint8))
    grey = np.asarray(coarse.resize((48, 40), Image.Resampling.BICUBIC), float)
    return Image.fromarray((grey[:, :, None] * tint / 255).astype(np.uint8))


def small_settings(stage: str, **changed: object) -> str:
    """tiny.yaml of a recipe with some settings changed."""
    return yaml.safe_dump(yaml.safe_load((ROOT / "recipes" / stage / "tiny.yaml").read_text()) | changed)


def coco(folder: Path, rng: np.random.Generator) -> None:
    """60 images, every other with a box."""
    folder.mkdir()
    listed = [{"id": i, "file_name": f"{i}.png", "width": 48, "height": 40} for i in range(60)]
    for entry in listed:
        photo((255, 255, 255), rng).save(folder / entry["file_name"])
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [4, 4, 9, 9]} for i in range(0, 60, 2)]
    content = {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "dent"}]}
    (folder / "annotations.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder that the READMEs speak of: photos, raw data sets, and the recipes with small settings."""
    folder, rng = tmp_path_factory.mktemp("readme"), np.random.default_rng(0)
    for name, tint in PHOTOS.items():
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(EACH):
            photo(tint, rng).save(folder / "photos" / name / f"{i:04}.png")
    (folder / "camera").mkdir()
    photo(PHOTOS["crack"], rng).save(folder / "camera" / "0007.png")
    coco(folder / "export", rng)
    raw.classes(folder / "solar_raw", dict.fromkeys(COUNTS, 12), suffix=".jpg")
    raw.ksdd2(folder / "KSDD2_raw", {"train": (120, 70), "test": (80, 50)})
    raw.mvtec(folder / "mvtec" / "mvtec", {name: (30, 12, {"hole": 16, "print": 12}) for name in ("tile", "wood")})
    with tarfile.open(folder / "mvtec_raw.tar.xz", "w:xz") as archive:
        archive.add(folder / "mvtec" / "mvtec", "mvtec")
    (folder / "questions.yaml").write_text(blocks("dataset_scripts/README.md", "yaml")[0])
    for stage, changed in (("edge_classifier", {"max_rows": None, "num_train_epochs": 4}), ("vlm_sft", {})):
        (folder / "recipes" / stage).mkdir(parents=True)
        (folder / "recipes" / stage / "train.py").symlink_to(ROOT / "recipes" / stage / "train.py")
        (folder / "recipes" / stage / "elpv.yaml").write_text(small_settings(stage, **changed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_INSPECT_CACHE", str(folder / "cache"))
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield folder


@pytest.fixture(scope="module")
def made(place):
    """What README.md's commands print, by command, those that push apart."""
    wanted = [one for one in commands("README.md") if one not in ELSEWHERE and "org/" not in one]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return {command: run(command) for command in wanted}


@pytest.fixture
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


# From photos to a cascade.


def test_the_readme_opens_with_a_pitch_two_commands_and_a_picture():
    pitch, first, then = text_of("README.md").split("```")[:3]
    assert pitch.startswith("# hf_inspect\n\n")
    assert 20 < len(pitch.split()) < 80
    assert [line.split("#")[0].strip() for line in first.splitlines()[1:]] == ["make demo", "make test"]
    picture = re.match(r"\n\n!\[[^]]+\]\(([^)]+)\)", then)
    assert (ROOT / picture[1]).is_file()
    way = blocks("README.md", "bash")[1].splitlines()
    assert len(way) <= 24, "it fits on one screen"
    assert [line for line in way if line.startswith("hf-inspect data build")] == way[2:3]


def test_its_way_from_photos_makes_a_cascade_of_three_classes_that_inspects(made, inside):
    task = {name: "good" if name == "ok" else "defect" for name in PHOTOS}
    stated = files.read_json(inside / "outputs/cascade/cascade.json")
    assert {one["name"]: one["disposition"] for one in stated["task"]["classes"]} == task
    assert stated["version"] == 3
    assert stated["vlm"] == {"base": {"packaged": "tiny-base"}, "adapter": {"folder": "adapter"}}
    assert {name.partition("/")[0] for name in stated["files"]} == {"edge", "base", "adapter", "calibration.jsonl"}
    limits = stated["policies"]["certified"]["limits"]
    assert limits["low"] is not None, "the README's number of defects is too small"
    assert limits["high"] is not None, "the README's number of good parts is too small"
    results = files.read_json(inside / "outputs/cascade/results.json")
    assert results["edge"]["accuracy"]["value"] > 0.9
    assert set(results["edge"]["classes"]) == set(task)
    [row] = read_rows(inside / "outputs/verdicts.jsonl")
    assert (row["label"], row["class"] in task) == ("defect", True) or row["decided_by"] in ("both", "rule")
    again = next(command for command in made if command.startswith("hf-inspect predict"))
    assert "1 inspected" in run(again)
    assert read_rows(inside / "outputs/verdicts.jsonl") == [row]
    assert default_questions(TaskSpec.of(sorted(task), ["ok"])).direct in text_of("dataset_scripts/README.md")


def test_its_snippet_prints_a_verdict_as_it_says(made, inside):
    [code] = blocks("README.md", "python")
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code, {})
    said = printed.getvalue().splitlines()[0]
    form = r"(good|defect|undecided)(: (crack|dent|ok))?, (0\.\d\d|1\.00)"
    assert re.fullmatch(form, said), said
    assert re.fullmatch(form, "defect: crack, 0.83")


def test_without_a_base_and_an_adapter_the_edge_decides_alone(made, inside):
    [command] = (command for command in made if command.startswith("hf-inspect calibrate"))
    alone = re.sub(r"--(base|adapter) \S+ ", "", command).replace("outputs/cascade", "outputs/alone")
    run(alone)
    assert files.read_json(inside / "outputs/alone/cascade.json")["vlm"] is None
    run("hf-inspect predict outputs/alone camera --out outputs/alone.jsonl")
    assert {row["decided_by"] for row in read_rows(inside / "outputs/alone.jsonl")} <= {"edge", "rule"}


def test_what_it_says_of_numbers_is_so():
    text, results = text_of("README.md"), files.read_json(demo.assets() / "results.json")
    miss = (1 - 0.95) / 2
    assert (parts_needed(0.05, miss), parts_needed(0.10, miss)) == (72, 36)
    assert re.search(r"must hold 72\s+defects and 36 good parts", text)
    assert f"({results['data']['evaluations_of_this_split']} in results.json" in text
    said, edge = " ".join(text.split()), results["fewer_undecided"]["edge"]
    points = [f"{100 * edge[key]:.1f}" for key in ("value", "low", "high")]
    assert (
        f"{points[0]} points fewer cells stay undecided than with the edge alone ({points[1]} to {points[2]})" in said
    )
    less = 100 * results["fewer_undecided"]["vlm"]["value"]
    assert f"the VLM by itself would have left {-less:.0f} points fewer than both together" in said
    for promised, measured in (("escape", "escapes"), ("overkill", "overkill")):
        assert results["cascade"]["certified"][measured]["high"] <= results["promise"][promised]
    assert "Both rates lie within what was promised" in said


# The others, and what is run elsewhere.


@pytest.mark.parametrize("readme", READMES)
def test_the_other_commands_of_each_run(readme, made, hub, inside):
    """In their order, those of README.md that were run for `made` apart. What pushes finds a Hub on loopback."""
    for command in commands(readme):
        if command not in ELSEWHERE and (readme != "README.md" or command not in made):
            run(command)


def test_what_was_pushed_is_loaded_as_the_hub_s_readme_says(made, hub, inside):
    for name in ("student", "cascade", "data/parts"):
        run(f"hf-inspect push outputs/{name} org/{Path(name).name}")
    [code] = (block.replace('"org/', f'"{ORGANISATION}/') for block in blocks("hf_inspect/hub/README.md", "python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=inside, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    columns, classes, verdict = done.stdout.splitlines()
    assert "class_name" in columns
    assert set(PHOTOS) == set(eval(classes).values())
    assert verdict.startswith(("good", "defect"))


def test_what_is_said_to_run_elsewhere_stands_there():
    every = [command for readme in READMES for command in commands(readme)]
    assert set(ELSEWHERE) <= set(every), "the table names commands that no README has"
    for command, (name, evidence) in ELSEWHERE.items():
        text = (ROOT / name).read_text()
        assert evidence in text, f"{command}: {name} does not hold {evidence!r}"
        words = shlex.split(command)
        options = {word.removeprefix("--").split("=")[0] for word in words if word.startswith("--")} - {"out"}
        verbs = {word for word in words[1:3] if words[0] == "hf-inspect" and word.isalpha()} - {"data"}
        for word in verbs | options:
            assert re.search(rf"\b{re.sub('[-_]', '[-_]', word)}\b", text), f"{name} does not name {word} of {command}"


def test_only_few_commands_are_left_to_others():
    every = {command for readme in READMES for command in commands(readme)}
    assert len(every - set(ELSEWHERE)) >= 30
    fences = [line for readme in READMES for line in text_of(readme).splitlines() if line.startswith("```")]
    languages = {line.removeprefix("```") for line in fences[::2]}
    assert languages <= {"bash", "python", "yaml"}, "a block of another kind is run by nothing"
    snippets = {readme: len(found) for readme in READMES if (found := blocks(readme, "python"))}
    assert snippets == {"README.md": 1, "hf_inspect/hub/README.md": 1, "model_cards/README.md": 1}


@pytest.mark.parametrize("readme", READMES)
def test_what_it_links_to_is_there(readme):
    text = text_of(readme)
    for link in re.findall(r'\]\((?!http)([^)#]+)[^)]*\)|src="([^"]+)"', text):
        path = (ROOT / readme).parent / "".join(link)
        assert path.exists(), f"{readme}: {path}"
    for name in re.findall(r"^\| \[?`([\w/]+)/`", text, re.MULTILINE):
        assert ((ROOT / readme).parent / name).is_dir(), f"{readme}: {name}"


def test_the_readme_points_to_every_other():
    text = text_of("README.md")
    for readme in READMES[1:]:
        assert f"]({readme})" in text
