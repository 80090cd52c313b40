"""Labels as a model says them: which class each is of, what is counted of those of none, and the packaged embedder."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_inspect import files
from hf_inspect.errors import DataError
from hf_inspect.metrics.findings import Compared, Shown, Thing, finding_report
from hf_inspect.metrics.labels import EXACT, NO_CLASS, SEMANTIC, TAXONOMY, Naming, top, without_unmatched
from hf_inspect.metrics.matches import Matches, best_threshold, told_report
from hf_inspect.reports.sentences import Sentences
from hf_inspect.schema import DEFECT, DETECTION, GOOD, Finding, TaskSpec
from tests.finders import task_of

SCREWS = TaskSpec(("screw/install", "screw/floor", "cable"), (GOOD, DEFECT, GOOD), DETECTION)
BOX, OTHER = (10.0, 10.0, 50.0, 50.0), (60.0, 60.0, 90.0, 90.0)
ANGLES = {"crack": 0.0, "dent": 90.0, "crevice": 40.0, "hollow": 60.0, "smile": 200.0}  # degrees


def embed(texts):
    """Directions in a plane whose angles are known; rows of any length."""
    at = np.deg2rad([ANGLES[one] for one in texts])
    return np.stack([np.cos(at), np.sin(at)], 1) * np.arange(1, len(texts) + 1)[:, None]


def image(*found, thing="a"):
    """An image that shows one thing, and what was found in it: names and scores, all in its place."""
    return Shown(100, 100, (Thing(thing, BOX),), tuple(Finding(name, score, BOX) for name, score in found))


def figures(naming, task, images):
    labels = naming.of(task, (one.name for shown in images for one in shown.findings))
    compared = Compared.of(map(labels.taken, images), labels.compared)
    matches = Matches.of(compared)
    return finding_report(compared, draws=4) | {"told": told_report(matches, 0.5)}


def test_exactly_the_class_and_nothing_else():
    labels = Naming().of(SCREWS, ["cable", "Cable", "screw", "screw/floor"])
    assert labels.said == {"cable": "cable", "Cable": None, "screw": None, "screw/floor": "screw/floor"}
    assert labels.compared.classes == (*SCREWS.classes, NO_CLASS)
    assert Naming().of(SCREWS, ["cable"]).compared is SCREWS


def test_by_the_taxonomy_both_sides_are_taken_at_their_top():
    labels = Naming(TAXONOMY).of(SCREWS, ["screw/floor", "screw", "screw / rusty/2", "cable/fibre", "nut/floor"])
    assert labels.task.classes == ("screw", "cable")
    assert labels.task.dispositions == (DEFECT, GOOD)  # a group is a defect where any of its classes is
    assert labels.classes == {"screw/install": "screw", "screw/floor": "screw", "cable": "cable"}
    assert list(labels.said.values()) == ["screw", "screw", "screw", "cable", None]
    shown = [image(("screw/floor", 0.9), thing="screw/install")]
    exact, by_taxonomy = (figures(Naming(match), SCREWS, shown) for match in (EXACT, TAXONOMY))
    assert exact["classes"]["screw/install"]["ap50"]["value"] == 0
    assert by_taxonomy["classes"]["screw"]["ap50"]["value"] == 1


def test_by_meaning_the_most_similar_class_from_the_threshold_on():
    task = task_of(False, ("crack", "dent"))
    said = ["crack", "crevice", "hollow", "smile"]
    by = {threshold: Naming(SEMANTIC, threshold, embed).of(task, said) for threshold in (0.7, 0.8, -1.0)}
    assert by[0.7].said == {"crack": "crack", "crevice": "crack", "hollow": "dent", "smile": None}
    assert by[0.8].said == {"crack": "crack", "crevice": None, "hollow": "dent", "smile": None}
    assert None not in by[-1.0].said.values()
    name, cosine = by[0.7].nearest["crevice"]
    assert (name, cosine) == ("crack", pytest.approx(np.cos(np.deg2rad(40))))
    at = by[0.7].nearest["hollow"][1]
    assert Naming(SEMANTIC, at, embed).of(task, said).said["hollow"] == "dent"  # at the threshold it is one
    assert Naming(SEMANTIC, np.nextafter(at, 1), embed).of(task, said).said["hollow"] is None


def test_the_threshold_changes_what_is_counted():
    task = task_of(False, ("crack", "dent"))
    images = [image((name, 0.9), thing="crack") for name in ("crack", "crevice", "crevice", "smile")]
    right = {}
    for threshold in (0.7, 0.8):
        told = figures(Naming(SEMANTIC, threshold, embed), task, images)["told"]
        right[threshold] = (told["precision"]["k"], told["precision"]["n"], told["recall"]["k"])
    assert right == {0.7: (3, 4, 3), 0.8: (1, 4, 1)}


def test_a_label_of_no_class_is_wrong_and_counted():
    task = task_of(False, ("a", "b"))
    shown = [image(("a", 0.9)), image(("a", 0.9), ("zebra", 0.8)), image(("zebra", 0.95)), image(("yak", 0.7))]
    report = figures(Naming(), task, shown)
    assert report["told"]["precision"]["n"] == 5
    assert report["told"]["precision"]["k"] == 2
    assert report["told"]["over"]["k"] == 1
    assert report["classes"]["a"]["ap50"]["value"] == pytest.approx(51 / 101)  # recall ends at a half
    kept = without_unmatched(report)
    assert set(kept["classes"]) == set(kept["told"]["classes"]) == {"a", "b"}
    confusion = kept["told"]["confusion"]
    assert confusion == {
        "rows": ["a", "b", "nothing there"], "columns": ["a", "b", NO_CLASS, "missed"],
        "counts": [[2, 0, 2, 0], [0, 0, 0, 0], [0, 0, 1, 0]],
    }  # fmt: skip
    labels = Naming().of(task, ["a", "zebra", "yak"])
    assert labels.counted(["a", "a", "yak", "zebra", "zebra"]) == {
        "renamed": [], "unmatched": [{"label": "zebra", "n": 2}, {"label": "yak", "n": 1}],
    }  # fmt: skip
    assert best_threshold(Matches.of(Compared.of(map(labels.taken, shown), labels.compared))) is not None


def test_a_wrong_label_in_the_right_place_lowers_ap():
    task = task_of(False, ("a", "b"))
    right = [image(("a", 0.9), thing="a") for _ in range(4)] + [image(("b", 0.9), thing="b")]
    first = figures(Naming(), task, right)
    for planted in ("b", "zebra"):
        wrong = figures(Naming(), task, [image((planted, 0.9), thing="a"), *right[1:]])
        assert first["map"]["value"] == 1
        assert wrong["map"]["value"] < 0.9
        assert wrong["told"]["recall"]["k"] == first["told"]["recall"]["k"] - 1


def test_groups_take_what_no_class_is_of():
    labels = Naming().of(SCREWS, ["screw/lost", "cable", "nut"])
    grouped = labels.grouped()
    assert grouped.said == {"screw/lost": "screw", "cable": "cable", "nut": None}
    meant = Naming(SEMANTIC, 0.5, lambda texts: np.ones((len(texts), 2))).of(SCREWS, ["nut"]).grouped()
    assert meant.said == {"nut": "screw"}  # the group of the class it means


def test_what_is_renamed_is_listed_with_its_class_and_cosine():
    task = task_of(False, ("crack", "dent"))
    labels = Naming(SEMANTIC, 0.7, embed).of(task, ["crevice", "smile", "dent"])
    counted = labels.counted(["smile", "crevice", "dent", "crevice"])
    assert counted["renamed"] == [{"label": "crevice", "n": 2, "class": "crack", "nearest": "crack", "cosine": 0.766}]
    assert counted["unmatched"] == [{"label": "smile", "n": 1, "nearest": "dent", "cosine": -0.342}]
    json.dumps(counted)


@given(st.lists(st.text(max_size=12), max_size=8), st.sampled_from([EXACT, TAXONOMY]))
def test_every_label_has_its_answer(said, match):
    labels = Naming(match).of(SCREWS, said)
    assert set(labels.said) == set(said)
    assert {name for name in labels.said.values() if name} <= set(labels.task.classes)
    counted = labels.counted(said)
    own = sum(labels.said[one] == one for one in said)
    assert own + sum(one["n"] for listed in counted.values() for one in listed) == len(said)


def test_what_makes_no_sense_is_refused():
    for wrong, message in (
        (("other",), "there are exact, taxonomy, semantic"),
        ((SEMANTIC, 1.2, embed), "a cosine, -1 to 1"),
        ((SEMANTIC,), "an embedder goes with"),
        ((EXACT, 0.7, embed), "only there"),
    ):
        with pytest.raises(DataError, match=message):
            Naming(*wrong)
    for rows in (np.ones(3), np.ones((2, 2)), np.full((3, 2), np.nan)):
        with pytest.raises(DataError, match="embedder gave"):
            Naming(SEMANTIC, 0.7, lambda texts, rows=rows: rows).of(task_of(False, ("a", "b")), ["c"])
    assert top("screw / a") == "screw"


@pytest.fixture(scope="module")
def sentences():
    return Sentences.from_pretrained()


def test_the_packaged_model_knows_what_is_alike(sentences):
    task = task_of(False, ("crack", "scratch", "cut"))
    said = ["scratches", "surface scratch", "fissure", "dog"]
    labels = Naming(SEMANTIC, 0.7, sentences).of(task, said)
    assert labels.said == {"scratches": "scratch", "surface scratch": "scratch", "fissure": None, "dog": None}
    strict = Naming(SEMANTIC, 0.85, sentences).of(task, said)
    assert [label for label, name in strict.said.items() if name] == ["scratches"]
    alone, many = sentences(["scratches"]), sentences(["a much longer text that pads the others", "scratches"])
    np.testing.assert_allclose(many[1], alone[0], atol=1e-5)
    assert sentences.to_dict()["weights"]["model.safetensors"].startswith("53aa5117")


def test_another_model_is_that_of_a_folder_that_pools_alike(tmp_path):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[UNK]": 1, "crack": 2, "deep": 3, "long": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=5, **sizes)).eval()
    for part in (fast, model):
        part.save_pretrained(tmp_path / "own")
    own = Sentences.from_pretrained(str(tmp_path / "own"))
    alone, both = own(["deep crack"]), own(["long long long crack", "deep crack"])
    with torch.inference_mode():
        wanted = model(torch.tensor([[3, 2]])).last_hidden_state.mean(1).double().numpy()
    np.testing.assert_allclose(alone, wanted, atol=1e-6)
    np.testing.assert_allclose(both[1], wanted[0], atol=1e-5)
    assert set(own.to_dict()["weights"]) == {"model.safetensors"}
    files.write_json(tmp_path / "own/1_Pooling/config.json", {"pooling_mode_cls_token": True})
    with pytest.raises(DataError, match="something else than their mean"):
        Sentences.from_pretrained(str(tmp_path / "own"))


def test_what_is_no_sentence_model_is_refused(tmp_path):
    wrong = {"model_type": "bert"}, "can be read"
    for content, message in ((None, "is missing"), ({}, "no model of transformers"), wrong):
        if content is not None:
            files.write_json(tmp_path / "config.json", content)
        with pytest.raises(DataError, match=message):
            Sentences.from_pretrained(str(tmp_path))
