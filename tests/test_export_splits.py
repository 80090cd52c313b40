"""Which images an export touches: ranges of 8 bits come from those it was trained on, and the gate from others."""

import pytest

from hf_inspect.data import load_split
from hf_inspect.export import export_student, student
from tests import tiny_edge


class Stopped(Exception):
    pass


def test_ranges_are_of_training_images_and_the_gate_is_of_validation(tmp_path, monkeypatch):
    taken, write, compare = [], student.write_int8, student.compare

    def noted(source, folder, rows, reading):
        taken.extend(image["path"] for image in rows["image"])
        write(source, folder, rows, reading)

    def compared(engine, source, data, split, limits):
        assert split == "validation"
        compare(engine, source, data, split, limits)
        raise Stopped

    monkeypatch.setattr(student, "write_int8", noted)
    monkeypatch.setattr(student, "compare", compared)
    with pytest.raises(Stopped):
        export_student(tiny_edge.student(), tmp_path / "out", data=tiny_edge.data(), int8=True)
    assert taken == [image["path"] for image in load_split(tiny_edge.data(), "train")["image"]]
    assert not (tmp_path / "out").exists()
