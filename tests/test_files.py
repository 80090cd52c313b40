import errno
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hf_inspect import files
from hf_inspect.errors import DataError
from hf_inspect.files import swap
from hf_inspect.schema import Verdict
from tests import killed


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert files.read_json(path) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_a_full_disk_leaves_the_old_file_and_nothing_beside(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_json(path, "old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, "new")
    assert files.read_json(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_threads_that_write_one_file_leave_one_of_theirs_whole(tmp_path):
    texts = [str(i) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: files.write_text(tmp_path / "x", texts[i % 8]), range(80)))
    assert (tmp_path / "x").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def made(out, **contents):
    """A folder of ours."""
    with files.staged_folder(out) as stage:
        for name, text in (contents or {"manifest": "{}"}).items():
            files.write_text(stage / f"{name}.json", text)
    return out


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    stop = files.staged_folder(out)
    (stop.__enter__() / "half").write_text("x")
    assert not stop.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(tmp_path.iterdir()) == []
    made(out)
    made(out, manifest="[]")
    assert (out / "manifest.json").read_text() == "[]"
    assert names(tmp_path) == ["out", "out/.hf_inspect", "out/manifest.json"]


def states(folder):
    found = {name: (folder / name).lstat() for name in names(folder)}
    return {name: (one.st_ino, one.st_size, one.st_mtime_ns) for name, one in found.items()}


def of_nobody(out):
    files.write_text(out / "manifest.json", "{}")
    files.write_text(out / "config.json", "{}")
    return "config.json, manifest.json, and no .hf_inspect"


def a_file_more(out):
    (made(out) / "raw").mkdir()
    (out / "raw" / "1.png").write_text("x")
    return "not as it is now: raw/1.png"


def a_text_changed(out):
    made(out, README="# A").joinpath("README.json").write_text("# B")
    return r"README.json \(changed\)"


def a_link(out):
    (out.parent / "raw").mkdir()
    (out.parent / "raw" / "1.png").write_text("x")
    made(out).joinpath("raw").symlink_to(out.parent / "raw", target_is_directory=True)
    return "now: raw"


def a_file_that_became_a_link(out):
    out.with_name("mine").write_text("{}")
    made(out).joinpath("manifest.json").unlink()
    (out / "manifest.json").symlink_to(out.with_name("mine"))
    return r"manifest.json \(changed\)"


def a_marker_changed(out):
    marker = made(out) / files.MARKER
    (out / "mine.json").write_text("{}")
    marker.write_text(marker.read_text().replace("manifest.json", "mine.json"))
    return "manifest.json, mine.json, and no .hf_inspect"


def hidden(out):
    (made(out) / ".git").mkdir()
    (out / ".git" / "HEAD").write_text("x")
    return "now: .git/HEAD"


FOREIGN = (of_nobody, a_file_more, a_text_changed, a_link, a_file_that_became_a_link, a_marker_changed, hidden)


@pytest.mark.parametrize("change", FOREIGN, ids=lambda change: change.__name__)
def test_what_is_not_ours_is_never_replaced(tmp_path, change):
    said = change(tmp_path / "out")
    before = states(tmp_path)
    with pytest.raises(DataError, match=said):
        made(tmp_path / "out", other="1")
    assert states(tmp_path) == before


def test_a_file_or_a_mount_is_no_folder_to_write_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file; give a folder"):
        made(tmp_path / "file")
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "volume")
    (tmp_path / "volume").mkdir()
    with pytest.raises(DataError, match="is a mount, which cannot be replaced"):
        made(tmp_path / "volume")


def test_what_commands_of_ours_add_later_is_ours(tmp_path):
    out = made(tmp_path / "out", README="# A", config="{}")
    files.write_text(out / "README.json", "# B")
    files.write_json(out / "results.json", {})
    files.write_bytes(out / "plots" / "roc.png", b"png")
    files.write_text(out / "results.scores.jsonl", "{}\n")
    files.write_text(out / "results.scores.validation.jsonl", "{}\n")
    for growing in out.glob("*.scores.*"):
        growing.write_text("{}\n{}\n")
    assert files.foreign(out) == []
    (out / "plots" / "photo.png").write_text("a person's")
    assert files.foreign(out) == ["plots/photo.png"]
    (out / "plots" / "photo.png").unlink()
    made(out)
    assert names(out) == [".hf_inspect", "manifest.json"]


def test_notes_and_the_count_of_evaluations_outlive_a_new_folder(tmp_path):
    out = made(tmp_path / "out")
    kept = {"notes.md": "a person's", "edge/notes.md": "of a part", "evaluations.json": "[1]"}
    for name, text in kept.items():
        files.write_text(out / name, text)
    for content in ("1", "2"):
        made(out, manifest=content)
        assert {name: (out / name).read_text() for name in kept} == kept
        assert (out / "manifest.json").read_text() == content


def bringing(out, notes):
    with files.staged_folder(out) as stage:
        files.write_text(stage / "notes.md", notes)


def test_notes_of_a_person_are_not_lost_to_notes_that_a_new_folder_brings(tmp_path):
    out = made(tmp_path / "out")
    (out / "notes.md").write_text("a person's")
    with pytest.raises(DataError, match=r"holds a notes\.md of its own, and the new folder brings another"):
        bringing(out, "copied")
    assert (out / "notes.md").read_text() == "a person's"
    (out / "notes.md").rename(tmp_path / "notes.md")
    for text in ("copied", "copied anew"):
        bringing(out, text)
        assert (out / "notes.md").read_text() == text
    (out / "notes.md").write_text("edited")
    with pytest.raises(DataError, match=r"notes\.md \(changed\)"):
        made(out)


def test_an_out_that_is_holds_or_lies_in_an_input_is_refused(tmp_path):
    raw = tmp_path / "data" / "raw"
    files.write_text(raw / "ok" / "1.png", "x")
    (tmp_path / "link").symlink_to(raw, target_is_directory=True)
    (tmp_path / "way").symlink_to(tmp_path / "data", target_is_directory=True)
    archive = tmp_path / "data" / "raw.zip"
    archive.write_text("x")
    refused = [raw, raw / "out", raw / "ok", tmp_path / "data", tmp_path / "link", tmp_path / "link" / "a" / "b"]
    refused += [tmp_path / "way", tmp_path / "way" / "raw", tmp_path / "data" / "x" / ".." / "raw", tmp_path]
    before = names(tmp_path)
    for given in (raw, tmp_path / "link", tmp_path / "way" / "raw"):
        for out in refused:
            with pytest.raises(DataError, match="which is read, overlap; give an --out beside it"):
                files.staged_folder(out, [given]).__enter__()
    for out in (tmp_path / "data", archive):
        with pytest.raises(DataError, match="overlap"):
            files.staged_folder(out, [archive]).__enter__()
    assert names(tmp_path) == before
    with files.staged_folder(tmp_path / "data" / "out", [raw, archive, tmp_path / "not there"]):
        pass
    assert (tmp_path / "data" / "out").is_dir()


def test_a_link_to_a_folder_stays_one(tmp_path):
    made(tmp_path / "disk" / "out", manifest="1")
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    made(tmp_path / "out", manifest="2")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "out" / "manifest.json").read_text() == "2"


def test_killed_at_every_step_the_old_folder_or_the_new_one_stands_or_is_put_there(tmp_path):
    memory = Path("/dev/shm")  # where fsync costs nothing
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as root:
        done = subprocess.run([sys.executable, killed.__file__, root], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    old, new, newer = ({**one, **killed.PERSON} for one in (killed.OLD, killed.NEW, killed.NEWER))
    over, first = ([one for one in found if one["over"] is over] for over in (True, False))
    assert all(one["killed"] in (old, new, None) for one in over)
    assert all(one["next"] in ([old, new] if one["killed"] == old else [new]) for one in over)
    assert all(one["killed"] in (killed.NEW, None) and one["next"] in (killed.NEW, None) for one in first)
    assert all(one["last"] == (newer if one["over"] else killed.NEWER) for one in found)
    assert all(one["left"] == one["beside"] == [] for one in found)
    between = {one["step"] for one in over if one["killed"] is None}
    assert len(between) == 1, "nothing stands there between two renames, and no longer"
    assert {one["again"] for one in over if one["step"] in between} >= set(range(40))
    assert {json.dumps(one["killed"]) for one in over} == {json.dumps(one, sort_keys=True) for one in (old, new, None)}


def to_nothing(out):
    """A run of ours that fails."""
    with pytest.raises(ValueError, match="no"), files.staged_folder(out):
        raise ValueError("no")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["disk", "stop"])
def test_a_swap_that_fails_half_way_puts_the_old_folder_back(tmp_path, monkeypatch, error):
    out, rename = made(tmp_path / "out", manifest="old"), Path.rename

    def failing(path, target):
        if path.name == "new":
            raise error
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        with pytest.raises(type(error)):
            made(out, manifest="new")
    assert (out / "manifest.json").read_text() == "old"
    to_nothing(out)
    assert (out / "manifest.json").read_text() == "new", "what was finished is put in place by the next run"
    assert names(tmp_path) == ["out", "out/.hf_inspect", "out/manifest.json"]


def test_a_file_that_comes_in_while_a_run_writes_is_not_lost_and_neither_is_the_run(tmp_path):
    out = made(tmp_path / "out", manifest="old")
    run = files.staged_folder(out)
    files.write_text(run.__enter__() / "manifest.json", "new")
    (out / "mine.txt").write_text("x")
    with pytest.raises(DataError, match=r"not as it is now: mine\.txt.* What was made waits beside it, in \.out\."):
        run.__exit__(None, None, None)
    assert (out / "mine.txt").read_text() == "x"
    assert (out / "manifest.json").read_text() == "old"
    (out / "mine.txt").rename(tmp_path / "mine.txt")
    to_nothing(out)
    assert (out / "manifest.json").read_text() == "new"
    assert names(tmp_path) == ["mine.txt", "out", "out/.hf_inspect", "out/manifest.json"]


WAITING = """
import sys, time
from pathlib import Path
from hf_inspect import files
with files.staged_folder(Path(sys.argv[1])) as stage:
    (stage / "half").write_text("x")
    print(stage.parent, flush=True)
    time.sleep(60)
"""


def test_a_stage_of_a_run_that_lives_is_left_alone_and_one_of_a_killed_run_is_not(tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", WAITING, out], stdout=subprocess.PIPE, text=True) as other:
        work = Path(other.stdout.readline().strip())
        made(out, manifest="1")
        assert (work / "new" / "half").read_text() == "x"
        other.kill()
        other.wait()
    assert work.exists()
    made(out, manifest="2")
    assert names(tmp_path) == ["out", "out/.hf_inspect", "out/manifest.json"]


def left(out, monkeypatch, *, finished, stands):
    """What a run on another machine left beside `out` that was stopped."""
    with monkeypatch.context() as patched:
        for name in ("_boot", "_machine"):
            patched.setattr(swap, name, lambda: "0" * 8)
        if finished:
            patched.setattr(swap, "_exchange", lambda work, out: sys.exit("killed"))
        else:
            patched.setattr(swap.shutil, "rmtree", lambda *rest, **options: None)
        run = files.staged_folder(out)
        files.write_text(run.__enter__() / "manifest.json", "theirs")
        with pytest.raises(SystemExit):
            run.__exit__(None, None, None) if finished else run.__exit__(SystemExit, SystemExit(), None) or sys.exit()
    [work] = out.parent.glob(".out.*")
    if not stands and out.exists():
        out.rename(work / "old-00000000")
    return work


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("stands", [True, False])
def test_what_another_machine_left_is_deleted_by_nobody_and_put_in_place_where_nothing_stands(
    tmp_path, monkeypatch, finished, stands
):
    out = made(tmp_path / "out", manifest="old")
    work = left(out, monkeypatch, finished=finished, stands=stands)
    with pytest.warns(UserWarning, match="left by a run on another machine; delete it if nothing writes there"):
        to_nothing(out)
    assert work.is_dir()
    assert (work / "new").is_dir() == (stands or not finished)
    assert (out / "manifest.json").read_text() == ("theirs" if finished and not stands else "old")


def test_a_finished_stage_does_not_replace_what_was_made_after_it(tmp_path, monkeypatch):
    out = made(tmp_path / "out", manifest="old")
    left(out, monkeypatch, finished=True, stands=True)
    monkeypatch.setattr(swap, "_recover", lambda work, out: None)
    made(out, manifest="newer")
    monkeypatch.undo()
    monkeypatch.setattr(swap, "_boot", lambda: "0" * 8)
    to_nothing(out)
    assert (out / "manifest.json").read_text() == "newer"
    assert names(tmp_path) == ["out", "out/.hf_inspect", "out/manifest.json"]


def test_a_work_folder_of_another_out_is_not_touched(tmp_path, monkeypatch):
    for name in ("a", "a.b", "[a]"):
        made(tmp_path / name, manifest=name)
        monkeypatch.setattr(swap, "_discard", lambda work: None)
        made(tmp_path / name, manifest=name)
        monkeypatch.undo()
    works = {path.name.rsplit(".", 2)[0]: path for path in tmp_path.glob("*.hf_inspect-work")}
    assert set(works) == {".a", ".a.b", ".[a]"}
    for name in ("a", "[a]"):
        made(tmp_path / name)
    assert [name for name, path in works.items() if path.exists()] == [".a.b"]


def test_runs_at_once_into_one_folder_lose_nothing_and_leave_nothing(tmp_path):
    out = made(tmp_path / "out", manifest="first")
    (out / "notes.md").write_text("a person's")

    def several(who):
        for i in range(10):
            made(out, manifest=f"{who} {i}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(several, range(4)))
    assert (out / "manifest.json").read_text() in {f"{who} 9" for who in range(4)}
    assert (out / "notes.md").read_text() == "a person's"
    assert names(tmp_path) == ["out", "out/.hf_inspect", "out/manifest.json", "out/notes.md"]
    assert files.foreign(out) == []


def test_a_table_is_json_with_a_line_a_row(tmp_path):
    rows = [{"a": i, "b": "é"} for i in range(3)]
    files.write_table(tmp_path / "t.json", {"n": 3, "of": {"x": 1}}, "rows", rows)
    assert files.read_json(tmp_path / "t.json") == {"n": 3, "of": {"x": 1}, "rows": rows}
    assert (tmp_path / "t.json").read_text().count('{"a"') == 3
    assert len((tmp_path / "t.json").read_text().splitlines()) == 10


def test_an_artefact_names_no_folder_above_the_working_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = {"org/base": "org/base", "outputs/base": "outputs/base", tmp_path / "a" / "b": "a/b", "/srv/parts/x": "x"}
    assert {path: files.portable_name(path) for path in told} == told


def test_the_weights_of_a_folder_are_those_right_in_it(tmp_path):
    for name in ("a.safetensors", "model.bin", "config.json", "checkpoint-1/a.safetensors"):
        files.write_text(tmp_path / name, name)
    assert files.weights(tmp_path, "edge") == {
        f"edge/{name}": files.sha256(tmp_path / name) for name in ("a.safetensors", "model.bin")
    }


def test_broken_json_names_its_file(tmp_path):
    (tmp_path / "x.json").write_text("{")
    for name, why in (("x.json", "not JSON"), ("y.json", "missing")):
        with pytest.raises(DataError, match=rf"{name} is {why}"):
            files.read_json(tmp_path / name)


def test_a_verdict_is_checked_once_at_construction():
    with pytest.raises(DataError, match="needs the severity"):
        Verdict("defect", "edge", "sure")
    assert Verdict("unreadable", "rule", "empty").to_dict()["severity"] is None
    assert str(Verdict("defect", "edge", "sure", 0.91, "crack", 0.834)) == "defect: crack, 0.83"
    assert str(Verdict("good", "edge", "sure", 0.02, "good", 0.98)) == "good, 0.98"
    assert str(Verdict("undecided", "rule", "between")) == "undecided"
