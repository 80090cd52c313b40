"""Run by `make wheel-check`: push the Space to a Hub on loopback, and start what lies there in a fresh environment.

Arguments: uv, the Space's folder (with the wheel in it), a folder to work in.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.hub import TOKEN, serve

uv, space, work = (Path(argument).absolute() for argument in sys.argv[1:4])
PORT = "7863"
STARTS_WITHIN = 600  # seconds; the VLM's base is fetched and put together first
ASK = """
import sys, time
from gradio_client import Client, handle_file
def client(end):
    while True:
        try:
            return Client(sys.argv[1], verbose=False)
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(1)
print(client(time.monotonic() + float(sys.argv[3])).predict(handle_file(sys.argv[2]), api_name="/inspect"))
"""

with serve() as hub:
    os.environ |= {
        "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(work / "huggingface"), "HF_INSPECT_CACHE": str(work / "cache"),
    }  # fmt: skip
    from huggingface_hub import snapshot_download

    from hf_inspect.hub import push

    print(push(space, "acme/cascade", private=False))  # a private one cannot fetch its own wheel
    pulled = Path(snapshot_download("acme/cascade", repo_type="space", local_dir=work / "pulled"))
    python = work / "venv" / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, work / "venv"], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", python, "-r", "requirements.txt"]
    subprocess.run(install, cwd=pulled, check=True)

begun = time.monotonic()
environment = os.environ | {"GRADIO_SERVER_PORT": PORT, "GRADIO_TEMP_DIR": str(work / "uploads")}
environment.pop("HF_ENDPOINT")
environment.pop("PYTHONPATH", None)
app = subprocess.Popen([python, "app.py"], cwd=pulled, env=environment)
try:
    command = [python, "-c", ASK, f"http://127.0.0.1:{PORT}", "examples/doubtful.png", str(STARTS_WITHIN)]
    said = subprocess.run(command, cwd=pulled, capture_output=True, text=True, env=environment)
finally:
    app.terminate()
    app.wait(30)
print(f"{said.stdout}\nafter {time.monotonic() - begun:.0f} s")
assert said.returncode == 0, said.stderr[-3000:]
assert "<dt>Both together</dt>" in said.stdout, said.stdout  # the VLM was loaded, and answered
