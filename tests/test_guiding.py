"""Exemplars for an image: the first or the nearest, never itself; for a training drawn, and the same again."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_inspect import files, images
from hf_inspect.data import Exemplar, Pool
from hf_inspect.errors import DataError
from hf_inspect.metrics.findings import Thing
from hf_inspect.reading import Reading
from hf_inspect.schema import History, Source
from hf_inspect.vlm.guiding import FIXED, HOW, NEAREST, Guide, for_training, row_rng
from tests import finders

TASK = finders.task_of(False)
LEVELS = (0, 60, 120, 180, 240)
PRINT = "f" * 64


def grey(level):
    pixels = np.full((20, 30, 3), level, np.uint8)
    pixels[:, :, 1] = 255 - level
    return pixels


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Five images, each of a level of red and the opposite of green."""
    folder, exemplars = tmp_path_factory.mktemp("pool"), []
    for group, level in enumerate(LEVELS):
        path = folder / f"{level}.png"
        Image.fromarray(grey(level)).save(path)
        things = (Thing("red", (1.0, 2.0, 3.0, 4.0)),)
        exemplars.append(Exemplar(path, files.sha256(path), path.name, group, things, (20, 30)))
    source = Source("levels", PRINT, "cc0-1.0", 5)
    history = History((source,), tuple((one.sha256,) for one in exemplars))
    return Pool(TASK, tuple(exemplars), Reading(), PRINT, history)


def colours(images):
    """Mean colours (n, 3): two images of like colours have a cosine near 1."""
    return np.stack([one.reshape(-1, 3).mean(0) for one in images])


def names(exemplars):
    return [one.source for one in exemplars]


def test_fixed_gives_the_first_of_the_pool_whatever_the_image(pool):
    guide = Guide(pool, 2)
    assert (guide.num, guide.how, guide.shared) == (2, FIXED, True)
    for level in (10, 130, 250):
        assert names(guide.for_image(grey(level))) == ["0.png", "60.png"]
    assert guide.with_features(colours) is guide
    assert guide.history == pool.history
    assert np.array_equal(guide.for_image(grey(1))[0].rgb, grey(0))


def test_an_exemplar_s_file_is_not_read_for_every_image(pool, monkeypatch):
    guide, read, load = Guide(pool, 2), [], images.load
    monkeypatch.setattr(images, "load", lambda *given: read.append(given) or load(*given))
    for one in guide.for_image(grey(10)) * 5:
        assert np.array_equal(one.rgb, load(one.file).rgb)
    assert len(read) <= len(pool.exemplars)


def test_nearest_gives_the_most_alike_and_shows_the_closest_last(pool):
    guide = Guide(pool, 2, NEAREST).with_features(colours)
    assert not guide.shared
    assert names(guide.for_image(grey(150))) == ["120.png", "180.png"]
    assert names(guide.for_image(grey(250))) == ["180.png", "240.png"]
    assert names(Guide(pool, 3, NEAREST, colours).for_image(grey(10))) == ["120.png", "60.png", "0.png"]


@pytest.mark.parametrize("how", HOW)
def test_an_image_is_never_its_own_exemplar(pool, how):
    for level in LEVELS:
        for num in range(1, 6):
            shown = names(Guide(pool, num, how, colours).for_image(grey(level)))
            assert f"{level}.png" not in shown
            assert len(shown) == min(num, 4)  # another in its place, as long as there is one
    assert names(Guide(pool, 2).for_image(grey(0))) == ["60.png", "120.png"]


def test_its_identity_is_of_all_that_decides(pool):
    one = pool.exemplars[0]
    [thing], rest = one.things, pool.exemplars[1:]
    said, moved = (
        replace(pool, exemplars=(replace(one, things=(other,)), *rest))
        for other in (replace(thing, description="red"), replace(thing, box=(1.0, 2.0, 3.0, 5.0)))
    )
    guides = [
        Guide(pool, 2), Guide(pool, 3), Guide(pool, 2, NEAREST), Guide(moved, 2), Guide(said, 2),
        Guide(replace(pool, exemplars=pool.exemplars[::-1]), 2), Guide(replace(pool, exemplars=pool.exemplars[:4]), 2),
        Guide(replace(pool, reading=Reading(12)), 2),
    ]  # fmt: skip
    assert len({guide.identity for guide in guides}) == len(guides)
    assert Guide(pool, 2).identity == Guide(replace(pool), 2).identity


def test_a_training_s_share_is_guided_by_exemplars_of_other_groups(pool):
    shown = Counter()
    for row in range(2000):
        group = row % 5
        given = {"fingerprint": PRINT, "group": group, "sha256": "0" * 64}
        found = for_training(pool, row_rng(3, 0, row), **given)
        assert found == for_training(pool, row_rng(3, 0, row), **given)
        assert all(one.group != group for one in found)
        shown[len(found)] += 1
        shown.update(names(found))
    assert set(shown) == {0, 1, *(f"{level}.png" for level in LEVELS)}
    assert abs(shown[1] / 2000 - 0.7) < 0.04  # four standard errors
    assert min(shown[f"{level}.png"] for level in LEVELS) > 200
    epochs = [[for_training(pool, row_rng(3, epoch, row), **given) for row in range(50)] for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    assert epochs[0] != [for_training(pool, row_rng(4, 0, row), **given) for row in range(50)]


@given(st.integers(0, 2**32), st.integers(0, 4), st.booleans(), st.integers(1, 4))
def test_a_row_is_never_shown_itself(pool, seed, own, same_data, num):
    one = pool.exemplars[own]
    found = for_training(
        pool, row_rng(seed, 1, own), fingerprint=PRINT if same_data else "e" * 64, group=one.group, sha256=one.sha256,
        ratio=1.0, num=num,
    )  # fmt: skip
    assert one not in found
    assert len(found) == len(set(names(found))) == num


def test_groups_are_compared_within_one_data_set_alone(pool):
    shown = set()
    for row in range(60):
        rng = row_rng(0, 0, row)
        shown |= set(names(for_training(pool, rng, fingerprint="e" * 64, group=0, sha256="0" * 64, ratio=1.0)))
    assert "0.png" in shown  # a group 0 of other data is another part
    assert not for_training(pool, row_rng(0, 0, 0), fingerprint=PRINT, group=0, sha256="", ratio=0.0)


def test_bad_settings_are_refused(pool):
    for num in (0, 6):
        with pytest.raises(DataError, match=f"{num} exemplars were asked for; the pool has 5"):
            Guide(pool, num)
    with pytest.raises(DataError, match="by 'best'; there are fixed, nearest"):
        Guide(pool, 2, "best")
    with pytest.raises(DataError, match="need features of images"):
        Guide(pool, 2, NEAREST).for_image(grey(1))
    for wrong in (lambda images: np.zeros(3), lambda images: np.full((len(images), 2), np.nan)):
        with pytest.raises(DataError, match=r"\(n, d\) finite numbers are wanted"):
            Guide(pool, 2, NEAREST, wrong).for_image(grey(1))
    asked = {"fingerprint": PRINT, "group": 0, "sha256": ""}
    for ratio, num in ((1.5, 1), (-0.1, 1), (0.7, 5), (0.7, 0)):
        with pytest.raises(DataError, match="give a share from 0 to 1, and fewer than the pool has"):
            for_training(pool, row_rng(0, 0, 0), **asked, ratio=ratio, num=num)
