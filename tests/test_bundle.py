"""A cascade with its VLM: calibrated, pinned, pushed, pulled, bundled, checked, and run without any socket."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageEnhance
from typer.testing import CliRunner

from hf_inspect import Inspector, files
from hf_inspect.bundle import bundle
from hf_inspect.calibrate import calibrate
from hf_inspect.cli import app
from hf_inspect.data import build, load_split
from hf_inspect.errors import DataError, HubError, InspectError, ParityError
from hf_inspect.hub import check, files_to_push, push, verify
from hf_inspect.prompts import Question
from hf_inspect.schema import TaskSpec
from tests import tiny
from tests.conftest import png
from tests.raw import picture
from tests.scripted import BOTH, brightness_engine, grey

CARD = "---\nlicense: cc0-1.0\n---\n\n# A test's\n"
EDGE_TASK = TaskSpec.of(("scratch", "good"), good=["good"])  # an order of its own
QUESTION = Question("Look.", "Is it good?", TaskSpec.of(("good", "scratch"), good=["good"]))
LAX = {"escape": 0.25, "overkill": 0.25, "confidence": 0.5}  # what 15 calibration parts can support
PARTS = [png(grey(level)) for level in (5, 60, 120, 135, 150, 250)]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with edge, base, adapter and data, and a cascade calibrated from them."""
    folder, rng = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    brightness_engine(folder / "edge", task=EDGE_TASK)
    tiny.random_adapter(tiny.loud_base(folder / "base"), folder / "adapter", QUESTION)
    files.write_text(folder / "adapter" / "checkpoint-1" / "optimizer.pt", "of the training")
    for name, (darkest, brightest) in {"good": (0.5, 1.2), "scratch": (0.8, 1.5)}.items():  # what the edge goes by
        (folder / "raw" / name).mkdir(parents=True)
        for i, brightness in enumerate(np.linspace(darkest, brightest, 50)):
            ImageEnhance.Brightness(picture(rng)).enhance(brightness).save(folder / "raw" / name / f"{i}.png")
    build("folder", folder / "data", src=folder / "raw", options={"license": "cc0-1.0"})
    for part in ("edge", "base", "adapter"):
        with_card(folder / part)
    vlm = str(folder / "base"), folder / "adapter"
    calibrate(folder / "edge", vlm, folder / "data", folder / "cascade", **LAX)
    ask_the_vlm(folder / "cascade")
    with_card(folder / "cascade")
    return folder


def ask_the_vlm(cascade: Path) -> None:
    """A VLM that learnt nothing is asked all the same about what the edge is not sure of."""
    stated = files.read_json(cascade / "cascade.json")
    stated["policies"]["certified"]["composite"] = asdict(BOTH)
    files.write_json(cascade / "cascade.json", stated)


@pytest.fixture(scope="module")
def said(made) -> list:
    """What the cascade says of a few parts, by edge and by VLM."""
    verdicts = verdicts_of(Inspector.from_pretrained(made / "cascade"))
    assert any(reason == "the edge is sure of good" for _, _, reason, _ in verdicts)
    assert any(reason.startswith("the edge alone is not sure enough; ") for _, _, reason, _ in verdicts)
    assert not any("gave no answer" in reason for _, _, reason, _ in verdicts)
    return verdicts


@pytest.fixture(scope="module")
def bundled(made) -> Path:
    """The cascade's bundle; tests leave it as it is."""
    bundle(made / "cascade", made / "bundle")
    return made / "bundle"


@pytest.fixture
def spoilt(bundled, tmp_path) -> Path:
    """A bundle to spoil."""
    return Path(shutil.copytree(bundled, tmp_path / "bundle"))


def with_card(folder: Path, text: str = CARD) -> Path:
    files.write_text(folder / "README.md", text)
    return folder


def verdicts_of(inspector: Inspector) -> list:
    verdicts = inspector.inspect(PARTS)
    return [(v.label, v.decided_by, v.reason, pytest.approx(v.severity, abs=1e-6)) for v in verdicts]


def flip(path: Path) -> None:
    """Change one bit of a file's last byte, its size and name staying."""
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def quiet_push(folder, repository):
    return push(folder, repository, show=lambda text: None)


def inside(*roles: str) -> dict:
    """Parts that lie in the cascade's folder, as cascade.json states them."""
    return {role: {"folder": role} for role in roles}


def test_a_key_of_a_service_is_not_bundled(made, tmp_path):
    folder = Path(shutil.copytree(made / "cascade", tmp_path / "cascade"))
    files.write_text(folder / "edge" / "notes.md", f"first\n{'AKIA' + 'Q7' * 8}\n")
    with pytest.raises(HubError, match=r"^edge/notes\.md, line 2, holds a secret \(AWS Access Key\)"):
        bundle(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_calibration_copies_every_part_and_states_every_file_that_decides(made):
    stated = files.read_json(made / "cascade" / "cascade.json")
    assert (stated["edge"], stated["vlm"]) == ({"folder": "edge"}, inside("base", "adapter"))
    assert TaskSpec.from_dict(stated["task"], "cascade.json") == EDGE_TASK
    assert not (made / "cascade" / "adapter" / "checkpoint-1").exists()
    names = {"calibration.jsonl", "edge/openvino_model.bin", "edge/inspect.json", "adapter/adapter_model.safetensors"}
    assert names | {"adapter/prompt.json", "base/model.safetensors", "base/tokenizer.json"} <= set(stated["files"])
    assert not [name for name in stated["files"] if name.endswith(("README.md", "optimizer.pt"))]


@pytest.mark.parametrize(
    "name", ["calibration.jsonl", "edge/inspect.json", "adapter/adapter_model.safetensors", "base/config.json"]
)
def test_a_cascade_does_not_run_with_other_files_than_it_was_calibrated_with(spoilt, name):
    flip(spoilt / name)
    with pytest.raises(ParityError, match=rf"{name} is not the file that the cascade was calibrated with; take it"):
        Inspector.from_pretrained(spoilt)
    (spoilt / name).unlink()
    with pytest.raises(ParityError, match=rf"{name} is missing; it is one that the cascade was calibrated with"):
        Inspector.from_pretrained(spoilt)


NO_SOCKET = """
import json, os, socket, sys
def refuse(*arguments, **_):
    os.write(2, f"a socket was opened: {arguments}".encode())
    os._exit(9)
class Socket(socket.socket):
    __init__ = refuse
socket.socket, socket.create_connection, socket.getaddrinfo = Socket, refuse, refuse
from hf_inspect import Inspector
verdicts = Inspector.from_pretrained(sys.argv[1]).inspect(sys.argv[2:])
print(json.dumps([(v.label, v.decided_by, v.reason, v.severity) for v in verdicts]))
"""


def test_a_bundle_gives_the_same_verdicts_in_a_process_that_may_open_no_socket(bundled, said, tmp_path):
    moved = Path(shutil.copytree(bundled, tmp_path / "elsewhere"))
    for i, part in enumerate(PARTS):
        (tmp_path / f"{i}.png").write_bytes(part)
    (tmp_path / "home").mkdir()
    home = {"HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hf")}  # nothing is cached there
    switches = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "CI")
    environment = {k: v for k, v in os.environ.items() if k not in switches} | home
    command = [sys.executable, "-c", NO_SOCKET, moved, *(tmp_path / f"{i}.png" for i in range(len(PARTS)))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "socket" not in done.stderr
    assert done.returncode == 0, done.stderr[-3000:]
    assert [tuple(row) for row in json.loads(done.stdout.splitlines()[-1])] == said
    assert verify(moved) == []


def test_a_bundle_holds_every_part_with_its_list_and_licences(made, bundled):
    stated = files.read_json(bundled / "cascade.json")
    assert (stated["edge"], stated["vlm"]) == ({"folder": "edge"}, inside("base", "adapter"))
    assert stated["from"] == {}  # nothing of it came from a repository, and no path of this machine is in it
    there = {path.relative_to(bundled).as_posix() for path in bundled.rglob("*") if path.is_file()}
    listed_ = {line.split("  ")[1] for line in (bundled / "SHA256SUMS").read_text().splitlines()}
    assert there == listed_ | {"SHA256SUMS", files.MARKER}
    assert {"base/model.safetensors", "adapter/prompt.json", "edge/openvino_model.xml", "LICENCES.md"} <= there
    assert "checkpoint-1" not in " ".join(there)
    licences = (bundled / "LICENCES.md").read_text()
    for role in ("cascade", "edge", "base", "adapter"):
        assert f"| {role} | a folder | cc0-1.0 |" in licences
    if sha256sum := shutil.which("sha256sum"):
        done = subprocess.run([sha256sum, "--check", "--quiet", "SHA256SUMS"], cwd=bundled, capture_output=True)
        assert done.returncode == 0, done.stdout


def test_verify_names_what_differs_and_exits_with_1(spoilt):
    assert "every file is as it was bundled" in CliRunner().invoke(app, ["bundle", str(spoilt), "--verify"]).output
    flip(spoilt / "base" / "model.safetensors")
    (spoilt / "adapter" / "prompt.json").unlink()
    files.write_text(spoilt / "edge" / "notes.txt", "x")
    done = CliRunner().invoke(app, ["bundle", "--verify", str(spoilt)])
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        "adapter/prompt.json is missing", "base/model.safetensors has changed", "edge/notes.txt is not in SHA256SUMS",
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["no list", "0" * 64 + "  ../out", "0" * 64 + "  /etc/passwd", "0" * 64])
def test_a_broken_list_is_a_sentence(spoilt, line):
    files.write_text(spoilt / "SHA256SUMS", f"{line}\n")
    with pytest.raises(DataError, match=r"SHA256SUMS, line 1 is no `SHA-256  path`"):
        verify(spoilt)
    (spoilt / "SHA256SUMS").unlink()
    with pytest.raises(DataError, match="has no SHA256SUMS; give a folder that 'hf-inspect bundle' wrote"):
        verify(spoilt)


def test_a_cascade_s_folder_holds_all_that_its_bundle_does(made, bundled):
    check(made / "cascade")
    here, there = (set(files_to_push(folder)) for folder in (made / "cascade", bundled))
    assert there - here == {"SHA256SUMS", "LICENCES.md"}
    assert here <= there


def test_a_bundle_goes_up_as_it_is(hub, made, spoilt, said):
    quiet_push(spoilt, "acme/whole")
    held = hub.files("models", "acme/whole")
    assert {name: path.read_bytes() for name, path in files_to_push(spoilt).items()} == {
        name: content for name, content in held.items() if name != ".gitattributes"
    }
    assert verdicts_of(Inspector.from_pretrained("acme/whole")) == said
    with_card(spoilt, CARD + "\nMore.\n")
    with pytest.raises(HubError, match=r"is not as it was bundled: README.md has changed\. Bundle the cascade again"):
        check(spoilt)


def pushed_parts(hub, made: Path) -> dict[str, str]:
    """Edge, base and adapter as repositories; returns each one's commit."""
    for part in ("edge", "base", "adapter"):
        quiet_push(made / part, f"acme/{part}")
    assert (made / "adapter" / "checkpoint-1" / "optimizer.pt").is_file()
    assert not [name for name in hub.files("models", "acme/adapter") if name.startswith("checkpoint-1")]
    return {part: hub.repos["models", f"acme/{part}"].refs["main"] for part in ("edge", "base", "adapter")}


def test_a_cascade_of_pushed_parts_is_pinned_pulled_and_bundled(hub, made, said, tmp_path, monkeypatch):
    commits = pushed_parts(hub, made)
    huggingface().create_tag("acme/base", tag="v1.0")
    quiet_push(with_card(Path(shutil.copytree(made / "base", tmp_path / "base")), CARD + "\nMore.\n"), "acme/base")
    out, bundled = tmp_path / "cascade", tmp_path / "bundle"
    arguments = ["--edge", "acme/edge", "--base", "acme/base@v1.0", "--adapter", f"acme/adapter@{commits['adapter']}"]
    risk = [f"--{name}={value}" for name, value in LAX.items()]
    command = ["calibrate", *arguments, "--data", str(made / "data"), "--out", str(out), *risk]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    ask_the_vlm(out)
    stated, here = (files.read_json(folder / "cascade.json") for folder in (out, made / "cascade"))
    parts = {part: {"hub": f"acme/{part}", "revision": commit} for part, commit in commits.items()}
    pinned = {part: f"acme/{part}@{commit}" for part, commit in commits.items()}
    assert {"edge": stated["edge"], **stated["vlm"]} == parts
    assert (stated["policies"], deciding(stated)) == (here["policies"], deciding(here))
    assert (out / "calibration.jsonl").read_bytes() == (made / "cascade" / "calibration.jsonl").read_bytes()

    quiet_push(with_card(out), "acme/cascade")
    assert set(hub.files("models", "acme/cascade")) == {
        ".gitattributes", "README.md", "cascade.json", "calibration.jsonl",
    }  # fmt: skip
    cache = tmp_path / "empty"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    with pytest.warns(UserWarning, match=rf"acme/base has moved to \w+; this cascade stays at {commits['base']}"):
        there = Inspector.from_pretrained("acme/cascade")
    assert verdicts_of(there) == said
    assert len(list(cache.glob("models--acme--*"))) == 4

    done = CliRunner().invoke(app, ["bundle", "acme/cascade", "--out", str(bundled)])
    assert f"SHA256SUMS has SHA-256 {files.sha256(bundled / 'SHA256SUMS')}" in done.output
    assert verify(bundled) == []
    cascade = hub.repos["models", "acme/cascade"].refs["main"]
    assert files.read_json(bundled / "cascade.json")["from"] == {"cascade": f"acme/cascade@{cascade}", **pinned}
    assert f"| base | {pinned['base']} | cc0-1.0 |" in (bundled / "LICENCES.md").read_text()
    assert not [path for path in bundled.rglob("*") if path.is_symlink()]
    bundle(bundled, tmp_path / "again")  # a bundle can be bundled, and remembers where it came from
    assert (tmp_path / "again" / "SHA256SUMS").read_bytes() == (bundled / "SHA256SUMS").read_bytes()

    for name in ("cascade/README.md", "cascade/cascade.json", "adapter/prompt.json", "edge/openvino_model.bin"):
        repository, file = name.split("/")
        blob = next(cache.glob(f"models--acme--{repository}/snapshots/*/{file}")).resolve()
        kept = blob.read_bytes()
        flip(blob)
        with pytest.raises(HubError, match=rf"^{file} in the cache is not the file that acme/{repository} holds: .*rm"):
            Inspector.from_pretrained("acme/cascade")
        blob.write_bytes(kept)
    quiet_push(with_card(tmp_path / "base", CARD.replace("cc0-1.0", "cc-by-nc-4.0")), "acme/base")
    for commit, sentence in [
        (hub.repos["models", "acme/base"].refs["main"], "the card says cc0-1.0, but acme/base is cc-by-nc-4.0"),
        ("0" * 40, "cascade.json's base acme/base has no commit 0{40}; calibrate again"),
    ]:
        other = {"hub": "acme/base", "revision": commit}
        files.write_json(out / "cascade.json", stated | {"vlm": {**stated["vlm"], "base": other}})
        with pytest.raises(HubError, match=sentence):
            quiet_push(out, "acme/cascade")
    files.write_json(out / "cascade.json", stated | {"vlm": {**stated["vlm"], "adapter": parts["edge"]}})
    with pytest.raises(ParityError, match="is missing; it is one that the cascade was calibrated with"):
        Inspector.from_pretrained(out)


def deciding(stated: dict) -> dict:
    return {name: sha256 for name, sha256 in stated["files"].items() if name != "calibration.jsonl"}


def huggingface():
    from huggingface_hub import HfApi

    return HfApi()


def test_a_bundle_whose_download_breaks_off_is_not_there_and_the_next_try_goes_on(
    hub, made, bundled, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000)
    monkeypatch.setattr("hf_inspect.hub.client._PATIENCE", 0.0)
    quiet_push(bundled, "acme/whole")
    weights, out = files.sha256(bundled / "base" / "model.safetensors"), tmp_path / "out"
    hub.cut(f"/_cdn/{weights}", after=200_000)
    hub.cut(f"/_cdn/{weights}", after=0, times=9)  # more often than the client itself tries
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    begun = len(hub.requests)
    with pytest.raises(HubError, match=r"acme/whole: no connection to .* run the command again, it goes on"):
        bundle("acme/whole", out)
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))
    hub.faults.clear()
    before = len(hub.requests)
    bundle("acme/whole", out)
    first, again = (
        [request.split("?")[0] for request in requests if request.startswith("GET") and "/_cdn/" in request]
        for requests in (hub.requests[begun:before], hub.requests[before:])
    )
    assert set(first) & set(again) == {f"GET /_cdn/{weights}"}  # huggingface_hub keeps whole files from run to run
    assert again.count(f"GET /_cdn/{weights}") == 1
    assert verify(out) == []
    assert files.sha256(out / "base" / "model.safetensors") == weights


def test_what_cannot_be_bundled_is_a_sentence_and_leaves_nothing(made, tmp_path):
    cascade = Path(shutil.copytree(made / "cascade", tmp_path / "cascade"))
    stated = files.read_json(cascade / "cascade.json")
    for changed, sentence in [
        ({"edge": {"folder": "nowhere"}}, r"its edge 'nowhere' is missing, and is looked for nowhere but in"),
        (
            {"vlm": stated["vlm"] | {"base": {"packaged": "no-base"}}},
            "its base 'no-base' is no base that packages bring",
        ),
        ({"version": 1}, "has version 1, and 3 is read here; run 'hf-inspect calibrate' again"),
        ({"files": {}}, "states no SHA-256 of any file; run 'hf-inspect calibrate' again"),
    ]:
        files.write_json(cascade / "cascade.json", stated | changed)
        with pytest.raises(DataError, match=sentence):
            bundle(cascade, tmp_path / "out")
    files.write_json(cascade / "cascade.json", stated)
    for out in (cascade, cascade / "bundle", tmp_path):
        with pytest.raises(DataError, match="overlap; give an --out beside it"):
            bundle(cascade, out)
    with pytest.raises(DataError, match="is a folder, which has no revision"):
        bundle(cascade, tmp_path / "out", revision="main")
    with pytest.raises(DataError, match="no such folder; mend the path"):
        bundle(tmp_path / "elsewhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"cascade\.json is missing"):
        bundle(tmp_path / "empty", tmp_path / "out")
    for arguments in ([], ["--out", "x", "--verify"]):
        assert CliRunner().invoke(app, ["bundle", str(cascade), *arguments]).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_base_of_ours_that_needs_torch_says_so_without_it(made, tmp_path, monkeypatch):
    cascade = Path(shutil.copytree(made / "cascade", tmp_path / "cascade"))
    stated = files.read_json(cascade / "cascade.json")
    files.write_json(cascade / "cascade.json", stated | {"vlm": stated["vlm"] | {"base": {"packaged": "tiny-llava"}}})
    monkeypatch.setenv("HF_INSPECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InspectError, match=r"assembling tiny-llava needs torch: bundle where hf-inspect\[train\]"):
        bundle(cascade, tmp_path / "out")


def test_the_rows_that_set_the_thresholds_are_those_of_the_data(made):
    rows = [json.loads(line) for line in (made / "cascade" / "calibration.jsonl").read_text().splitlines()]
    sampled = [row["source"] for row in rows if row["split"] == "calibration"]
    assert sampled == [image["path"] for image in load_split(made / "data", "calibration")["image"]]
