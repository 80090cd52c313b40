"""The metrics that `evaluate` loads from a folder, alone and combined, against the package's own arithmetic."""

import ast
import math
import re
import shutil
from pathlib import Path

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_inspect import metrics
from hf_inspect.errors import DataError

NAMES = ("auroc", "escape_rate", "overkill_rate")
PARTS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.5, 0.6, 1.0])), min_size=1, max_size=25)


@pytest.fixture(scope="module", autouse=True)
def modules_of_the_tests(tmp_path_factory):
    """`evaluate` copies modules and keeps rows in folders of these tests alone."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", folder / "modules")
        patch.setattr("evaluate.config.HF_METRICS_CACHE", folder / "metrics")
        yield


@pytest.fixture(scope="module")
def loaded(modules_of_the_tests):
    return {name: evaluate.load(metrics.module(name), keep_in_memory=True) for name in NAMES}


@pytest.fixture(scope="module")
def combined(loaded):
    return evaluate.combine(list(loaded.values()))


def wanted(labels, p, threshold):
    """What hf_inspect.metrics says, under the modules' names."""
    report = metrics.binary_report(labels, p, threshold)
    found = {}
    for name, figure in zip(NAMES, (report["auroc"], report["escapes"], report["overkill"]), strict=True):
        found |= {name: figure["value"]} | {f"{name}_{k}": figure[k] for k in ("low", "high", "k", "n") if k in figure}
    return {key: value if value is None else pytest.approx(value, abs=1e-9) for key, value in found.items()}


@settings(max_examples=15, deadline=None)
@given(PARTS, st.sampled_from([0.3, 0.5, 1.0]))
def test_they_say_what_the_package_says(combined, parts, threshold):
    labels, p = map(list, zip(*parts, strict=True))
    assert combined.compute(predictions=p, references=labels, threshold=threshold) == wanted(labels, p, threshold)


def test_each_is_loaded_alone_and_fed_by_batches(loaded):
    p, labels = [0.2, 0.9, 0.4, 0.7, 0.1, 0.6], [0, 1, 1, 0, 0, 1]
    expected = wanted(labels, p, 0.5)
    for name, metric in loaded.items():
        for at in (0, 2, 4):
            metric.add_batch(predictions=p[at : at + 2], references=np.array(labels[at : at + 2]))
        found = metric.compute()
        assert found == {key: value for key, value in expected.items() if key.startswith(name)}
        assert "interval" in metric.description
        assert metric.citation.strip().startswith("@article")
    decided = [value >= 0.5 for value in p]
    assert loaded["escape_rate"].compute(predictions=decided, references=labels)["escape_rate_k"] == 1


def test_the_lines_of_model_cards_readme_run(capsys):
    text = (Path(__file__).parents[1] / "model_cards/README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {})
    found = ast.literal_eval(capsys.readouterr().out)
    assert (found["escape_rate"], found["overkill_rate"], found["auroc"]) == (0.5, 0.5, 0.75)


def test_a_copy_far_from_the_package_is_loaded_as_well(tmp_path):
    copy = Path(shutil.copytree(metrics.module("escape_rate"), tmp_path / "escape_rate"))
    found = evaluate.load(str(copy / "escape_rate.py")).compute(predictions=[0, 1, 1, 0], references=[1, 1, 0, 0])
    assert found["escape_rate"] == 0.5


@pytest.mark.parametrize("name", NAMES)
def test_wrong_input_is_a_sentence(loaded, name):
    wrong = {
        "predictions hold 2; give P": ([0, 2], [0, 1]),
        "predictions hold nan; give P": ([0, math.nan], [0, 1]),
        "references hold 3; give 0": ([0, 1], [0, 3]),
        r"number of predictions \(2\) and references \(1\)": ([0, 1], [1]),
    }
    for sentence, (p, labels) in wrong.items():
        with pytest.raises(ValueError, match=sentence):
            loaded[name].compute(predictions=p, references=labels)
    with pytest.raises(DataError, match=r"no metric 'f1'; there are auroc, escape_rate, overkill_rate\."):
        metrics.module("f1")


def test_a_threshold_that_nothing_lies_under_is_refused(loaded):
    with pytest.raises(ValueError, match="threshold is 0; give one above 0"):
        loaded["overkill_rate"].compute(predictions=[0, 1], references=[0, 1], threshold=0)
