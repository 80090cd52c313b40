"""Run by `make wheel-check` where `hf-inspect[edge]` alone is installed: the edge part works without torch."""

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

for name in ("torch", "transformers", "datasets"):
    assert find_spec(name) is None, f"{name} is installed; hf-inspect[edge] must not pull it in"

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import hf_inspect  # noqa: E402
from hf_inspect import hub, metrics  # noqa: E402
from hf_inspect.reading import Reading  # noqa: E402
from hf_inspect.schema import History  # noqa: E402
from hf_inspect.vlm.identity import About, history_sha256, identity_of  # noqa: E402

package = Path(hf_inspect.__file__).parent
assert "site-packages" in package.parts, package
for folder in ("dataset_scripts", "recipes", "model_cards", "assets"):
    assert (package / folder).is_dir(), f"the wheel lacks {folder}"
assert Path(metrics.module("escape_rate"), "escape_rate.py").is_file()

parts = Path("edge-parts")
parts.mkdir(exist_ok=True)
rng = np.random.default_rng(0)
for i in range(6):
    Image.fromarray(rng.integers(0, 255, (300, 300)).astype(np.uint8)).save(parts / f"{i}.png")
(parts / "broken.png").write_text("text")
command = [Path(sys.executable).with_name("hf-inspect"), "predict", package / "assets/elpv", parts]
done = subprocess.run(command, capture_output=True, text=True)
print(done.stdout)
assert done.returncode == 0, done.stderr
assert "7 inspected" in done.stdout
assert "unreadable 1" in done.stdout
assert "vlm" not in done.stdout.splitlines()[-1].lower() or "no VLM here" in done.stdout

verdict = hf_inspect.Inspector.from_pretrained(package / "assets/elpv")(parts / "0.png")
assert verdict.label in ("good", "defect", "undecided"), verdict
assert verdict.severity_of("vlm") is None

cascade = package / "assets/elpv"
stated = hub.read_cascade(cascade)
ours = {name: sha256 for name, sha256 in stated["files"].items() if name.startswith(("base/", "adapter/"))}
decides, task = {"files": ours}, hf_inspect.Inspector.from_pretrained(cascade, use_vlm=False).task
rule, seen = {"size": {"height": 32, "width": 32}}, history_sha256(History())
about = About("0", task, identity_of(decides), None, rule, Reading(), decides, seen)


class Server(BaseHTTPRequestHandler):
    """A VLM's server that finds every part good."""

    def do_GET(self) -> None:
        """Say what it is, or answer for an image."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        answer = {"severity": 0.0, "probabilities": [1.0, 0.0], "identity": about.identity}
        content = json.dumps(about.to_dict() if self.path == "/vlm" else answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
remote = hf_inspect.Inspector.from_pretrained(cascade, vlm=f"http://127.0.0.1:{server.server_address[1]}")
assert remote.vlm is not None
assert remote.vlm.predict([np.zeros((300, 300, 3), np.uint8)])[0].severity == 0.0
assert "torch" not in sys.modules


def run(*arguments: str) -> float:
    """The seconds that this Python took over it."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begin


# A processor's speed is not ours to test: each is timed in turns with what it cannot do without.
COMMAND = """
import sys, typer
app = typer.Typer()
for i in range(4):
    app.command(str(i))(lambda: None)
sys.argv = ["rival", "--help"]
app()
"""
PAIRS = {
    "import hf_inspect": (["-c", "import numpy, hf_inspect"], ["-c", "import numpy"], "importing numpy"),
    "hf-inspect --help": (["-m", "hf_inspect.cli", "--help"], ["-c", COMMAND], "an empty typer command's"),
}
for name, (ours, theirs, rival) in PAIRS.items():
    times = [(run(*ours), run(*theirs)) for _ in range(7)]
    ratio = min(own for own, _ in times) / min(other for _, other in times)
    print(f"{name}: {ratio:.2f} times {rival}")
    assert ratio < 2

HEAVY = {"torch", "transformers", "datasets", "pandas", "scipy", "sklearn", "onnxruntime", "openvino", "gradio"}
HEAVY |= {"fastapi", "httpx", "huggingface_hub"}
loaded = "import sys, hf_inspect.cli; print(*sys.modules)"
said = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True).stdout.split()
assert not HEAVY & set(said), HEAVY & set(said)
