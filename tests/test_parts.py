"""What a name means, and where a cascade's parts lie: never in the working directory, never without their SHA-256."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hf_inspect import Inspector, files, hub
from hf_inspect.errors import DataError, InspectError, ParityError
from hf_inspect.hub import KINDS, check, gather_parts, kind_of, kinds, part_of, read_cascade, reference, weights_of
from hf_inspect.hub.pull import Repository
from hf_inspect.runtime import TRAINED_ON
from hf_inspect.schema import BINARY, History, Part, Source, TaskSpec
from tests.conftest import png
from tests.scripted import brightness_cascade, brightness_engine, grey

CARD = "---\nlicense: cc0-1.0\n---\n\n# A test's\n"
COMMIT = "0123456789" * 4
WEIGHTS = b"\x02\0\0\0\0\0\0\0{}"  # a safetensors file without any


@pytest.fixture
def cascade(tmp_path) -> Path:
    folder = brightness_cascade(tmp_path / "made" / "cascade")
    files.write_text(folder / "README.md", CARD)
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def state(folder: Path, **changed) -> None:
    """Change what cascade.json states; a value of `...` takes the key out."""
    stated = files.read_json(folder / "cascade.json") | changed
    files.write_json(folder / "cascade.json", {key: value for key, value in stated.items() if value is not ...})


def without_hash(folder: Path, name: str) -> dict[str, str]:
    return {path: one for path, one in files.read_json(folder / "cascade.json")["files"].items() if path != name}


REPOSITORIES = {
    "acme/cascade": ("acme/cascade", None),
    "acme/cascade@v1.0": ("acme/cascade", "v1.0"),
    "acme/cascade@refs/pr/1": ("acme/cascade", "refs/pr/1"),
    f"acme/cascade@{COMMIT}": ("acme/cascade", COMMIT),
    "hub:acme/cascade": ("acme/cascade", None),
    "hub:outputs/cascade@main": ("outputs/cascade", "main"),
    "hub:outputs/there": ("outputs/there", None),
}


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_repository_is_org_and_name_or_says_that_it_is_one(elsewhere, name):
    (elsewhere / "outputs" / "there").mkdir(parents=True)
    found = reference(name)
    assert isinstance(found, Repository)
    assert found == REPOSITORIES[name]
    assert str(found) == name.removeprefix("hub:")


def test_a_folder_that_is_here_is_that_folder(elsewhere):
    (elsewhere / "acme" / "cascade").mkdir(parents=True)
    (elsewhere / "odd@name").mkdir()
    for name in ("acme/cascade", "./acme/cascade", "acme", "acme/", elsewhere / "acme", "odd@name", "."):
        assert reference(name) == Path(name)


NOTHING = {
    "outputs/cascad": "hub:outputs/cascad",  # somebody's repository of that name is meant by hub: alone
    "outputs/cascad@v1": "hub:outputs/cascad@v1",
    "a_file/cascade": "hub:a_file/cascade",
    "./cascade": "hub:org/name or hub:org/name@revision",
    "../cascade": "hub:org/name",
    "outputs/demo/cascade": "hub:org/name",
    "acme/cascade/": "hub:org/name",
    "cascade": "hub:org/name",
    "/nowhere/cascade": "hub:org/name",
    "~/cascade": "hub:org/name",
    "acme/two words": "hub:org/name",
    "": "hub:org/name",
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_path_that_is_not_there_is_no_repository(elsewhere, name):
    (elsewhere / "outputs").mkdir()
    (elsewhere / "a_file").write_text("")
    with pytest.raises(DataError, match=rf"no such folder; mend the path, or name a repository .* as {NOTHING[name]}"):
        reference(name)
    with pytest.raises(DataError, match="no such folder"):
        reference(Path(name or "x"))


@pytest.mark.parametrize(
    "name", ["hub:", "hub:cascade", "hub:a/b/c", "hub:./cascade", "hub:acme/cascade@", "hub:a b/c"]
)
def test_what_hub_names_must_be_a_repository(name):
    with pytest.raises(
        DataError, match=r"no repository; mend the path, or name .* as hub:org/name or hub:org/name@rev"
    ):
        reference(name)


def test_a_file_is_no_folder(elsewhere):
    (elsewhere / "cascade.json").write_text("{}")
    with pytest.raises(DataError, match=r"cascade\.json is a file; give the folder that it lies in"):
        Inspector.from_pretrained("cascade.json")


MISTYPED = """
import os, socket, sys
def refuse(*arguments, **_):
    os.write(2, f"a socket was opened: {arguments}".encode())
    os._exit(9)
class Socket(socket.socket):
    __init__ = refuse
socket.socket, socket.create_connection, socket.getaddrinfo = Socket, refuse, refuse
from typer.testing import CliRunner
from hf_inspect.cli import app
for command in sys.stdin.read().splitlines():
    done = CliRunner().invoke(app, command.split())
    print(type(done.exception).__name__, done.exception)
"""
COMMANDS = [
    "predict outputs/cascad part.png",
    "predict ./cascade part.png",
    "predict /nowhere/cascade part.png",
    "bundle outputs/cascad --out bundle",
    "calibrate --edge outputs/edg --data data --out cascade",
    "calibrate --edge edge --base outputs/bas --adapter edge --data data --out cascade",
]


def test_a_mistyped_path_opens_no_socket(elsewhere):
    brightness_engine(elsewhere / "edge")
    (elsewhere / "outputs").mkdir()
    (elsewhere / "home").mkdir()
    online = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", MISTYPED], input="\n".join(COMMANDS), capture_output=True, text=True,
        env=online | {"HF_HOME": str(elsewhere / "home")},
    )  # fmt: skip
    assert "socket" not in done.stderr
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert len(said) == len(COMMANDS)
    for line in said:
        assert line.startswith("DataError ")
        assert "no such folder; mend the path, or name a repository of the Hub as hub:" in line


def test_hub_reaches_a_repository_that_a_folder_here_hides(hub, cascade, elsewhere):
    from hf_inspect.hub import push

    push(cascade, "acme/cascade", show=lambda text: None)
    (elsewhere / "acme").mkdir()
    asked = len(hub.requests)
    with pytest.raises(DataError, match=r"no such folder; .* as hub:acme/cascade"):
        Inspector.from_pretrained("acme/cascade")
    assert len(hub.requests) == asked
    assert Inspector.from_pretrained("hub:acme/cascade")(png(grey(20))).label == "good"
    assert Inspector.from_pretrained("hub:acme/cascade@main")(png(grey(20))).label == "good"
    with pytest.raises(DataError, match="names a revision, and 'v1' came besides"):
        Inspector.from_pretrained("hub:acme/cascade@main", revision="v1")


@pytest.mark.parametrize("altered", [False, True])
def test_a_missing_part_is_not_looked_for_in_the_working_directory(cascade, elsewhere, altered):
    state(cascade, edge={"folder": "edge_int8"})
    (cascade / "edge").rename(cascade / "edge_int8")
    assert Inspector.from_pretrained(cascade)(png(grey(20))).label == "good"
    shutil.move(cascade / "edge_int8", elsewhere / "edge_int8")
    if altered:
        brightness_engine(elsewhere / "other", side=8)
        shutil.rmtree(elsewhere / "edge_int8")
        (elsewhere / "other").rename("edge_int8")
    for step in (Inspector.from_pretrained, check, lambda folder: part_of(folder, read_cascade(folder), "edge")):
        with pytest.raises(DataError, match=r"its edge 'edge_int8' is missing, and is looked for nowhere but in"):
            step(cascade)


def test_a_link_that_leads_out_is_no_part(cascade, elsewhere):
    shutil.move(cascade / "edge", elsewhere / "edge")
    (cascade / "edge").symlink_to(elsewhere / "edge")
    with pytest.raises(DataError, match="edge is a link that leads out of"):
        Inspector.from_pretrained(cascade)


@pytest.mark.parametrize("name", ["../edge", "/edge", "..", ".", "a/b", "edge/"])
def test_a_part_lies_right_inside_its_artefact(cascade, name):
    state(cascade, edge={"folder": name})
    with pytest.raises(DataError, match="is no folder right inside its artefact"):
        Inspector.from_pretrained(cascade)


@pytest.mark.parametrize(
    "part", ["edge", None, {}, {"folder": 3}, {"folder": "edge", "hub": "a/b"}, {"server": "http://h:1"}]
)
def test_a_part_that_is_none_says_how_to_make_it_anew(cascade, part):
    state(cascade, edge=part)
    with pytest.raises(DataError, match=r"names a part as .*'hf-inspect calibrate' again"):
        Inspector.from_pretrained(cascade)


@pytest.mark.parametrize(("name", "revision"), [("acme/edge", "main"), ("acme/edge", COMMIT[:12]), ("edge", COMMIT)])
def test_a_repository_is_a_part_at_a_whole_commit_alone(cascade, name, revision):
    state(cascade, edge={"hub": name, "revision": revision})
    with pytest.raises(DataError, match="is no repository org/name at a commit of 40 digits"):
        Inspector.from_pretrained(cascade)


OLD = [
    ({"version": 1}, r"has version 1, and 3 is read here; run 'hf-inspect calibrate' again"),
    ({"version": ...}, r"has version None, and 3 is read here; run 'hf-inspect calibrate' again"),
    ({"files": ...}, r"states no files; run 'hf-inspect calibrate' again"),
    ({"files": {}}, r"states no SHA-256 of any file; run 'hf-inspect calibrate' again"),
    ({"files": None}, r"states no SHA-256 of any file; run 'hf-inspect calibrate' again"),
    ({"files": {"edge/inspect.json": "0"}}, r"states no SHA-256 of edge/inspect\.json, but '0'; run 'hf-inspect cal"),
    ({"files": {"calibration.jsonl": "0" * 64}}, r"states no SHA-256 of any file of its edge; run 'hf-inspect calib"),
    ({"task": ...}, r"states no task; run 'hf-inspect calibrate' again"),
    ({"task": "classification"}, r"does not say which classes there are .* make it again"),
    ({"vlm": {"base": {"folder": "base"}}}, r"names as its vlm .*run 'hf-inspect calibrate' again"),
    ({"vlm": {"base": {"packaged": "demo-base"}, "adapter": None}}, r"no SHA-256 of any file of its base; run 'hf-i"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "sentence"), OLD)
def test_an_older_cascade_or_one_without_hashes_is_refused_in_a_sentence(cascade, changed, sentence):
    state(cascade, **changed)
    for step in (Inspector.from_pretrained, check):
        with pytest.raises(DataError, match=sentence):
            step(cascade)


def test_cascade_json_that_holds_no_table_is_a_sentence(cascade):
    (cascade / "cascade.json").write_text("[]")
    with pytest.raises(DataError, match=r"has version None, and 3 is read here"):
        Inspector.from_pretrained(cascade)


def test_the_scores_of_a_calibration_have_a_hash(cascade):
    kept = without_hash(cascade, "calibration.jsonl")
    state(cascade, files=kept, calibration={"data": "f" * 64, "scores": "calibration.jsonl"})
    with pytest.raises(DataError, match=r"states no SHA-256 of calibration\.jsonl; run 'hf-inspect calibrate' again"):
        Inspector.from_pretrained(cascade)


EDGE_FILES = ("inspect.json", "openvino_model.bin", "openvino_model.xml", TRAINED_ON)


@pytest.mark.parametrize("name", EDGE_FILES)
def test_every_file_of_the_edge_that_decides_has_a_hash(cascade, name):
    assert {path.name for path in (cascade / "edge").iterdir()} == set(EDGE_FILES)
    state(cascade, files=without_hash(cascade, f"edge/{name}"))
    for step in (Inspector.from_pretrained, check):
        with pytest.raises(
            ParityError, match=rf"{name} decides answers, and .* no SHA-256 of edge/{name}; .*calibrate"
        ):
            step(cascade)


def test_a_file_that_came_on_top_and_would_decide_is_refused(cascade):
    files.write_json(cascade / "edge" / "preprocessor_config.json", {})
    with pytest.raises(
        ParityError, match=r"preprocessor_config\.json decides answers, and cascade\.json states no SHA"
    ):
        Inspector.from_pretrained(cascade)
    (cascade / "edge" / "preprocessor_config.json").unlink()
    files.write_text(cascade / "edge" / "README.md", CARD)  # decides nothing
    Inspector.from_pretrained(cascade)


def model(folder: Path, content: bytes = WEIGHTS, **more: bytes) -> Path:
    """A folder that looks like a base's; nothing could load it."""
    files.write_json(folder / "config.json", {"architectures": ["TinyForConditionalGeneration"]})
    files.write_bytes(folder / "model.safetensors", content)
    for name, extra in {"tokenizer.json": b"{}", **more}.items():
        files.write_bytes(folder / name, extra)
    return folder


def adapter(folder: Path) -> Path:
    """A folder that looks like an adapter's."""
    for name in ("adapter_config.json", "prompt.json"):
        files.write_json(folder / name, {"task": BINARY.to_dict()})
    files.write_bytes(folder / "adapter_model.safetensors", WEIGHTS + b"adapter")
    files.write_text(folder / "checkpoint-1" / "optimizer.pt", "of the training")
    files.write_text(folder / "README.md", CARD)
    return folder


def gathered(stage: Path, given: dict, found: dict | None = None) -> dict:
    """cascade.json's content for parts that are gathered in `stage`."""
    parts, places = gather_parts(stage, given, found or {role: Path(name) for role, name in given.items()})
    return {"task": BINARY.to_dict(), "files": hub.file_hashes(places), **hub.stated_parts(parts)}


@pytest.fixture
def whole(tmp_path) -> tuple[Path, dict]:
    """A cascade's folder with edge, base and adapter in it, and what its cascade.json states."""
    given = {
        "edge": brightness_engine(tmp_path / "given" / "e"), "base": model(tmp_path / "given" / "b"),
        "adapter": adapter(tmp_path / "given" / "a"),
    }  # fmt: skip
    return tmp_path / "cascade", gathered(tmp_path / "cascade", given)


def test_edge_adapter_and_base_are_copied_with_the_hash_of_every_file_that_decides(whole):
    folder, stated = whole
    assert stated["edge"] == {"folder": "edge"}
    assert stated["vlm"] == {"base": {"folder": "base"}, "adapter": {"folder": "adapter"}}
    deciding = {
        "edge": EDGE_FILES, "base": ("config.json", "model.safetensors", "tokenizer.json"),
        "adapter": ("adapter_config.json", "adapter_model.safetensors", "prompt.json"),
    }  # fmt: skip
    paths = {f"{role}/{name}" for role, names in deciding.items() for name in names}
    assert stated["files"] == {path: files.sha256(folder / path) for path in paths}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there == paths | {"adapter/README.md"}  # no checkpoint
    for role in deciding:
        assert part_of(folder, stated, role) == folder / role
    assert hub.parts_of(stated) == {role: Part("folder", role) for role in ("edge", "base", "adapter")}


@pytest.mark.parametrize("role", ["edge", "base", "adapter"])
def test_no_part_runs_with_a_file_changed_missing_new_or_without_a_hash(whole, role):
    folder, stated = whole
    for path in [path for path in stated["files"] if path.startswith(f"{role}/")]:
        kept = (folder / path).read_bytes()
        less = {**stated, "files": {one: sha256 for one, sha256 in stated["files"].items() if one != path}}
        with pytest.raises(ParityError, match=f"states no SHA-256 of {path}"):
            part_of(folder, less, role)
        (folder / path).unlink()
        with pytest.raises(ParityError, match="is missing; it is one that the cascade was calibrated with"):
            part_of(folder, stated, role)
        (folder / path).write_bytes(kept[:-1] + b"\xff")
        with pytest.raises(ParityError, match="is not the file that the cascade was calibrated with"):
            part_of(folder, stated, role)
        (folder / path).write_bytes(kept)
    (folder / role / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ParityError, match=f"states no SHA-256 of {role}/preprocessor_config.json"):
        part_of(folder, stated, role)


def test_the_weights_of_a_base_are_linked_where_the_disk_allows_and_copied_elsewhere(tmp_path, monkeypatch):
    base, edge = model(tmp_path / "base"), brightness_engine(tmp_path / "edge")
    gathered(tmp_path / "one", {"edge": edge, "base": base})
    assert (tmp_path / "one" / "base" / "model.safetensors").samefile(base / "model.safetensors")
    for name in ("base/config.json", "edge/openvino_model.bin"):
        assert not (tmp_path / "one" / name).samefile(tmp_path / name)

    def refuse(*paths):
        raise OSError("another disk")

    monkeypatch.setattr("os.link", refuse)
    stated = gathered(tmp_path / "two", {"edge": edge, "base": base})
    assert not (tmp_path / "two" / "base" / "model.safetensors").samefile(base / "model.safetensors")
    assert part_of(tmp_path / "two", stated, "base") == tmp_path / "two" / "base"


def test_a_part_that_is_made_of_links_is_copied_as_files(tmp_path):
    base, edge = model(tmp_path / "blobs"), brightness_engine(tmp_path / "edge")
    (tmp_path / "links").mkdir()
    for path in base.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    gathered(tmp_path / "out", {"edge": edge, "base": tmp_path / "links"})
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]
    assert (tmp_path / "out" / "base" / "model.safetensors").read_bytes() == WEIGHTS


def test_a_vlm_fine_tuned_whole_is_a_base_without_an_adapter(tmp_path):
    given = {"edge": brightness_engine(tmp_path / "e"), "base": model(tmp_path / "b")}
    stated = gathered(tmp_path / "out", given)
    assert stated["vlm"] == {"base": {"folder": "base"}, "adapter": None}
    assert list(hub.parts_of(stated)) == ["edge", "base"]
    assert set(weights_of(stated)) == {"edge/openvino_model.bin", "base/model.safetensors"}


def test_what_was_measured_are_the_weights_of_edge_and_adapter(whole):
    _, stated = whole
    assert set(weights_of(stated)) == {"edge/openvino_model.bin", "adapter/adapter_model.safetensors"}
    alone = {**stated, "vlm": None, "files": {k: v for k, v in stated["files"].items() if k.startswith("edge/")}}
    assert set(weights_of(alone)) == {"edge/openvino_model.bin"}


def test_a_pulled_repository_is_named_at_its_commit(tmp_path, elsewhere):
    snapshot = brightness_engine(tmp_path / "cache" / "snapshots" / COMMIT)
    parts, places = gather_parts(tmp_path / "out", {"edge": "acme/edge@main"}, {"edge": snapshot})
    assert parts == {"edge": Part("hub", "acme/edge", COMMIT)}
    assert places == {"edge": snapshot}
    assert set(hub.file_hashes(places)) == {f"edge/{name}" for name in EDGE_FILES}
    assert not (tmp_path / "out").exists()


def test_a_base_out_of_packages_is_named_and_hashed_and_lies_in_no_folder_here(tmp_path, elsewhere):
    cache = model(tmp_path / "cache" / "tiny-base-2")
    model(elsewhere / "tiny-base", b"of somebody else")
    edge = brightness_engine(tmp_path / "edge")
    stated = gathered(tmp_path / "out", {"edge": edge, "base": "tiny-base"}, {"edge": edge, "base": cache})
    assert stated["vlm"] == {"base": {"packaged": "tiny-base"}, "adapter": None}
    assert not (tmp_path / "out" / "base").exists()
    assert part_of(tmp_path / "out", stated, "base", lambda name: cache) == cache
    with pytest.raises(DataError, match=r"its base tiny-base is assembled from packages, and not here"):
        part_of(tmp_path / "out", stated, "base")
    with pytest.raises(DataError, match=r"its base 'tiny-base' is no base that packages bring"):
        part_of(tmp_path / "out", stated, "base", lambda name: elsewhere / name)
    files.write_bytes(cache / "model.safetensors", b"another assembly")
    with pytest.raises(ParityError, match=r"model\.safetensors is not the file that the cascade was calibrated with"):
        part_of(tmp_path / "out", stated, "base", lambda name: cache)
    for role, name in (("base", "outputs"), ("base", "../base"), ("edge", "tiny-base")):
        other = {**stated, "edge": {"packaged": name}} if role == "edge" else stated | {
            "vlm": {"base": {"packaged": name}, "adapter": None}
        }  # fmt: skip
        with pytest.raises(DataError, match=f"its {role} '{name}' is no base that packages bring"):
            part_of(tmp_path / "out", other, role, lambda name: cache)


def test_parts_must_be_of_their_role_s_kind_and_of_the_cascade_s_task(cascade):
    other = TaskSpec.of(("good", "crack"), good=["good"])
    state(cascade, task=other.to_dict())
    with pytest.raises(
        DataError, match=r"answer different questions(.|\n)*good \(good\), defect \(defect\)(.|\n)*crack"
    ):
        check(cascade)
    shutil.rmtree(cascade / "edge")
    model(cascade / "edge")
    hashes = {f"edge/{path.name}": files.sha256(path) for path in (cascade / "edge").iterdir()}
    state(cascade, files=hashes)
    with pytest.raises(InspectError, match="edge is a vlm, and the edge of a cascade is a student"):
        check(cascade)


def test_a_kind_is_one_value_with_all_that_it_differs_in():
    assert [kind.name for kind in KINDS] == [
        "Space",
        "cascade",
        "teacher",
        "adapter",
        "student",
        "data set",
        "vlm",
        "anomaly model",
        "detector",
        "segmenter",
        "exemplar pool",
    ]
    assert [kind.repo_type for kind in KINDS] == ["space", *["model"] * 4, "dataset", *["model"] * 5]
    measured = {kind.name: (kind.section, kind.template, kind.pipeline) for kind in KINDS if kind.metrics}
    assert measured == {
        "cascade": ("cascade", "cascade.md.j2", "image-classification"),
        "adapter": ("vlm", "adapter.md.j2", "image-text-to-text"),
        "student": ("edge", "student.md.j2", "image-classification"),
        "vlm": ("vlm", "vlm.md.j2", "image-text-to-text"),
        "anomaly model": ("anomaly", "anomaly.md.j2", "image-classification"),
        "detector": ("detection", "detector.md.j2", "object-detection"),
        "segmenter": ("detection", "detector.md.j2", "image-segmentation"),
    }
    for kind in KINDS:
        assert kind.marks or kind.architecture
        assert bool(kind.section) == bool(kind.template)
        assert bool(kind.metrics) == bool(kind.pipeline)
        assert kind.template or not kind.metrics
        assert kind.template is None or (files.shipped("model_cards") / kind.template).is_file()


def test_what_a_folder_answers_is_read_where_its_kind_states_it(tmp_path, cascade):
    assert hub.task_of(cascade) == hub.task_of(cascade / "edge") == BINARY
    assert hub.task_of(adapter(tmp_path / "adapter")) == BINARY
    assert hub.task_of(model(tmp_path / "base")) is None
    student = {"architectures": ["TimmForImageClassification"], "inspection_task": BINARY.to_dict()}
    files.write_json(tmp_path / "student" / "config.json", student)
    assert kind_of(tmp_path / "student") is kinds.STUDENT
    assert hub.task_of(tmp_path / "student") == BINARY
    files.write_json(tmp_path / "student" / "config.json", student | {"inspection_task": None})
    with pytest.raises(DataError, match=r"config\.json does not say which classes there are"):
        hub.task_of(tmp_path / "student")


def test_every_licence_that_a_history_holds_is_stated(tmp_path):
    seen = History((Source("a", "1", "CC-BY-NC-4.0", 3), Source("b", "2", "CC0-1.0", 4)))
    files.write_json(tmp_path / TRAINED_ON, seen.to_dict())
    files.write_json(tmp_path / "config.json", {"licence": "AGPL-3.0"})
    from hf_inspect.hub.licences import stated_licences

    found = {path.name: path for path in tmp_path.iterdir()}
    assert stated_licences(found) == {TRAINED_ON: "CC-BY-NC-4.0 AND CC0-1.0", "config.json": "AGPL-3.0"}
    (tmp_path / TRAINED_ON).write_text(json.dumps({"licence": "CC0-1.0", "fingerprint": "f", "images": []}))
    with pytest.raises(DataError, match=r"trained_on\.json is no record of a training that this version reads"):
        stated_licences(found)
