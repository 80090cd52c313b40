import pytest

from hf_inspect import files
from hf_inspect.errors import DataError
from hf_inspect.schema import Verdict


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert files.read_json(path) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"
    stop = files.staged_folder(out)
    (stop.__enter__() / "half").write_text("x")
    assert not stop.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(tmp_path.iterdir()) == []
    with files.staged_folder(out) as stage:
        (stage / "manifest.json").write_text("{}")
    with files.staged_folder(out) as stage:
        (stage / "manifest.json").write_text("[]")
    assert (out / "manifest.json").read_text() == "[]"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_of_somebody_else_s_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("photos", "file"):
        with pytest.raises(DataError):
            files.staged_folder(tmp_path / name).__enter__()
    assert (tmp_path / "photos" / "1.png").read_text() == "x"


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
