"""The README's commands and snippet, run in its order in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

from hf_inspect import demo

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readme_opens_with_two_commands_and_a_picture():
    first, then = README.split("```")[1], README.split("```")[2]
    assert [line.split("#")[0].strip() for line in first.splitlines()[1:]] == ["make demo", "make test"]
    picture = re.match(r"\n\n!\[[^]]+\]\(([^)]+)\)", then)
    assert (ROOT / picture[1]).is_file()


def test_every_folder_it_names_is_there():
    for name in re.findall(r"^\| `(\w+)/` \|", README, re.MULTILINE):
        assert (ROOT / name).is_dir(), name


def test_its_commands_and_snippet_run(tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "outputs/demo").mkdir(parents=True)
    (tmp_path / "outputs/demo/cascade").symlink_to(demo.assets())
    commands = blocks("bash")[1].splitlines()
    assert [line.split()[0] for line in commands] == [".", "hf-inspect", "accelerate", *["hf-inspect"] * 3]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    for command in commands[1:-1]:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    snippet = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert snippet.returncode == 0, snippet.stderr[-3000:]
    assert "Verdict(label=" in snippet.stdout
    (tmp_path / "outputs/photos").mkdir()
    (tmp_path / "cell.png").rename(tmp_path / "outputs/photos/cell.png")
    for _ in range(2):  # the second run finds everything done
        done = subprocess.run(commands[-1], shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "1 inspected" in done.stdout
    assert len((tmp_path / "outputs/verdicts.jsonl").read_text().splitlines()) == 1
