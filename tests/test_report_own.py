"""The report on one's own parts: what it says of counts and rates is so, and it shows the parts it speaks of."""

import json

import numpy as np
import pytest

from hf_inspect.cascade import Promise, fit_certified, parts_needed
from hf_inspect.cascade.composite import Composite, Platt
from hf_inspect.errors import DataError
from hf_inspect.metrics import rate
from hf_inspect.reports import own, write_report
from hf_inspect.reports.own import against_promise, shortfall, sorted_out


def certified(defects, goods, promise=Promise()):  # noqa: B008 - frozen
    """The edge alone, certified on parts of which some lie in between."""
    rng = np.random.default_rng(0)
    severity = np.concatenate([rng.uniform(0.3, 1, defects), rng.uniform(0, 0.7, goods)])
    labels = np.repeat([1, 0], [defects, goods])
    return fit_certified(Composite(Platt("odds", 1.0, 0.0)), severity, None, labels, np.arange(len(labels)), promise)


def test_how_many_photos_more_it_takes_is_counted_by_hand():
    assert shortfall(certified(200, 200), 0.15) == []
    few_defects, few_goods = shortfall(certified(41, 20), 0.15)
    assert (parts_needed(0.05, 0.025), parts_needed(0.10, 0.025)) == (72, 36)
    assert few_defects == (
        "The system never says good: calibration holds 41 defects, and this promise takes 72; 31 more are wanted, "
        "about 207 more photos of defects in all (calibration gets 15% of the photos)."
    )
    assert "20 good parts, and this promise takes 36; 16 more are wanted, about 107 more photos" in few_goods


@pytest.mark.parametrize(
    ("k", "n", "says"),
    [
        (0, 200, "borne out"),
        (2, 100, "measured below, and the interval holds the promise"),
        (8, 100, "measured above, and the interval holds the promise"),
        (30, 100, "CONTRADICTED"),
        (0, 0, "nothing was measured"),
    ],
)
def test_a_measured_rate_says_no_more_than_its_interval(k, n, says):
    promise = {"escape": 0.05, "overkill": 0.05, "confidence": 0.95}
    results = {"promise": promise, "cascade": {"certified": {"escapes": rate(k, n), "overkill": rate(0, 500)}}}
    escapes, overkill = against_promise(results)
    assert escapes["says"].startswith(says)
    assert (escapes["promised"], overkill["says"][:9]) == (0.05, "borne out")


def test_each_wrong_part_stands_where_it_belongs(tmp_path):
    policy = certified(200, 200)
    said = [("bad.png", "defect", 0.01), ("fine.png", "good", 0.99), ("caught.png", "defect", 0.9),
            ("unsure.png", "good", 0.5), ("passed.png", "good", 0.1), ("worse.png", "defect", 0.001)]  # fmt: skip
    rows = [{"head": True}, {"source": "torn.png", "class": "good", "label": "good", "error": "torn"}]
    rows += [
        {"source": name, "class": f"of {label}", "label": label, "edge": {"severity": p}} for name, label, p in said
    ]
    scores = tmp_path / "results.scores.jsonl"
    scores.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = sorted_out(scores, policy)
    named = {name: [(one.number, one.source) for one in parts] for name, parts in found.items()}
    assert named == {
        "escapes": [(6, "worse.png"), (1, "bad.png")], "overkill": [(2, "fine.png")], "undecided": [(4, "unsure.png")],
    }  # fmt: skip
    assert found["escapes"][0].caption == "of defect: edge 0.001"


def test_undecided_parts_are_shown_from_all_over():
    parts = [own.Shown(i, "", "", {}) for i in range(80)]
    assert [one.number for one in own._spread(parts, 8)[:8]] == list(range(0, 80, 10))
    assert len({one.number for one in own._spread(parts, 8)}) == 80


def test_a_file_of_somebody_else_s_stays(tmp_path):
    page = tmp_path / "report.html"
    page.write_text("<html>mine</html>")
    with pytest.raises(DataError, match="another file than this command writes"):
        write_report(tmp_path, tmp_path, page)
    assert page.read_text() == "<html>mine</html>"


def test_names_are_text_on_the_page():
    def values(name):
        return {"note": name}

    text = own._environment().from_string("{{ note }}").render(values("<script>alert(1)</script>"))
    assert "<script>" not in text
