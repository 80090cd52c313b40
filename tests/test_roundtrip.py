"""Kinds of folders built, pushed to a Hub on loopback and loaded by the ecosystem's own calls from an empty cache.

Beside tests/test_hub.py (plain data set, student, base, adapter, edge cascade) and tests/test_bundle.py (cascade with
its VLM).
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hf_inspect import files
from hf_inspect.cli import app
from hf_inspect.data import build, chat, read_manifest, sign, write_history
from hf_inspect.errors import HubError
from hf_inspect.hub import files_to_push, kind_of, kinds, pull, push
from hf_inspect.runtime import Engine
from hf_inspect.schema import History, Source
from hf_inspect.vlm import VLM
from tests import raw, tiny
from tests.conftest import png
from tests.hub import ORGANISATION, Repo
from tests.scripted import brightness_cascade, grey

CARD = "---\nlicense: cc0-1.0\n---\n\n# A test's\n"
FEW = {"grid": (40, 12, {"bent": 8, "glue": 7}), "wood": (30, 9, {"hole": 9})}


def with_card(folder: Path, text: str = CARD) -> Path:
    files.write_text(folder / "README.md", text)
    return folder


def quiet_push(folder, repository, **options):
    return push(folder, repository, show=lambda text: None, **options)


@pytest.fixture
def cascade(tmp_path) -> Path:
    return with_card(brightness_cascade(tmp_path / "cascade"))


LOAD = """
import hashlib, json, sys
from datasets import get_dataset_config_names, load_dataset
def digest(rows):
    return sorted(hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest() for row in rows)
def digests(name, config):
    whole = load_dataset(name, config)
    return {split: digest(row for table in rows.with_format("arrow").iter(64) for row in table.to_pylist())
            for split, rows in whole.items()}
found = {}
for name, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    for config in get_dataset_config_names(name):
        there = digests(name, config)
        assert there == digests(folder, config), (name, config)
        split = sorted(there)[0]
        streamed = load_dataset(name, config, split=split, streaming=True).decode(False)
        assert len(list(streamed)) == len(there[split])
        found[f"{name} {config}"] = {split: len(rows) for split, rows in there.items()}
print(json.dumps(found))
"""


def test_data_sets_of_several_configs_and_of_chat_come_back_row_by_row(hub, tmp_path):
    source = raw.mvtec(tmp_path / "mvtec_anomaly_detection", FEW)
    build("mvtec_ad", tmp_path / "parts", src=source, accept_license=True)
    build("mvtec_inspect", tmp_path / "inspect", src=source, accept_license=True)
    chat(tmp_path / "inspect", tmp_path / "chat")
    names = {"acme/parts": tmp_path / "parts", "acme/chat": tmp_path / "chat"}
    for name, folder in names.items():
        assert kind_of(folder) is kinds.DATA_SET
        quiet_push(folder, name)
    pairs = [str(one) for pair in names.items() for one in pair]
    done = subprocess.run([sys.executable, "-c", LOAD, *pairs], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    parts, asked = read_manifest(tmp_path / "parts"), read_manifest(tmp_path / "chat")
    for category in FEW:
        counts = {split: sum(labels.values()) for split, labels in parts["counts"][category].items()}
        assert found[f"acme/parts {category}"] == counts
    assert sum(found["acme/parts all"].values()) == len(parts["images"])
    rows = {key.split()[1]: splits for key, splits in found.items() if key.startswith("acme/chat")}
    assert rows == asked["rows"]


def test_a_vlm_fine_tuned_whole_keeps_its_question_and_what_it_has_seen(hub, tmp_path):
    from transformers import AutoModelForImageTextToText

    tiny.random_adapter(tiny.loud_base(tmp_path / "base"), tmp_path / "adapter")
    whole = Path(shutil.copytree(tmp_path / "base", tmp_path / "whole"))
    shutil.copy(tmp_path / "adapter" / "prompt.json", whole)  # the same question and processor
    seen = History((Source("parts", "f" * 64, "CC0-1.0", 1),), (sign(png(grey(9))).record(),))
    write_history(whole, seen)
    assert kind_of(with_card(whole)) is kinds.VLM
    quiet_push(whole, "acme/whole")
    here, there = (AutoModelForImageTextToText.from_pretrained(name).state_dict() for name in (whole, "acme/whole"))
    assert all(bool((here[name] == there[name]).all()) for name in here)
    asked, pulled = VLM.from_pretrained(whole), VLM.from_pretrained("acme/whole")
    assert pulled.task == tiny.QUESTION.task
    assert pulled.history == asked.history == seen
    np.testing.assert_array_equal(pulled.rank(tiny.pictures(3)), asked.rank(tiny.pictures(3)))
    with_card(tmp_path / "adapter")
    quiet_push(with_card(tmp_path / "base"), "acme/base")
    quiet_push(tmp_path / "adapter", "acme/adapter")
    joined = VLM.from_pretrained(tmp_path / "base", tmp_path / "adapter").rank(tiny.pictures(3))
    np.testing.assert_array_equal(VLM.from_pretrained("acme/base@main", "acme/adapter").rank(tiny.pictures(3)), joined)


def test_a_part_without_safetensors_is_refused(hub, tmp_path):
    from huggingface_hub import HfApi

    files.write_text(tmp_path / "pickled" / "config.json", "{}")
    files.write_text(tmp_path / "pickled" / "pytorch_model.bin", "x")
    HfApi().create_repo("acme/pickled")
    HfApi().upload_folder(repo_id="acme/pickled", folder_path=tmp_path / "pickled")
    with pytest.raises(HubError, match=r"acme/pickled holds no weights as .*, OpenVINO or ONNX, and pickles are not"):
        VLM.from_pretrained("acme/pickled")
    assert hub.count("resolve") == hub.count("config.json -> 200") > 0


def test_an_exported_student_comes_back_with_the_same_answers(hub, cascade):
    quiet_push(with_card(cascade / "edge"), "acme/edge")
    parts = [grey(level) for level in (5, 99, 128, 250)]
    here, there = (Engine.from_pretrained(folder).predict(parts) for folder in (cascade / "edge", pull("acme/edge")))
    np.testing.assert_array_equal(here, there)


def test_a_space_comes_back_file_by_file(hub, tmp_path):
    from huggingface_hub import HfApi, snapshot_download

    space = tmp_path / "space"
    files.write_text(space / "app.py", "import gradio\n")
    files.write_text(space / "requirements.txt", "gradio\n")
    files.write_bytes(space / "examples" / "good.png", png(grey(20)))
    with_card(space, "---\ntitle: Cells\nsdk: gradio\nlicense: cc0-1.0\n---\n\n# Cells\n")
    assert kind_of(space) is kinds.SPACE
    assert quiet_push(space, "acme/space").startswith(f"{hub.endpoint}/spaces/acme/space/commit/")
    assert HfApi().space_info("acme/space").sdk == "gradio"
    there = Path(snapshot_download("acme/space", repo_type="space"))
    assert {name: path.read_bytes() for name, path in files_to_push(space).items()} == {
        name: (there / name).read_bytes() for name in files_to_push(space)
    }
    with_card(space)
    with pytest.raises(HubError, match="sdk"):
        quiet_push(space, "acme/other")


def test_who_may_not_write_proposes(hub, cascade):
    quiet_push(cascade, f"{ORGANISATION}/cascade")
    repo = hub.repos["models", f"{ORGANISATION}/cascade"]
    other = hub.repos["models", "others/cascade"] = Repo("models", "others/cascade", False)
    other.commit(repo.commits[repo.refs["main"]], "theirs")
    before = hub.files("models", "others/cascade")
    with_card(cascade, CARD + "\nMore.\n")
    files.write_bytes(cascade / "plots" / "roc.png", png(grey(20)))
    with pytest.raises(HubError, match="others/cascade: your token may not write there; take one that may, or push"):
        quiet_push(cascade, "others/cascade", private=False)
    assert (
        quiet_push(cascade, "others/cascade", private=False, create_pr=True)
        == f"{hub.endpoint}/others/cascade/discussions/1"
    )
    assert hub.files("models", "others/cascade") == before
    proposed = hub.files("models", "others/cascade", "refs/pr/1")
    assert proposed["README.md"].endswith(b"More.\n")
    assert proposed["plots/roc.png"] == png(grey(20))
    with pytest.raises(HubError, match="others/new: your token may not write there"):
        quiet_push(cascade, "others/new")


@pytest.mark.parametrize(
    "name", ["a/b/c", "acme/two words", "acme/..", "acme/-x", "acme/x.git", "acme/" + "x" * 99, ""]
)
def test_a_name_that_none_may_have_is_a_sentence(hub, cascade, name):
    with pytest.raises(HubError, match=r"^.*: Repo.id (must|cannot)"):
        quiet_push(cascade, name)
    assert not hub.repos


def test_predict_takes_a_repository_and_its_revision(hub, cascade, tmp_path):
    from huggingface_hub import HfApi

    quiet_push(cascade, "acme/cascade")
    HfApi().create_tag("acme/cascade", tag="v1.0")
    stated = files.read_json(cascade / "cascade.json")
    files.write_json(cascade / "cascade.json", stated | {"policy": "saec"})
    quiet_push(cascade, "acme/cascade")
    files.write_bytes(tmp_path / "part.png", png(grey(128)))
    said = {}
    for revision in (["--revision", "v1.0"], []):
        done = CliRunner().invoke(app, ["predict", "acme/cascade", str(tmp_path / "part.png"), *revision])
        assert done.exit_code == 0, done.output
        said[tuple(revision)] = done.output
    assert "part.png: between the limits" in said["--revision", "v1.0"]
    assert "part.png: low confidence" in said[()]


def test_a_card_that_is_not_utf_8_stops_a_push_before_anything_is_asked(hub, cascade):
    files.write_bytes(cascade / "README.md", CARD.encode("utf-16"))
    done = CliRunner().invoke(app, ["push", str(cascade), "acme/cascade"])
    assert "is not UTF-8 text" in str(done.exception)
    assert hub.requests == []
