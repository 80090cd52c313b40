import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hf_inspect import files
from hf_inspect.errors import DataError, ForkError, MissingExtraError, ParityError
from hf_inspect.images import Preprocess, load, prepare
from hf_inspect.runtime import FORMAT, INSPECT, MODEL, PRECISION, TRAINED_ON, Engine
from hf_inspect.schema import BINARY, History, Source, TaskSpec
from tests.conftest import png

SEEN = History((Source("parts", "abc", "CC0-1.0", 1),), (("0" * 64, "1" * 64, "2" * 16),), ("somebody's weights",))
PREPROCESS = Preprocess(8, 12, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def folder_of(path, slope=1.0, **changes):
    """An exported folder whose logits are (-slope * m, slope * m) with m the mean of the prepared image."""
    import openvino
    from openvino import opset13 as ops

    image = ops.parameter([-1, 3, PREPROCESS.height, PREPROCESS.width], np.float32, "pixel_values")
    mean = ops.reduce_mean(image, np.array([1, 2, 3]), keep_dims=False)
    column = ops.unsqueeze(mean, np.array(1))
    logits = ops.multiply(column, np.array([[-slope, slope]], np.float32))
    logits.output(0).set_names({"logits"})
    path.mkdir()
    openvino.save_model(openvino.Model([logits], [image]), path / MODEL, compress_to_fp16=False)
    files.write_json(path / TRAINED_ON, SEEN.to_dict())
    shipped = {p.name: files.sha256(p) for p in path.iterdir()}
    assert set(shipped) == {MODEL, "openvino_model.bin", TRAINED_ON}
    info = {"format": FORMAT, "task": BINARY.to_dict(), "preprocess": PREPROCESS.to_dict()}
    files.write_json(path / INSPECT, info | {"precision": PRECISION, "files": shipped} | changes)
    return path


def severities(engine, images, **options):
    return np.array([one.severity for one in engine.predict(images, **options)])


@pytest.fixture
def folder(tmp_path):
    return folder_of(tmp_path / "edge")


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*rng.integers(1, 60, 2), 3), np.uint8) for _ in range(21)]


def expected(rgb, slope=1.0):
    return 1 / (1 + np.exp(-2 * slope * prepare(rgb, PREPROCESS).astype(np.float64).mean()))


def test_probabilities_are_the_models_own(folder, cells):
    found = Engine.from_pretrained(folder).predict(cells)
    wanted = [expected(rgb) for rgb in cells]
    np.testing.assert_allclose([one.severity for one in found], wanted, atol=1e-6)
    np.testing.assert_allclose([one.probabilities for one in found], [[1 - p, p] for p in wanted], atol=1e-6)


def test_batch_size_and_order_change_nothing(folder, cells):
    engine = Engine.from_pretrained(folder)
    one = severities(engine, cells, batch_size=1)
    for batch_size in (2, 5, 16, 100):
        np.testing.assert_allclose(severities(engine, cells, batch_size=batch_size), one, atol=1e-7)
    np.testing.assert_allclose(severities(engine, cells[::-1])[::-1], one, atol=1e-7)


def test_no_images_give_no_probabilities(folder):
    assert Engine.from_pretrained(folder).predict([]) == []


def test_paths_strings_bytes_and_arrays_agree(folder, cells, tmp_path):
    content = png(cells[0])
    path = tmp_path / "cell.png"
    path.write_bytes(content)
    found = severities(Engine.from_pretrained(folder), [path, str(path), content, load(path).rgb])
    np.testing.assert_allclose(found, expected(cells[0]), atol=1e-6)


def test_attributes(folder):
    engine = Engine.from_pretrained(str(folder), threads=1)
    assert engine.task == BINARY
    assert engine.preprocess == PREPROCESS
    assert engine.info == json.loads((folder / INSPECT).read_text())
    assert engine.history == SEEN


def test_what_it_was_trained_on_is_read_when_it_is_asked_for(folder, cells, monkeypatch):
    monkeypatch.setattr(History, "from_dict", lambda *args: pytest.fail("parsed at the start"))
    Engine.from_pretrained(folder).predict(cells[:1])


def test_the_identity_is_of_all_that_decides(folder, tmp_path):
    one = Engine.from_pretrained(folder).identity
    assert one == Engine.from_pretrained(folder, threads=1).identity
    others = [
        folder_of(tmp_path / "slope", slope=2.0),
        folder_of(tmp_path / "mean", preprocess=PREPROCESS.to_dict() | {"mean": [0.0, 0.0, 0.0]}),
        folder_of(tmp_path / "task", task=TaskSpec.of(["broken", "ok"], ["ok"]).to_dict()),
    ]
    assert len({one, *(Engine.from_pretrained(other).identity for other in others)}) == 4


def test_the_task_says_which_output_is_the_defect(tmp_path, cells):
    """Outputs (-m, m) under other names and another order: the second is the good one here."""
    task = TaskSpec.of(["broken", "ok"], ["ok"])
    swapped = Engine.from_pretrained(folder_of(tmp_path / "edge", task=task.to_dict()))
    np.testing.assert_allclose(severities(swapped, cells), [1 - expected(rgb) for rgb in cells], atol=1e-6)
    name, p = swapped.predict(cells[:1])[0].likeliest(task, "defect")
    assert (name, p) == ("broken", pytest.approx(1 - expected(cells[0]), abs=1e-6))


def test_preprocessing_comes_from_inspect_json(tmp_path, cells):
    other = PREPROCESS.to_dict() | {"mean": [0.0, 0.0, 0.0]}
    found = severities(Engine.from_pretrained(folder_of(tmp_path / "edge", preprocess=other)), cells[:1])
    assert abs(found[0] - expected(cells[0])) > 0.1


def test_huge_logits_do_not_overflow(tmp_path):
    engine = Engine.from_pretrained(folder_of(tmp_path / "edge", slope=1e30))
    black, white = np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), 255, np.uint8)
    assert severities(engine, [black, white]).tolist() == [0.0, 1.0]


def test_logits_that_are_not_finite_are_an_error(tmp_path, cells):
    engine = Engine.from_pretrained(folder_of(tmp_path / "edge", slope=float("nan")))
    with pytest.raises(DataError, match="not finite"):
        engine.predict(cells)


def test_threads_may_share_an_engine(folder, cells):
    engine = Engine.from_pretrained(folder)
    wanted = np.array([expected(rgb) for rgb in cells])

    def worst(seed):
        order = np.random.default_rng(seed).permutation(len(cells))
        found = severities(engine, [cells[i] for i in order], batch_size=(1, 2, 16)[seed % 3])
        return np.abs(found - wanted[order]).max()

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(worst, range(48))) < 1e-6


def test_a_fork_of_an_engine_is_told_to_spawn(folder, cells, tmp_path):
    """In this process a number stands for the fork, so that no child of pytest's own is made."""
    engine = Engine.from_pretrained(folder)
    engine.predict(cells[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.getpid", lambda: -1)
        for asked in (cells, []):
            with pytest.raises(ForkError, match=r"An Engine was loaded in process \d+ .* -1 by a fork.*'spawn'"):
                engine.predict(asked)
    assert len(engine.predict(cells)) == len(cells)


def test_what_cannot_be_predicted(folder, tmp_path):
    engine = Engine.from_pretrained(folder)
    with pytest.raises(DataError, match="does not exist"):
        engine.predict([tmp_path / "no.png"])
    with pytest.raises(DataError, match="An image came as float64"):
        engine.predict([np.zeros((4, 4, 3))])
    with pytest.raises(DataError, match="An image came as int"):
        engine.predict([7])
    with pytest.raises(DataError, match="batch_size is 0"):
        engine.predict([], batch_size=0)


# A folder that is not as it was written.


def test_missing_folder_and_files(folder, tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        Engine.from_pretrained(tmp_path / "nowhere")
    (folder / TRAINED_ON).unlink()
    with pytest.raises(DataError, match=r"trained_on\.json, named in inspect\.json, is missing"):
        Engine.from_pretrained(folder)
    (folder / INSPECT).unlink()
    with pytest.raises(DataError, match=r"inspect\.json is missing"):
        Engine.from_pretrained(folder)


@pytest.mark.parametrize("name", [MODEL, "openvino_model.bin", TRAINED_ON])
def test_a_changed_file_is_named(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(ParityError, match=f"{name} is not the file"):
        Engine.from_pretrained(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 2}'])
def test_broken_inspect_json(folder, content):
    (folder / INSPECT).write_text(content)
    with pytest.raises(DataError, match=r"inspect\.json"):
        Engine.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 1}, "has format 1; this version reads 2. Export the student again"),
        ({"precision": "bf16"}, "precision 'bf16'"),
        ({"task": ["good", "bad"]}, "does not say which classes there are"),
        ({"task": TaskSpec.of(["good", "fine"], ["good", "fine"]).to_dict()}, "needs a good and a defect class"),
        ({"task": TaskSpec.of(["good", "worn", "defect"], ["good"]).to_dict()}, r"wants .* to .+,3\]"),
        ({"preprocess": {}}, "exactly the keys"),
        ({"preprocess": PREPROCESS.to_dict() | {"height": 9}}, r"wants .\?,3,9,12. to"),
        ({"files": {}}, "names no SHA-256"),
        ({"files": {MODEL: "", TRAINED_ON: "", "../x": ""}}, "(is missing|is not the file)"),
    ],
)
def test_inspect_json_that_does_not_fit(tmp_path, changes, message):
    with pytest.raises((DataError, ParityError), match=message):
        Engine.from_pretrained(folder_of(tmp_path / "edge", **changes))


def test_files_outside_the_folder_are_not_looked_at(folder):
    info = json.loads((folder / INSPECT).read_text())
    (folder.parent / "x").write_text("x")
    info["files"]["../x"] = files.sha256(folder.parent / "x")
    files.write_json(folder / INSPECT, info)
    with pytest.raises(DataError, match=r"\.\./x, named in inspect\.json, is missing"):
        Engine.from_pretrained(folder)


def test_a_model_that_is_none(folder):
    (folder / MODEL).write_text("<net/>")
    info = json.loads((folder / INSPECT).read_text())
    info["files"][MODEL] = files.sha256(folder / MODEL)
    files.write_json(folder / INSPECT, info)
    with pytest.raises(DataError, match="does not run"):
        Engine.from_pretrained(folder)


def test_without_openvino_the_pip_line_is_said(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hf-inspect\[edge\]'"):
        Engine.from_pretrained(folder)


def test_runs_without_torch(folder, cells, tmp_path):
    path = tmp_path / "cell.png"
    path.write_bytes(png(cells[0]))
    code = (
        "import sys; from hf_inspect.runtime import Engine; assert 'openvino' not in sys.modules;"
        f"print(Engine.from_pretrained({str(folder)!r}).predict([{str(path)!r}])[0].severity);"
        "assert not {'torch', 'transformers', 'datasets', 'optimum', 'scipy'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(ran.stdout) == pytest.approx(expected(cells[0]), abs=1e-6)
