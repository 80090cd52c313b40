"""Which images an export touches: ranges of 8 bits come from those it was trained on, and the gate from others."""

import pytest

from hf_inspect.data import load_split
from hf_inspect.export import export_student, student
from tests import tiny_edge


class Stopped(Exception):
    pass


def test_ranges_are_of_training_images_and_the_gate_is_of_validation(tmp_path, monkeypatch):
    taken, quantize, compare = [], student.quantized, student.compare

    def noted(form, network, rows, *others):
        taken.extend(image["path"] for image in rows["image"])
        return quantize(form, network, rows, *others)

    def compared(engine, source, data, split, limits):
        assert split == "validation"
        compare(engine, source, data, split, limits)
        raise Stopped

    monkeypatch.setattr(student, "quantized", noted)
    monkeypatch.setattr(student, "compare", compared)
    with pytest.raises(Stopped):
        export_student(tiny_edge.student(), tmp_path / "out", data=tiny_edge.data(), int8=True)
    assert sorted(taken) == sorted(image["path"] for image in load_split(tiny_edge.data(), "train")["image"])
    assert not (tmp_path / "out").exists()
