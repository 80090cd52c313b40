"""Folders of ours through a Hub on loopback, by huggingface_hub, datasets, transformers and peft themselves."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hf_inspect import Inspector, demo, files
from hf_inspect.cli import app
from hf_inspect.data import load_split, read_manifest
from hf_inspect.errors import DataError, HubError, InspectError, ParityError
from hf_inspect.hub import check, files_to_push, kind_of, kinds, open_repository, pull, push
from hf_inspect.schema import BINARY, History, Source, TaskSpec
from tests import tiny, tiny_edge
from tests.conftest import png
from tests.hub import READ_TOKEN, TOKEN
from tests.raw import built_parts
from tests.scripted import brightness_cascade, grey

CARD = "---\nlicense: cc0-1.0\n---\n\n# A test's\n"
DELETED = "[More Information Needed]"


@pytest.fixture(scope="module")
def made_data(tmp_path_factory) -> Path:
    """A data set of 60 parts in class folders."""
    return built_parts(tmp_path_factory.mktemp("parts"), good=40, scratch=20)


@pytest.fixture(scope="module")
def made_cascade(tmp_path_factory) -> Path:
    return with_card(brightness_cascade(tmp_path_factory.mktemp("cascade")))


@pytest.fixture
def cascade(made_cascade, tmp_path) -> Path:
    """A cascade's folder to spoil."""
    return Path(shutil.copytree(made_cascade, tmp_path / "cascade"))


@pytest.fixture
def data(made_data, tmp_path) -> Path:
    """A data set's folder to spoil."""
    return Path(shutil.copytree(made_data, tmp_path / "data"))


def with_card(folder: Path, text: str = CARD) -> Path:
    (folder / "README.md").write_text(text)
    return folder


def quiet_push(folder, repository, **options):
    return push(folder, repository, show=lambda text: None, **options)


def in_fresh_process(code: str, *arguments) -> str:
    """What a new Python prints, with the environment of this one."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


LOAD_DATA = """
import hashlib, json, sys
from datasets import Image, load_dataset
digests = lambda rows: sorted(hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in rows)
whole = load_dataset("acme/parts").cast_column("image", Image(decode=False))
streamed = load_dataset("acme/parts", split="test", streaming=True).cast_column("image", Image(decode=False))
print(json.dumps([{name: digests(rows) for name, rows in whole.items()}, digests(streamed)]))
"""


def test_a_data_set_goes_up_and_load_dataset_gives_the_same_rows(hub, made_data):
    done = CliRunner().invoke(app, ["push", str(made_data), "acme/parts"])
    assert done.exit_code == 0, done.output
    assert "data set -> acme/parts" in done.output
    assert "manifest.json" in done.output
    assert f"{hub.endpoint}/datasets/acme/parts/commit/" in done.output
    whole, streamed = json.loads(in_fresh_process(LOAD_DATA))
    stated = {split: [] for split in whole}
    for image in read_manifest(made_data)["images"]:
        stated[image["split"]].append(image["sha256"])
    assert whole == {split: sorted(hashes) for split, hashes in stated.items()}
    assert len(whole["test"]) == len(load_split(made_data, "test"))
    assert streamed == whole["test"]
    again = CliRunner().invoke(app, ["push", str(made_data), "acme/parts"])
    assert "holds all of it already" in again.output


def student_says(name: str | Path) -> np.ndarray:
    """Logits (4, 2) of four fixed random inputs."""
    import torch
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(name).eval()
    with torch.no_grad():
        return model(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))).logits.numpy()


def adapter_says(base: str | Path, adapter: str | Path) -> np.ndarray:
    """The last token's logits for a fixed image."""
    import torch
    from peft import PeftModel
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(base)
    processor.image_processor = AutoImageProcessor.from_pretrained(adapter)
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), adapter).eval()
    inputs = processor(images=[tiny.pictures(1)], text=["<image> good?"], return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits[0, -1].numpy()


def test_student_base_and_adapter_load_from_the_hub_by_transformers_and_peft(hub, tmp_path):
    student, base, adapter = tmp_path / "student", tmp_path / "base", tmp_path / "adapter"
    with_card(Path(shutil.copytree(tiny_edge.student(), student)))
    with_card(tiny.loud_base(base))
    tiny.random_adapter(base, adapter)
    with_card(adapter, CARD.replace("\n---\n\n", "\nbase_model: acme/tiny-base\n---\n\n"))
    assert [kind_of(folder) for folder in (student, base, adapter)] == [kinds.STUDENT, kinds.VLM, kinds.ADAPTER]
    with pytest.raises(HubError, match="base_model 'acme/tiny-base' is not on the Hub"):
        quiet_push(adapter, "acme/adapter")
    for folder, name in ((student, "acme/student"), (base, "acme/tiny-base"), (adapter, "acme/adapter")):
        assert quiet_push(folder, name).startswith(f"{hub.endpoint}/{name}/commit/")
    np.testing.assert_array_equal(student_says("acme/student"), student_says(student))
    np.testing.assert_array_equal(adapter_says("acme/tiny-base", "acme/adapter"), adapter_says(base, adapter))


def test_an_exported_student_is_a_student(made_cascade, tmp_path):
    folder = with_card(Path(shutil.copytree(made_cascade / "edge", tmp_path / "edge")))
    assert kind_of(folder) is kinds.STUDENT
    there = {p.name for p in folder.iterdir()}
    assert set(check(folder)) == there
    for name in ("results.scores.jsonl", "results.scores.validation.jsonl", files.MARKER, files.LOCK):
        files.write_text(folder / name, "{}")  # of this machine; they stay here
    assert set(check(folder)) == there


def test_a_cascade_comes_back_with_the_same_verdicts_at_the_revision_asked_for(hub, cascade):
    first = quiet_push(cascade, "acme/cascade").rpartition("/")[2]
    stated = files.read_json(cascade / "cascade.json")
    files.write_json(cascade / "cascade.json", stated | {"policy": "saec"})
    quiet_push(cascade, "acme/cascade")
    parts = [png(grey(level)) for level in (20, 128, 240)]
    files.write_json(cascade / "cascade.json", stated)
    here = Inspector.from_pretrained(cascade)
    for revision, policy in ((first, "certified"), (None, "saec"), ("main", "saec")):
        there = Inspector.from_pretrained("acme/cascade", revision=revision)
        assert there.policy.name == policy
    there = Inspector.from_pretrained("acme/cascade", revision=first)
    for part in parts:
        one, other = here(part), there(part)
        assert (one.label, one.severity, one.reason) == (other.label, other.severity, other.reason)
    with pytest.raises(HubError, match="acme/cascade@v9: there is no such revision"):
        Inspector.from_pretrained("acme/cascade", revision="v9")
    with pytest.raises(DataError, match="is a folder, which has no revision"):
        Inspector.from_pretrained(cascade, revision="main")


def test_a_part_is_pinned_by_commit_and_a_move_is_reported_not_followed(hub, cascade):
    part = files.sha256(cascade / "edge" / "openvino_model.bin")
    quiet_push(with_card(cascade / "edge"), "acme/edge")
    commit = hub.repos["models", "acme/edge"].refs["main"]
    stated = files.read_json(cascade / "cascade.json")
    shutil.move(cascade / "edge", cascade.parent / "edge")
    files.write_json(cascade / "cascade.json", stated | {"edge": {"hub": "acme/edge", "revision": "main"}})
    with pytest.raises(DataError, match="is no repository org/name at a commit of 40 digits"):
        check(cascade)
    files.write_json(cascade / "cascade.json", stated | {"edge": {"hub": "acme/edge", "revision": commit}})
    quiet_push(cascade, "acme/cascade")
    assert Inspector.from_pretrained("acme/cascade")(png(grey(20))).label == "good"
    quiet_push(with_card(cascade.parent / "edge", CARD + "\nMore.\n"), "acme/edge")
    with pytest.warns(UserWarning, match=rf"acme/edge has moved to \w+; this cascade stays at {commit}"):
        there = Inspector.from_pretrained("acme/cascade")
    assert there.edge.info["files"]["openvino_model.bin"] == part


def test_what_was_pulled_stays_usable_without_the_hub(hub, cascade, monkeypatch):
    quiet_push(cascade, "acme/cascade")
    Inspector.from_pretrained("acme/cascade")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Inspector.from_pretrained("acme/cascade")(png(grey(20))).label == "good"
    with pytest.raises(HubError, match=r"acme/other is no folder here, not in the cache, and .* cannot be reached"):
        Inspector.from_pretrained("acme/other")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        quiet_push(cascade, "acme/cascade")


def test_offline_what_the_cache_holds_of_a_repository_is_named(hub, cascade, monkeypatch):
    commit = quiet_push(cascade, "acme/cascade").rpartition("/")[2]
    repo = hub.repos["models", "acme/cascade"]
    repo.tags["v1"] = commit
    Inspector.from_pretrained("acme/cascade")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    held = rf"acme/cascade@v1 is no folder here, .* reached; of acme/cascade the cache holds {commit} \(main\): ask for"
    with pytest.raises(HubError, match=held) as refused:
        Inspector.from_pretrained("acme/cascade", revision="v1")
    assert str(refused.value).endswith(f"as acme/cascade@{commit}.")
    assert Inspector.from_pretrained("acme/cascade", revision=commit)(png(grey(20))).label == "good"


def test_hf_on_the_command_line_downloads_it(hub, cascade, tmp_path):
    quiet_push(cascade, "acme/cascade")
    command = [Path(sys.executable).with_name("hf"), "download", "acme/cascade", "--local-dir", tmp_path / "there"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Inspector.from_pretrained(tmp_path / "there")(png(grey(240))).label == "defect"


def test_pushed_again_only_what_changed_is_sent_and_stale_files_go(hub, cascade):
    files.write_text(cascade / "seeds.json", "{}\n")
    quiet_push(cascade, "acme/cascade")
    sent = hub.count("PUT /_lfs"), hub.count("/commit/")
    assert quiet_push(cascade, "acme/cascade") is None
    assert (hub.count("PUT /_lfs"), hub.count("/commit/")) == sent
    repo = hub.repos["models", "acme/cascade"]
    here = dict(hub.repos["models", "acme/cascade"].commits[repo.refs["main"]])
    repo.commit(here | {"from_the_site.md": here["README.md"]}, "added by somebody on the site")
    (cascade / "seeds.json").unlink()
    with_card(cascade, CARD + "\nMore.\n")
    shown = []
    push(cascade, "acme/cascade", show=shown.append)
    assert "seeds.json" in shown[0]
    assert "1 files to add" in shown[0]
    assert set(hub.files("models", "acme/cascade")) == set(files_to_push(cascade)) | {
        ".gitattributes",
        "from_the_site.md",
    }
    assert hub.count("PUT /_lfs") == sent[0]


def test_a_pull_request_leaves_main_as_it_is(hub, cascade):
    with pytest.raises(HubError, match="acme/cascade is not on"):
        quiet_push(cascade, "acme/cascade", create_pr=True)
    quiet_push(cascade, "acme/cascade")
    before = hub.files("models", "acme/cascade")
    with_card(cascade, CARD + "\nMore.\n")
    assert quiet_push(cascade, "acme/cascade", create_pr=True) == f"{hub.endpoint}/acme/cascade/discussions/1"
    assert hub.files("models", "acme/cascade") == before
    assert hub.files("models", "acme/cascade", "refs/pr/1")["README.md"].endswith(b"More.\n")


PUSH = "import sys; from hf_inspect.hub import push; push(__import__('pathlib').Path(sys.argv[1]), 'acme/cascade')"


def test_a_push_that_is_killed_leaves_nothing_half_and_ends_with_one_commit(hub, cascade):
    reached, release = hub.stall("PUT /_lfs")
    process = subprocess.Popen([sys.executable, "-c", PUSH, cascade], stdout=subprocess.DEVNULL)
    assert reached.wait(60)
    process.kill()
    process.wait()
    release.set()
    assert set(hub.files("models", "acme/cascade")) == {".gitattributes"}
    quiet_push(cascade, "acme/cascade")
    assert hub.titles("models", "acme/cascade") == ["Push the cascade cascade with hf-inspect", "initial commit"]
    held = hub.files("models", "acme/cascade")
    assert {name: path.read_bytes() for name, path in files_to_push(cascade).items()} == {
        name: content for name, content in held.items() if name != ".gitattributes"
    }


def test_a_connection_that_breaks_while_sending_is_taken_up_again(hub, cascade):
    hub.cut("PUT /_lfs", after=8)
    quiet_push(cascade, "acme/cascade")
    assert hub.count("-> cut") == 1
    assert len(hub.titles("models", "acme/cascade")) == 2


def test_a_pull_that_breaks_off_goes_on_where_it_was(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)  # bytes; what is kept is whole chunks
    student = with_card(Path(shutil.copytree(tiny_edge.student(), tmp_path / "student")))
    quiet_push(student, "acme/student")
    hub.cut("GET /_cdn/", after=100_000)
    folder = pull("acme/student")
    assert files.sha256(folder / "model.safetensors") == files.sha256(student / "model.safetensors")
    assert hub.count("model.safetensors bytes=100000- -> 206") == 1


def test_a_busy_hub_is_asked_again(hub, cascade, monkeypatch):
    monkeypatch.setattr("hf_inspect.hub.client._FIRST_PAUSE", 0.01)
    faults = {
        "/api/repos/create": 429, "POST /api/models/acme/cascade/preupload": 502, "/acme/cascade/tree": 500,
        "POST /api/models/acme/cascade/commit": 503,
    }  # fmt: skip
    for match, status in faults.items():
        hub.fail(match, status)
    quiet_push(cascade, "acme/cascade")
    hub.fail("GET /api/models/acme/cascade/revision", 503)
    pull("acme/cascade")
    assert not [fault for fault in hub.faults if fault.times]
    assert len(hub.titles("models", "acme/cascade")) == 2


def test_a_hub_that_stays_busy_or_is_gone_is_a_sentence(hub, cascade, monkeypatch):
    monkeypatch.setattr("hf_inspect.hub.client._PATIENCE", 0.0)
    hub.fail("/api/repos/create", 503, times=9)
    with pytest.raises(HubError, match=r"^acme/cascade: http://127.* answers 503, also after a while; run the command"):
        quiet_push(cascade, "acme/cascade")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"no connection to .* run the command again"):
        quiet_push(cascade, "acme/cascade")
    with pytest.raises(HubError, match="no connection to"):
        pull("acme/cascade")


def test_who_may_not_is_told_so_without_the_token(hub, cascade, monkeypatch):
    quiet_push(cascade, "acme/secret")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"acme/secret is not on .* or private: .*'hf auth login' or HF_TOKEN"):
        Inspector.from_pretrained("acme/secret")
    with pytest.raises(HubError, match="does not accept your token, or you gave none"):
        quiet_push(cascade, "acme/new")
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(HubError, match="your token may not write there"):
        quiet_push(cascade, "acme/new")
    wrong = "hf_" + "x" * 34
    monkeypatch.setenv("HF_TOKEN", wrong)
    with pytest.raises(HubError, match="does not accept your token") as refused:
        quiet_push(cascade, "acme/new")
    assert wrong not in str(refused.value)


def test_a_push_is_private_unless_it_is_told_otherwise(hub, cascade):
    for name, more in (("acme/private", []), ("acme/public", ["--public"])):
        done = CliRunner().invoke(app, ["push", str(cascade), name, *more])
        assert done.exit_code == 0, done.output
        assert hub.repos["models", name].private == (not more)


def test_a_public_repository_is_not_taken_for_a_private_one(hub, cascade):
    quiet_push(cascade, "acme/cascade", private=False)
    before = hub.files("models", "acme/cascade")
    with_card(cascade, CARD + "\nNot for everybody.\n")
    for create_pr in (False, True):
        with pytest.raises(HubError, match=r"acme/cascade is there and public; push with --public if all may read it"):
            quiet_push(cascade, "acme/cascade", create_pr=create_pr)
    assert hub.files("models", "acme/cascade") == before
    assert quiet_push(cascade, "acme/cascade", private=False)
    with pytest.raises(HubError, match=r"^a/b/c: "):
        quiet_push(cascade, "a/b/c")


def test_access_is_tried_before_there_is_anything_to_push(hub, monkeypatch):
    assert open_repository("cells") == "tester/cells"
    assert open_repository("acme/cells") == "acme/cells"
    assert hub.repos["models", "acme/cells"].private
    assert open_repository("acme/open", private=False) == "acme/open"
    assert not hub.repos["models", "acme/open"].private
    with pytest.raises(HubError, match="acme/open is there and public"):
        open_repository("acme/open")
    with pytest.raises(HubError, match="other/cells: your token may not write there"):
        open_repository("other/cells")
    with pytest.raises(HubError, match="your token may not write there"):
        open_repository("acme/cells", token=READ_TOKEN)  # which may read it: create_repo(exist_ok=True) is content
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(HubError, match="does not accept your token"):
        open_repository("acme/cells")
    assert open_repository("acme/cells", token=TOKEN)


def test_a_licence_of_a_base_on_the_hub_is_kept(hub, cascade):
    quiet_push(with_card(cascade, CARD.replace("cc0-1.0", "cc-by-nc-4.0")), "acme/base")
    with_card(cascade, CARD.replace("cc0-1.0", "apache-2.0\nbase_model: [acme/base]"))
    with pytest.raises(HubError, match=r"says apache-2.0, but acme/base is cc-by-nc-4.0: non-commercial"):
        quiet_push(cascade, "acme/other")


def test_the_shipped_cascade_and_its_parts_are_fit_to_be_pushed():
    folder = demo.assets()
    assert {"cascade.json", "adapter/adapter_model.safetensors", "edge_int8/openvino_model.bin"} <= set(check(folder))
    assert kind_of(folder) is kinds.CASCADE
    assert "model.safetensors" in check(folder / "edge")
    assert "prompt.json" in check(folder / "adapter")


def plant(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def seen(*licences: str) -> str:
    """trained_on.json of a model whose ancestors saw data under these licences."""
    return json.dumps(History(tuple(Source(one, one, one, 3) for one in licences)).to_dict())


PICKLE = b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a."
PLANTED = [
    ("edge/model.safetensors", PICKLE, "edge/model.safetensors is a pickle"),
    ("edge/openvino_model.bin", PICKLE, "edge/openvino_model.bin is a pickle"),
    ("edge/model.safetensors", b"PK\x03\x04" + b"x" * 40, "is a pickle"),
    ("edge/training_args.bin", b"x", "its part edge cannot go up: .*training_args.bin"),
    ("weights.pt", b"x", "holds what is no part of a cascade: weights.pt. Move it out"),
    ("notes.txt", "x", "no part of a cascade: notes.txt"),
    ("checkpoint-3/optimizer.pt", b"x", "its part checkpoint-3 cannot go up: .* is none of Space, casc"),
    ("training_log.json", json.dumps({"token": TOKEN}), "training_log.json, line 1, holds an access token"),
    ("README.md", f"{CARD}\nlogin({TOKEN})\n", "README.md, line 7, holds an access token"),
    ("seeds.json", '{"data": "/home/anna/parts"}', "seeds.json, line 1, holds a path of a machine, '/home/anna/parts'"),
    ("edge/training_log.json", '{"out": "C:\\\\Users\\\\anna"}', "edge/training_log.json, line 1, .*path of a machine"),
    ("README.md", CARD + "See C:\\data\\parts\n", "holds a path of a machine"),
    ("README.md", "# No head\n", "missing or has no YAML"),
    ("README.md", "---\ntags: [x]\n---\n", "states no licence"),
    ("README.md", "---\nlicense: [\n---\n", "its head is no YAML"),
    ("README.md", "---\njust text\n---\n", "holds no `key: value` lines"),
    ("README.md", CARD + DELETED, "is not filled in"),
    ("edge/trained_on.json", seen("CC-BY-NC-4.0"), "edge/trained_on.json is CC-BY-NC-4.0: non-com"),
    ("edge/trained_on.json", seen("CC0-1.0", "AGPL-3.0"), "edge/trained_on.json is CC0-1.0 AND AGPL-3.0: copyleft"),
    ("edge/trained_on.json", seen("other"), "what other permits is not known here; state other"),
    ("edge/trained_on.json", '{"licence": "CC0-1.0"}', "is no record of a training that this version reads"),
    ("results.json", "{}", "does not say that it was measured on edge/openvino_model.bin"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "sentence"), PLANTED, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(PLANTED)]
)
def test_what_must_not_be_published_is_refused(cascade, name, content, sentence):
    plant(cascade, name, content)
    with pytest.raises((HubError, DataError), match=sentence) as refused:
        check(cascade)
    assert TOKEN not in str(refused.value)


def test_nothing_is_asked_of_the_hub_for_a_folder_that_is_not_fit(hub, cascade):
    plant(cascade, "README.md", f"{CARD}\n{TOKEN}\n")
    done = CliRunner().invoke(app, ["push", str(cascade), "acme/cascade"])
    assert isinstance(done.exception, HubError)
    assert hub.requests == []


def test_a_missing_card_or_folder_is_a_sentence(cascade, tmp_path):
    (cascade / "README.md").unlink()
    with pytest.raises(HubError, match=r"README\.md is missing"):
        check(cascade)
    with pytest.raises(HubError, match="is not a folder"):
        check(tmp_path / "nowhere")
    with pytest.raises(HubError, match="none of Space, cascade, teacher, adapter, student, data set, vlm"):
        check(with_card(tmp_path / "empty") if (tmp_path / "empty").mkdir() else tmp_path / "empty")


def test_a_flipped_byte_is_found(cascade):
    model = cascade / "edge" / "openvino_model.bin"
    plant(cascade, "edge/openvino_model.bin", model.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ParityError, match=r"openvino_model.bin is not the file"):
        check(cascade)


def test_results_of_other_files_are_refused(cascade):
    weights = cascade / "edge" / "openvino_model.bin"
    results = {"data": {"fingerprint": "a" * 64}, "inputs": {"models": {"edge": files.sha256(weights)}}}
    files.write_json(cascade / "results.json", results)
    with pytest.raises(DataError, match=r"results\.json does not say which classes there are"):
        check(cascade)
    crack = TaskSpec.of(("good", "crack"), good=["good"])
    files.write_json(cascade / "results.json", results | {"task": crack.to_dict()})
    with pytest.raises(DataError, match=r"answer different questions(.|\n)*crack \(defect\)(.|\n)*defect \(defect\)"):
        check(cascade)
    files.write_json(cascade / "results.json", results | {"task": BINARY.to_dict()})
    with pytest.raises(HubError, match=r"results\.json lacks data\.name, which the card needs"):
        check(cascade)
    stated = files.read_json(cascade / "cascade.json")
    files.write_json(cascade / "cascade.json", stated | {"calibration": {"data": "b" * 64}})
    with pytest.raises(HubError, match=r"is of the data aaaaaaaaaaaa, not of cascade.json \(bbbbbbbbbbbb\)"):
        check(cascade)
    files.write_json(cascade / "cascade.json", stated)
    files.write_json(cascade / "results.json", results | {"inputs": {"models": {"edge": "0" * 64}}})
    with pytest.raises(HubError, match="measured on another edge than the folder's"):
        check(cascade)


def test_a_data_set_must_hold_what_its_manifest_says(data):
    files.write_text(data / "evaluations.json", "[]")  # of this machine; stays here
    assert "evaluations.json" not in check(data)
    shards = sorted((data / "data").glob("*-t*.parquet"))
    test, train = (next(p for p in shards if split in p.name) for split in ("test", "train"))
    kept = test.read_bytes()
    shutil.copy(train, test)
    with pytest.raises(HubError, match=r"test holds other images than manifest.json says"):
        check(data)
    test.write_bytes(kept)
    shutil.copy(train, data / "data" / "other.parquet")
    with pytest.raises(HubError, match=r"no part of a data set: data/other.parquet"):
        check(data)
    (data / "data" / "other.parquet").unlink()
    manifest = read_manifest(data)
    manifest["images"][0]["split"] = "elsewhere"
    files.write_json(data / "manifest.json", manifest)
    with pytest.raises(HubError, match="its fingerprint is not of its images"):
        check(data)


def test_non_commercial_data_keeps_its_licence(data):
    manifest = read_manifest(data)
    files.write_json(data / "manifest.json", manifest | {"licence": "CC-BY-NC-SA-4.0"})
    with pytest.raises(HubError, match=r"cc0-1.0, but manifest.json is CC-BY-NC-SA-4.0: non-commercial, share-alike"):
        check(data)
    card = (data / "README.md").read_text()
    (data / "README.md").write_text(card.replace("license: cc0-1.0", "license: cc-by-nc-sa-4.0"))
    check(data)


def test_every_refusal_is_an_error_of_ours():
    assert issubclass(HubError, InspectError)
