"""COCO files with mistakes made at random: never a traceback, never a repair that is not valid, parts that add up."""

import json
import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, event, given, settings

from hf_inspect.data.coco import inspect, parse_split, parts_of, repair, validate
from hf_inspect.data.raw.document import read_document, whole
from tests import cocos

EXAMPLES = int(os.environ.get("COCO_EXAMPLES", "500"))  # 2,000 take 40 s of one core


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    cocos.images(folder / "images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # half of the time
        yield folder


def as_text(values):
    return Counter(json.dumps(one, sort_keys=True) for one in values)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(cocos.MISTAKES)
def test_a_file_with_mistakes_is_refused_or_mended_whole(place, mistakes):
    path, out = cocos.written(place, cocos.mistaken(mistakes)), place / "fixed.json"
    out.unlink(missing_ok=True)
    refused = cocos.refusal(lambda: inspect(path).table())
    if refused is not None:
        event("refused")
        assert "x.json is no COCO file" in refused
        return
    found = validate(path, place / "images")
    found.table()
    json.dumps(found.to_dict())
    check_parts(read_document(path))
    refused = cocos.refusal(lambda: repair(found, place / "images", out))
    if refused is not None:
        event("nothing can be saved")
        assert "nothing of x.json can be saved: no image is left" in refused
        assert not out.exists()
        return
    event("repaired" if found.wrong else "valid")
    assert not validate(out, place / "images").wrong
    assert check_parts(read_document(out)) in (None, "too few groups")


def check_parts(document):
    """Why a document cannot be split, None where it can: its parts add up to it, and each holds its own annotations."""
    shares, made = parse_split("train:0.6,test:0.4"), []
    said = cocos.refusal(lambda: made.append(parts_of(document, range(len(document.images)), shares, seed=1)))
    if said is not None:
        return "too few groups" if "too few for --split" in said else said
    parts = made[0].parts.values()
    for name in ("images", "annotations"):
        assert as_text(one for part in parts for one in part[name]) == as_text(document.content[name])
    for part in parts:
        assert part["categories"] == document.categories
        own = {whole(one["id"]) for one in part["images"]}
        assert {whole(one["image_id"]) for one in part["annotations"]} <= own
    return None
