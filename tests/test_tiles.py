"""Large pictures in tiles: training and runtime cut alike, and a thing that a cut goes through is found once."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_inspect import data as sets
from hf_inspect import files, images
from hf_inspect.detectors import Detector, distil, new_detector, training
from hf_inspect.detectors.cut import Cut, sample_in
from hf_inspect.detectors.predictor import state
from hf_inspect.errors import DataError, ParityError
from hf_inspect.export import detector as exporting
from hf_inspect.export import export, int8
from hf_inspect.reading import Reading
from hf_inspect.reports import write_card
from hf_inspect.runtime import FORMAT, INSPECT, MODEL, PRECISION, TRAINED_ON, Engine
from hf_inspect.schema import DETECTION, SEGMENTATION, Finding, TaskSpec
from hf_inspect.tasks.detection import Decoding, box_overlap, compare
from hf_inspect.tasks.tiles import Tiles, merged
from tests import launch
from tests.scripted import HISTORY

SIDE = 160
OWN = Tiles(250, 0.2)  # which the models here see at SIDE
HEIGHT, WIDTH, THING = 2000, 512, 12  # pixels of a line scan, and of what is planted in it
SPOTS = TaskSpec(("spot",), ("defect",), DETECTION)
TASK = TaskSpec(("spot", "dent"), ("defect",) * 2, DETECTION)
HOW = Decoding(least=0.05, overlap=0.6)
TILES = st.builds(Tiles, st.integers(32, 300), st.floats(0.01, 0.5))


@given(TILES, st.integers(1, 1500), st.integers(1, 1500))
def test_tiles_cover_every_pixel_share_what_is_stated_and_stay_inside(tiles, height, width):
    cut = tiles.of(height, width)
    covered = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in cut:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert (y1 - y0, x1 - x0) == (min(height, tiles.side), min(width, tiles.side))  # all of one size
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    for low, high in ((0, 2), (1, 3)):  # columns, then rows
        spans = sorted({(one[low], one[high]) for one in cut})
        assert len(cut) % len(spans) == 0
        for (_, end), (start, _) in pairwise(spans):
            assert end - start >= tiles.overlap * tiles.side - 1e-9
    assert (len(cut) == 1) == (max(height, width) <= tiles.side)
    assert sorted(cut) == sorted((y0, x0, y1, x1) for x0, y0, x1, y1 in tiles.of(width, height))  # turned by a quarter


def test_a_tile_more_is_cut_where_it_is_needed_and_not_before():
    tiles = Tiles(100, 0.2)
    assert [tiles.of(1, n)[-1][0] for n in (100, 101, 180, 181)] == [0, 1, 80, 81]
    assert [len(tiles.of(1, n)) for n in (100, 101, 180, 181, 260)] == [1, 2, 2, 3, 3]


@pytest.mark.parametrize("side", [31, 0, 64.0, True, "640"])
def test_what_is_no_tile_is_a_sentence(side):
    with pytest.raises(DataError, match="whole pixels from 32 on"):
        Tiles(side)
    with pytest.raises(DataError, match=r"a share above 0, up to 0\.5"):
        Tiles(64, 0.0)
    with pytest.raises(DataError, match=r"inspect\.json does not say how images are cut"):
        Tiles.from_dict({"side": 64}, "inspect.json")
    assert Tiles.from_dict(Tiles(64, 0.25).to_dict(), "x") == Tiles(64, 0.25)
    assert Tiles.from_dict(None, "x") is None


def apart(boxes):
    """Of boxes those that are a few pixels from all before them."""
    kept = []
    for x0, y0, x1, y1 in boxes:
        if all(x1 + 4 < a or c + 4 < x0 or y1 + 4 < b or d + 4 < y0 for a, b, c, d in kept):
            kept.append((x0, y0, x1, y1))
    return kept


def seen_in(things, tile, scores, masks=False):
    """What a model that errs nowhere finds in a tile: of each thing of which 2 pixels a side are seen, what is seen."""
    x, y, right, bottom = tile
    found = []
    for (name, (x0, y0, x1, y1)), score in zip(things, scores, strict=True):
        box = (max(x0, x) - x, max(y0, y) - y, min(x1, right) - x, min(y1, bottom) - y)
        if min(box[2] - box[0], box[3] - box[1]) >= 2:
            found.append(
                Finding(name, score, box, np.ones((box[3] - box[1], box[2] - box[0]), bool) if masks else None)
            )
    return found


BOXES = st.tuples(st.integers(0, 380), st.integers(0, 280), st.integers(4, 250), st.integers(4, 250))


@settings(max_examples=80)
@given(st.builds(Tiles, st.integers(48, 200), st.floats(0.1, 0.5)), st.lists(BOXES, min_size=1, max_size=8), st.data())
def test_each_thing_is_found_once_wherever_cuts_go_through_it(tiles, boxes, draw):
    things = [
        (TASK.classes[i % 2], box)
        for i, box in enumerate(apart((x, y, min(x + w, 400), min(y + h, 300)) for x, y, w, h in boxes))
    ]
    cut = tiles.of(300, 400)
    score = st.floats(0.3, 1.0)
    found = [seen_in(things, tile, [draw.draw(score) for _ in things], masks=True) for tile in cut]
    said = merged(found, cut, TASK, replace(HOW, overlap=draw.draw(st.sampled_from([0.6, None]))))
    assert sorted((one.name, one.box) for one in said.findings) == sorted(things)
    assert [one.score for one in said.findings] == sorted((one.score for one in said.findings), reverse=True)
    assert said.severity == max(one.score for own in found for one in own)
    for one in said.findings:
        assert one.mask.all()  # joined of its pieces
    order = draw.draw(st.permutations(range(len(cut))))
    again = merged([found[i] for i in order], [cut[i] for i in order], TASK, HOW)
    assert {(one.name, one.box) for one in again.findings} == {(one.name, one.box) for one in said.findings}


LEFT, RIGHT = CUT = [(0, 0, 100, 100), (80, 0, 180, 100)]  # which share x from 80 to 100


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        # whole on the left; on the right a rest, which is smaller than it is and less sure
        ([("spot", 0.9, (70, 40, 90, 60))], [("spot", 0.4, (0, 41, 9, 60))], [("spot", 0.9, (70, 40, 90, 60))]),
        # the rest is the surer one: its score, and the box of the whole
        ([("spot", 0.6, (70, 40, 90, 60))], [("spot", 0.9, (0, 41, 9, 60))], [("spot", 0.9, (70, 40, 90, 60))]),
        # a sliver that agrees with nothing
        ([("spot", 0.9, (60, 40, 82, 60))], [("spot", 0.4, (0, 44, 2, 53))], [("spot", 0.9, (60, 40, 82, 60))]),
        # whole in both
        ([("spot", 0.8, (84, 40, 96, 52))], [("spot", 0.9, (4, 41, 16, 53))], [("spot", 0.9, (84, 41, 96, 53))]),
        # whole in neither: what encloses both
        ([("spot", 0.9, (30, 40, 99, 60))], [("spot", 0.7, (1, 38, 60, 61))], [("spot", 0.9, (30, 38, 140, 61))]),
        # a doubtful box within the cut is none that stands for a sure one
        ([("spot", 0.9, (30, 40, 100, 60))], [("spot", 0.1, (3, 41, 20, 60))], [("spot", 0.9, (30, 40, 100, 60))]),
        # two things, one under the other
        ([("spot", 0.9, (60, 10, 100, 30))], [("spot", 0.8, (0, 40, 60, 60))],
         [("spot", 0.9, (60, 10, 100, 30)), ("spot", 0.8, (80, 40, 140, 60))]),
        # of two classes
        ([("spot", 0.9, (30, 40, 100, 60))], [("dent", 0.8, (0, 40, 60, 60))],
         [("spot", 0.9, (30, 40, 100, 60)), ("dent", 0.8, (80, 40, 140, 60))]),
        # side by side, as one tile sees them and the other does: each goes to its own
        ([("spot", 0.9, (82, 40, 90, 60)), ("spot", 0.8, (90, 40, 98, 60))],
         [("spot", 0.7, (2, 40, 10, 60)), ("spot", 0.85, (10, 40, 18, 60))],
         [("spot", 0.9, (82, 40, 90, 60)), ("spot", 0.85, (90, 40, 98, 60))]),
        # a small thing within a large one that is cut stays
        ([("spot", 0.9, (20, 10, 100, 90)), ("spot", 0.5, (84, 40, 94, 50))], [("spot", 0.8, (0, 10, 80, 90))],
         [("spot", 0.9, (20, 10, 160, 90)), ("spot", 0.5, (84, 40, 94, 50))]),
    ],
)  # fmt: skip
def test_what_two_tiles_say_of_a_place(left, right, wanted):
    for mirrored in (False, True):

        def of(rows, flip=mirrored):
            return [Finding(n, s, (100 - b[2], b[1], 100 - b[0], b[3]) if flip else b) for n, s, b in rows]

        found = [of(right), of(left)] if mirrored else [of(left), of(right)]
        said = merged(found, CUT, TASK, HOW).findings
        boxes = [(180 - b[2], b[1], 180 - b[0], b[3]) if mirrored else b for b in (one.box for one in said)]
        assert [(one.name, one.score) for one in said] == [(n, s) for n, s, _ in wanted]
        np.testing.assert_allclose(boxes, [b for *_, b in wanted])


def test_the_surest_are_kept_and_a_box_without_area_is_none():
    found = [[Finding("spot", 0.1 * i, (10.0 * i, 10, 10 * i + 5, 20)) for i in range(1, 7)], []]
    assert [f.score for f in merged(found, CUT, TASK, replace(HOW, most=2)).findings] == pytest.approx([0.6, 0.5])
    thin = Finding("spot", 0.5, (1e-14, 10.0, 2e-14, 20.0))
    assert merged([[], [thin]], CUT, TASK, HOW).findings == ()
    assert merged([[], []], CUT, TASK, HOW).severity == 0


def test_masks_keep_their_pixels_where_rounding_moves_a_box():
    """0.99999999999999989 + 1000 is 1001: the pixels that the box touches are others than in the tile."""
    mask = np.arange(12).reshape(3, 4) % 5 > 1
    one = Finding("spot", 0.9, (0.9999999999999999, 0.0, 4.0, 3.0), mask)
    tiles = [(0, 0, 1010, 10), (1000, 0, 2010, 10)]
    (said,) = merged([[], [one]], tiles, replace(TASK, kind=SEGMENTATION), HOW).findings
    assert said.box == (1001.0, 0.0, 1004.0, 3.0)
    assert (said.mask == mask[:, 1:]).all()


def scans(folder, n, seed=0):
    """A COCO folder of dark line scans, in which small squares are planted, and a stripe longer than tiles."""
    rng, annotations = np.random.default_rng(seed), []
    folder.mkdir(parents=True)
    for number in range(1, n + 1):
        pixels = np.kron(rng.integers(0, 60, (HEIGHT // 16, WIDTH // 16, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        x, y = int(rng.integers(440, WIDTH - THING)), int(rng.integers(0, HEIGHT - 400))
        boxes = [] if number % 4 == 0 else [[x, y, THING, 400]]
        while boxes and len(boxes) < 6:
            x, y = int(rng.integers(0, 430 - THING)), int(rng.integers(0, HEIGHT - THING))
            if all(abs(y - other) > 3 * THING for _, other, *_ in boxes[1:]):
                boxes.append([x, y, THING, THING])
        for x, y, w, h in boxes:
            pixels[y : y + h, x : x + w] = (255, 0, 0) if h == THING else (0, 255, 0)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0,
                 "bbox": [x, y, w, h], "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "area": w * h}
            )  # fmt: skip
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    listed = [{"id": i, "file_name": f"{i:03}.png", "width": WIDTH, "height": HEIGHT} for i in range(1, n + 1)]
    content = {"images": listed, "annotations": annotations, "categories": [{"id": 1, "name": "spot"}]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def scripted(folder, tiles):
    """An exported folder that finds red squares of THING pixels in what it sees, SIDE pixels a side, wherever they lie.

    A query a place: its score is how red the square is that begins there, where no neighbour's is redder.
    """
    import openvino as ov
    from openvino import opset13 as ops

    places, reach = 64 - THING + 1, 2 * THING - 1
    pixels = ops.parameter([-1, 3, 64, 64], np.float32)
    red = ops.subtract(ops.gather(pixels, np.array([0]), np.array(1)), ops.gather(pixels, np.array([1]), np.array(1)))
    squares = ops.avg_pool(red, [1, 1], [0, 0], [0, 0], [THING, THING], True)
    around = ops.max_pool(squares, [1, 1], [1, 1], [reach // 2] * 2, [reach // 2] * 2, [reach, reach]).output(0)
    peaks = ops.select(ops.greater_equal(squares, around), squares, np.float32(0))
    scores = ops.clamp(ops.reshape(peaks, np.array([0, places**2, 1]), True), 0.0, 1.0)
    corners = np.stack(np.meshgrid(np.arange(places), np.arange(places)), -1).reshape(1, -1, 2)
    boxes = np.concatenate([corners, corners + THING], 2).astype(np.float32) / 64
    folder.mkdir(parents=True)
    outputs = [scores, ops.add(ops.multiply(scores, np.float32(0)), boxes)]
    ov.save_model(ov.Model(outputs, [pixels]), folder / MODEL, compress_to_fp16=False)
    files.write_json(folder / TRAINED_ON, HISTORY.to_dict())
    info = {
        "format": FORMAT, "task": SPOTS.to_dict(), "precision": PRECISION, "decoding": HOW.to_dict(),
        "preprocess": images.Preprocess(64, 64, (0.0,) * 3, (1.0,) * 3).to_dict(), "tiles": tiles and tiles.to_dict(),
        "architecture": "squares", "weights": "fp32",
        "files": {path.name: files.sha256(path) for path in sorted(folder.iterdir())},
    }  # fmt: skip
    files.write_json(folder / INSPECT, info)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place = tmp_path_factory.mktemp("scans")
    options = {"license": "cc0-1.0", "shares": "40/30/0/30"}
    sets.build("coco", place / "data", src=scans(place / "raw", 10), options=options)
    return place / "data"


@pytest.fixture(scope="module")
def rows(data):
    return sets.load_split(data, "train")


def pictures(data, split="validation"):
    reading = sets.read_reading(data)
    return [images.load(image["bytes"], reading).rgb for image in sets.load_split(data, split)["image"]]


def showing(data):
    """Pictures of train in which something is planted."""
    objects = sets.load_split(data, "train")["objects"]
    return [rgb for rgb, one in zip(pictures(data, "train"), objects, strict=True) if one["bbox"]]


def test_tiles_find_what_whole_pictures_lose(data, tmp_path):
    """Squares of 12 pixels of 2000 x 512 are less than one of a whole picture's 64 x 64."""
    planted, found = 0, {"tiles": [], "whole": []}
    engines = {
        name: Engine.from_pretrained(scripted(tmp_path / name, tiles))
        for name, tiles in (("tiles", Tiles(64, 0.25)), ("whole", None))
    }
    for rgb, one in zip(pictures(data, "test"), sets.load_split(data, "test")["objects"], strict=True):
        squares = [box for box in one["bbox"] if box[3] - box[1] == THING]
        planted += len(squares)
        for name, engine in engines.items():
            boxes = [said.box for said in engine.predict([rgb])[0].findings if said.score > 0.95]
            found[name] += [max((box_overlap(square, box) for box in boxes), default=0.0) for square in squares]
    assert planted >= 10
    assert min(found["tiles"]) == 1.0
    assert max(found["whole"]) < 0.5


def test_neither_batch_nor_order_changes_what_tiles_find(data, tmp_path):
    engine = Engine.from_pretrained(scripted(tmp_path / "engine", Tiles(64, 0.25)))
    rgbs = [
        *(rgb[700:1300] for rgb in showing(data)[:2]),
        np.zeros((20, 30, 3), np.uint8),
        np.full((64, 64, 3), 255, np.uint8),
    ]
    together = engine.predict(rgbs)
    assert together[0].severity == 1.0
    assert together[2].findings == together[3].findings == ()
    assert together == [engine.predict([rgb], batch_size=5)[0] for rgb in rgbs]
    assert together == engine.predict(rgbs[::-1], batch_size=1)[::-1]
    info = files.read_json(tmp_path / "engine" / INSPECT)
    files.write_json(tmp_path / "engine" / INSPECT, info | {"tiles": {"side": 64, "overlap": 2}})
    with pytest.raises(DataError, match="an overlap of 2 are asked for"):
        Engine.from_pretrained(tmp_path / "engine")


def test_an_image_of_one_tile_is_answered_as_without(data, tmp_path):
    one, other = (scripted(tmp_path / name, tiles) for name, tiles in (("a", Tiles(2000)), ("b", None)))
    crop = [np.ascontiguousarray(rgb[:64, :64]) for rgb in pictures(data)]
    assert Engine.from_pretrained(one).predict(crop) == Engine.from_pretrained(other).predict(crop)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """A random model that looks at tiles, and tells of the tenth that it is surest of."""
    torch.manual_seed(0)
    network = {"channels": 32, "convolutions": 1}
    model = new_detector("random:test_efficientnet", SPOTS, SIDE, SIDE, network, tiles=OWN).eval()
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.5)
    preprocess, decoding = training.settings_of(model)
    unsure = Detector(model, tmp_path_factory.mktemp("no")).predict(pictures(data))
    scores = [found.score for one in unsure for found in one.findings]
    told = replace(decoding, told=float(np.quantile(scores, 0.9)))
    state(model, SPOTS, preprocess, told, sets.read_reading(data), training.tiles_of(model))
    out = tmp_path_factory.mktemp("model") / "detector"
    model.save_pretrained(out)
    sets.write_history(out, sets.record_history(data, {"train": None}))
    return out


@pytest.fixture(scope="module")
def exported(folder, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "edge"
    export(folder, out, data=data)
    return out


def fed_to(monkeypatch, engine, rgb):
    """What reaches the network of an Engine for an image, (n, 3, h, w)."""
    batches, own = [], engine._network.infer
    monkeypatch.setattr(engine._network, "infer", lambda batch: (batches.append(batch.copy()), own(batch))[1])
    engine.predict([rgb])
    return np.concatenate(batches)


def test_training_and_the_edge_see_the_same_tiles_and_find_the_same(folder, exported, rows, data, monkeypatch):
    detector, engine = Detector.from_pretrained(folder), Engine.from_pretrained(exported)
    assert detector.tiles == engine.tiles == OWN
    assert files.read_json(exported / INSPECT)["tiles"] == {"side": 250, "overlap": 0.2}
    seen = Cut(rows, detector.tiles, lambda one: training.to_inputs(one, detector.preprocess, [0]))
    own = [seen[i] for i, (number, _) in enumerate(seen.places) if number == 0]
    stacked = training.collate(own, detector.preprocess)["pixel_values"].numpy()
    rgb = pictures(data, "train")[0]
    edge = fed_to(monkeypatch, engine, rgb)
    assert len(edge) == len(own) == len(detector.tiles.of(HEIGHT, WIDTH)) > 10
    np.testing.assert_allclose(edge, stacked, atol=1e-6)
    report = files.read_json(exported / INSPECT)["parity"]
    assert (report["lost"]["k"], report["lost"]["n"] > 20) == (0, True)
    changed = compare(SPOTS, None, detector.predict([rgb]), engine.predict([rgb]), detector.decoding.told)
    assert changed["lost"]["k"] == 0
    assert changed["shift"] < 0.1


def test_the_card_states_the_tiles(exported, tmp_path):
    text = write_card(Path(shutil.copytree(exported, tmp_path / "edge"))).read_text()
    assert "each a tile of 250 pixels a side of the image that shares 20 % or more with the next" in text


def test_an_export_that_cuts_otherwise_is_not_written(folder, data, tmp_path, monkeypatch):
    own = exporting._describe

    def elsewhere(*given):
        return own(*given) | {"tiles": {"side": 260, "overlap": 0.2}}

    monkeypatch.setattr(exporting, "_describe", elsewhere)
    with pytest.raises(ParityError, match="does not find what the model does"):
        export(folder, tmp_path / "edge", data=data)
    assert not (tmp_path / "edge").exists()


def test_things_are_cut_with_their_tiles_and_rests_are_counted(rows, folder):
    tiles, objects = Tiles(100, 0.2), rows["objects"][:]
    cut, rgbs = Cut(rows, tiles), [images.load(one["bytes"]).rgb for one in rows["image"]]
    assert len(cut) == len(rows) * len(tiles.of(HEIGHT, WIDTH))
    shows = set(cut.showing())
    learned, rests = 0, 0
    for i, (number, tile) in enumerate(cut.places):
        sample = sample_in(rgbs[number], objects[number], [0], tile)
        x0, y0, x1, y1 = tile
        assert sample["image"].shape == (3, y1 - y0, x1 - x0)
        kept = []
        for a, b, c, d in objects[number]["bbox"]:
            part = [max(a, x0) - x0, max(b, y0) - y0, min(c, x1) - x0, min(d, y1) - y0]
            wide, high = part[2] - part[0], part[3] - part[1]
            if min(wide, high) > 0:
                enough = wide * high >= 0.2 * (c - a) * (d - b) and min(wide, high) >= 2
                kept += [part] if enough else []
                rests += not enough
        assert sorted(sample["boxes"].tolist()) == sorted(kept)
        assert len(sample["labels"]) == len(sample["masks"]) == len(kept)
        for box, mask in zip(sample["boxes"].int().tolist(), sample["masks"].numpy(), strict=True):
            assert mask.sum() == mask[box[1] : box[3], box[0] : box[2]].sum() == (box[3] - box[1]) * (box[2] - box[0])
        learned += bool(kept)
        assert (i in shows) == bool(kept)
    things = sum(len(one["bbox"]) for one in objects)
    assert rests > 0
    assert str(cut) == (
        f"cut into {len(cut)} tiles of 100 pixels that share 20%: {learned} show something, {rests} times less than "
        f"20% of a thing, which is not learned there, and 0 of {things} things are so large that no tile shows as much"
    )
    long = Cut(rows, Tiles(60, 0.2))  # of 400 pixels 60 are less than a fifth
    stripes = sum(bool(one["bbox"]) for one in objects)
    assert f"and {stripes} of {things} things are so large" in str(long)


def test_eight_bits_are_calibrated_on_tiles_that_show_something_first(rows, monkeypatch):
    cut = Cut(rows, OWN)
    showing = len(cut.showing())
    assert 0 < showing < len(cut)
    monkeypatch.setattr(int8, "CALIBRATION_IMAGES", showing + 3)
    chosen = int8._most_telling(cut)
    assert len(chosen) == showing + 3
    assert chosen.showing() == list(range(showing))


class Raw:
    """A Trainer's batches of raw answers that hold what is there, in tiles."""

    def __init__(self, cut, size):
        self.predictions, self.label_ids = [], []
        for start in range(0, len(cut), 7):
            labels = [training.to_inputs(rows_of(cut[i]), size, [0])["labels"][0] for i in range(start, len(cut))[:7]]
            scores, boxes = np.zeros((len(labels), 8, 1), np.float32), np.zeros((len(labels), 8, 4), np.float32)
            for i, label in enumerate(labels):
                centred = label["boxes"].numpy()
                scores[i, : len(centred)] = 0.9
                boxes[i, : len(centred)] = np.concatenate(
                    [centred[:, :2] - centred[:, 2:] / 2, centred[:, :2] + centred[:, 2:] / 2], 1
                )
            self.predictions.append((scores, boxes))
            self.label_ids.append(labels)


def rows_of(row):
    return {name: [value] for name, value in row.items()}


def test_a_validation_is_of_whole_images(data):
    """Who finds what each tile shows has found all, stripes too; without joining there would be more boxes."""
    cut, size = (
        Cut(sets.load_split(data, "validation"), Tiles(SIDE, 0.2)),
        images.Preprocess(64, 64, (0,) * 3, (1,) * 3),
    )
    scores = training.validation_scores(Raw(cut, size), SPOTS, HOW, (64, 64), cut)
    assert (scores["ap50"], scores["map"]) == (pytest.approx(1.0), pytest.approx(1.0, abs=0.02))
    cut.tiles = Tiles(300, 0.45)  # which was cut otherwise
    with pytest.raises(KeyError):
        training.validation_scores(Raw(cut, size), SPOTS, HOW, (64, 64), cut)


def test_a_teacher_that_looks_otherwise_is_refused(folder, tmp_path):
    teacher = Detector.from_pretrained(folder)
    student = new_detector("random:test_efficientnet", SPOTS, SIDE, SIDE, {"channels": 32, "convolutions": 1})
    with pytest.raises(DataError, match=r"the student at whole images; give --tile 250 --overlap 0\.2"):
        distil.planned(student, teacher, {}, 4.0, 0.5, Reading())


def test_the_recipe_learns_from_tiles_and_says_so(data, tmp_path):
    tile = ["--tile", "512", "--overlap", "0.1", "--masks", "false", "--num_train_epochs", "1"]
    out = tmp_path / "out"
    given = ["--config", "recipes/edge_detector/tiny.yaml", "--data", data, "--output_dir", out]
    done = launch.recipe("edge_detector", *given, *tile)
    assert done.returncode == 0, done.stderr[-3000:]
    cut = Cut(sets.load_split(data, "train"), Tiles(512, 0.1))
    assert str(cut) in done.stdout
    log = files.read_json(out / "training_log.json")
    assert log["ran"]["steps"] == len(cut) // 8
    made = Detector.from_pretrained(out)
    assert made.tiles == Tiles(512, 0.1)  # after thresholds were fitted
    assert made.history.sources[0].images == len(sets.load_split(data, "train")) + len(pictures(data))
