"""Steps of a recipe: done once, again when what made them changed, and by forks where these do what a process would."""

import dataclasses
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from hf_inspect import files
from hf_inspect.training import INSPECT, LAUNCH, Step, do, perform, steps


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def step(tmp_path, out):
    """A step that reads one file and adds a line to its result each time it is done."""
    read, made = tmp_path / "read.json", out / "sub" / "made.txt"
    read.write_text("{}")
    made.parent.mkdir(parents=True)
    return Step(made, adding(made, "done"), [read])


def adding(path, word):
    return [sys.executable, "-c", "import sys; open(sys.argv[1], 'a').write(sys.argv[2])", str(path), f"{word}\n"]


FAILS = [sys.executable, "-c", "raise SystemExit(3)"]


def times(step):
    return step.made.read_text().count("done")


def test_a_step_is_done_again_when_anything_it_was_made_from_changed(step, out):
    for _ in range(2):
        do(step, out, "data")
        assert times(step) == 1
    do(step, out, "other data")
    assert times(step) == 2
    step.reads[0].write_text("{ }")
    do(step, out, "other data")
    assert times(step) == 3
    do(dataclasses.replace(step, command=[*step.command, "more"]), out, "other data")
    assert times(step) == 4
    step.made.unlink()
    do(step, out, "other data")
    assert times(step) == 1


def test_a_result_that_nothing_is_known_of_is_made_again(step, out):
    step.made.write_text("somebody's")
    do(step, out, "data")
    assert times(step) == 1


def test_a_step_that_failed_leaves_no_word_that_it_was_done(step, out):
    do(step, out, "data")
    for _ in range(2):  # the second time its own stamp is there, and the result that another command made
        with pytest.raises(SystemExit, match="ended with 3"):
            do(dataclasses.replace(step, command=FAILS), out, "data")
    do(step, out, "data")
    assert times(step) == 2, "its old result counted as the new one"


def test_what_is_given_instead_is_noted_and_counts_as_done(step, out):
    second = dataclasses.replace(step, command=FAILS, instead=adding(step.made, "done"))
    for _ in range(2):
        do(second, out, "data")
        assert (times(second), files.read_json(second.stamp(out))["instead"]) == (1, True)
    with pytest.raises(SystemExit, match="ended with 3"):
        do(dataclasses.replace(second, instead=FAILS), out, "other data")


def test_checkpoints_go_only_where_they_were_made_from_something_else(step, out, capsys):
    anew = dataclasses.replace(step, anew=True)
    (step.made.parent / "checkpoint-3").mkdir()
    with pytest.raises(SystemExit):
        do(dataclasses.replace(anew, command=FAILS), out, "data")
    assert (step.made.parent / "checkpoint-3").is_dir()
    with pytest.raises(SystemExit):  # the same again goes on from it
        do(dataclasses.replace(anew, command=FAILS), out, "data")
    assert (step.made.parent / "checkpoint-3").is_dir()
    do(step, out, "other data")  # a recipe refuses it, and says what differs
    assert (step.made.parent / "checkpoint-3").is_dir()
    do(anew, out, "third data")
    assert not (step.made.parent / "checkpoint-3").exists()
    assert f"{step.made.parent / 'checkpoint-3'} is dropped" in capsys.readouterr().out


def test_a_folder_that_was_moved_is_what_it_was(step, out, tmp_path):
    moved = tmp_path / "elsewhere"
    do(Step(out / "made.txt", adding(out / "made.txt", "done"), [out / "sub"]), out, "data")
    out.rename(moved)
    again = Step(moved / "made.txt", adding(moved / "made.txt", "done"), [moved / "sub"])
    do(again, moved, "data")
    assert times(again) == 1
    assert str(tmp_path) not in again.stamp(moved).read_text()


def test_only_commands_of_ours_are_forks(monkeypatch, tmp_path):
    assert steps._script_of([sys.executable, "-c", "pass"]) is None
    assert steps._script_of([INSPECT, "export", "x"]) == [INSPECT, "export", "x"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    assert steps._script_of([*LAUNCH, "train.py", "--config", "x"]) == ["train.py", "--config", "x"]
    assert steps._script_of([*LAUNCH, "--num_processes", "2", "train.py"]) is None
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text("num_processes: 2\n")
    assert steps._script_of([*LAUNCH, "train.py"]) is None, "the user's settings of accelerate are passed over"


@pytest.fixture
def ours(tmp_path, monkeypatch):
    """What makes a script that takes the place of this environment's own command."""
    path = tmp_path / "ours"
    monkeypatch.setattr(steps, "_ONCE", ("numpy", "no_such_module"))
    monkeypatch.setattr(steps, "INSPECT", str(path))

    def write(text):
        path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.mark.parametrize("forks", [True, False])
def test_a_command_does_the_same_either_way(monkeypatch, capfd, ours, forks):
    monkeypatch.setattr(steps, "_may_fork", lambda: forks)
    command = ours("print(__name__, sys.argv[1:])\nsys.exit('told why' if 'fail' in sys.argv else 0)")
    assert perform([command, "a b"]) == 0
    assert perform([command, "fail"]) == 1
    out, err = capfd.readouterr()
    assert out.splitlines() == [f"$ {command} 'a b'", "__main__ ['a b']", f"$ {command} fail", "__main__ ['fail']"]
    assert "told why" in err


@pytest.mark.skipif(sys.platform != "linux", reason="steps are forks on Linux alone")
def test_a_step_ends_with_its_run(monkeypatch, tmp_path, ours):
    monkeypatch.setattr(steps, "_may_fork", lambda: True)
    said = tmp_path / "pid"
    command = ours(f"print(os.getpid(), file=open({str(said)!r}, 'w'), flush=True)\ntime.sleep(60)")
    run = get_context("fork").Process(target=perform, args=([command],))
    run.start()
    pid = awaited(lambda: said.exists() and said.read_text().strip())
    run.kill()
    run.join()
    assert awaited(lambda: not is_running(pid)), "a second run would write the same files beside it"


def awaited(found):
    for _ in range(200):
        if value := found():
            return value
        time.sleep(0.1)
    return None


def is_running(pid):
    stat = Path("/proc", pid, "stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
