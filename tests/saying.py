"""Stand-ins for VLMs that say where things are: what they say follows from an image at the size it is shown at."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hf_inspect import prompts
from hf_inspect.prompts.sizing import sizing_of
from hf_inspect.schema import DETECTION, Finding, History, Prediction, TaskSpec
from hf_inspect.tasks.detection import severity_of
from hf_inspect.vlm.identity import About, identity_of
from tests.serving import about, decides

NAMES = ("blue", "red")
TASK = TaskSpec(NAMES, ("defect",) * 2, DETECTION)
SQUARE = {"do_resize": True, "size": {"height": 64, "width": 64}, "resample": 2}
QWEN = {"size": {"shortest_edge": 3136, "longest_edge": 12544}, "patch_size": 14, "merge_size": 2, "resample": 3}
LONGEST = {"size": {"longest_edge": 60}, "resample": 1}
FULL = 0.97  # score of a square of the brightest colour


class Sayer:
    """A `Predictor` that shows an image by a rule, and says things of numbers that its pixels at that size give."""

    history, reading, told = History(), None, 0.4

    def __init__(self, task: TaskSpec = TASK, rule: Mapping = SQUARE, frame: str = prompts.THOUSANDTHS, guide=None):
        self.task, self.rule, self.frame, self.guide, self.asked = task, rule, frame, guide, 0
        self.identity = identity_of(self.decides)

    @property
    def decides(self) -> dict:
        return decides() | ({} if self.guide is None else {"guide": self.guide})

    def about(self) -> About:
        """What its server states."""
        stated = replace(about(self.task, self.rule), told=self.told, decides=self.decides)
        return replace(stated, identity=self.identity)

    def predict(self, images):
        self.asked += len(images)
        return [self.said(sizing_of(self.rule).fit(one), one.shape[:2]) for one in images]

    def said(self, shown, size) -> Prediction:
        """Up to five things, some of a label that is no class, some with a description."""
        rng = np.random.default_rng(int(shown.astype(np.int64).sum()))
        view, found = prompts.View(size, shown.shape[:2], self.frame), []
        for i in range(rng.integers(0, 6)):
            first = (rng.uniform(0, 0.9, 2) * view.units).astype(int)
            last = np.minimum(first + 1 + (rng.uniform(0, 0.5, 2) * view.units).astype(int), view.units)
            numbers = (*first.tolist(), *last.tolist())
            text = ["", "a short one", '裂纹, "quoted" <b>'][i % 3]
            name = str(rng.choice([*self.task.classes, "smudge ü"]))
            found.append(Finding(name, float(rng.uniform()), view.box(numbers), description=text))
        found.sort(key=lambda one: -one.score)
        notes = ("1 object left out: its box has no area",) if len(found) > 2 else ()
        return Prediction(severity_of(found, self.task, 0.01), findings=tuple(found), notes=notes)


class Spotter(Sayer):
    """Finds the squares of `tests.finders.pictures`: bright ones by their colour, faint ones as a `smudge`.

    An image that `breaks` is true of has an answer that breaks off before anything was found.
    """

    def __init__(self, breaks=lambda shown: False, **given):
        super().__init__(**given)
        self.breaks = breaks

    def said(self, shown, size) -> Prediction:
        if self.breaks(shown):
            why = "the answer breaks off after 0 objects"
            return Prediction(None, unreadable=why, findings=(), notes=(why,))
        view, found = prompts.View(size, shown.shape[:2], prompts.THOUSANDTHS), []
        for cell in range(16):
            x, y = cell % 4, cell // 4
            part = shown[16 * y : 16 * y + 16, 16 * x : 16 * x + 16].astype(float).mean((0, 1))
            if (level := max(part[0], part[2])) < 85 or min(part[0], part[2]) > 5:
                continue
            name = ("red" if part[0] > part[2] else "blue") if level > 200 else "smudge"
            box = view.box([250 * x, 250 * y, 250 * x + 250, 250 * y + 250])
            found.append(Finding(name, FULL * level / 255, box, description=f"a {name} square in row {y + 1}"))
        found.sort(key=lambda one: -one.score)
        return Prediction(severity_of(found, self.task, 0.01), findings=tuple(found))
