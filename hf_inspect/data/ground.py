"""A data set of boxes, built or raw -> rows of images, prompt, completion that teach a VLM to say where things are.

Images are resized once, by the rule of the VLM's family; answers are in its own numbers (`prompts.render_answer`).
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from hf_inspect import files, images, prompts
from hf_inspect.console import plain
from hf_inspect.data.build import MANIFEST, build, script_named
from hf_inspect.data.card import cell, configs, head, task_table, usage
from hf_inspect.data.coco.gathered import gathered
from hf_inspect.data.load import read_manifest, read_objects, read_reading, refuse_chat, things_of
from hf_inspect.data.partition import OBJECTS
from hf_inspect.data.raw import accounting
from hf_inspect.data.rows import Kind, Made, RowWriter, message_features, rows_table
from hf_inspect.errors import DataError
from hf_inspect.prompts.families import showing_of
from hf_inspect.reading import Reading
from hf_inspect.schema import Progress, TaskSpec, no_progress

_GROUND = "ground"  # what such a data set's name ends in
SIDE = 768  # pixels


@dataclass(frozen=True, slots=True)
class Wording:
    """For which family of VLMs the rows are, the side in pixels that it is given, and how it is asked.

    `language` is of `prompts.LANGUAGES`; `describe`: answers bring what was written of things.
    """

    family: str = "qwen2_5_vl"
    side: int = SIDE
    language: str = "en"
    describe: bool = False

    def question(self, task: TaskSpec) -> prompts.Grounding:
        """What is asked about the things of a task."""
        frame = showing_of(self.family).frame
        return prompts.Grounding.about(task, frame, self.language, describe=self.describe)


def ground(
    src: Path,
    out: Path,
    wording: Wording = Wording(),
    *,
    source: str | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write the rows of a data set of boxes into `out`; returns their manifest.

    `src` is a built data set; or raw labels with their images (COCO, Pascal VOC, LabelMe, YOLO, CVAT; which, `source`
    says, or the files do), of which the data set `coco` is built first, with `options`. An image that shows nothing is
    answered with `[]`; crowds are in no answer, and counted. DataError where the data set has no boxes.
    """
    with files.staged_folder(out, [src]) as stage:
        built, lost = _built(src, stage / "built", source, options, progress)
        manifest, task = read_manifest(built), read_objects(built)
        maker = _Maker(wording, wording.question(task), read_reading(built))
        rows = RowWriter(built, stage, manifest, maker.kind(), progress).write_all()
        if wording.describe and not maker.counted["described"]:
            raise DataError(f"{src}: nothing is written of any thing; leave --describe out.")
        shutil.rmtree(stage / "built", ignore_errors=True)
        made = _manifest(manifest, maker, rows, lost)
        files.write_text(stage / "README.md", ground_card(made))
        files.write_table(stage / MANIFEST, {k: v for k, v in made.items() if k != "images"}, "images", made["images"])
    return made


def grounded(manifest: Mapping[str, Any]) -> str:
    """What was written, for the terminal: rows, things, what is in no answer, what a conversion lost."""
    things, several = manifest["things"], len(manifest["rows"]) > 1
    rows = {f"{c} {s}" if several else s: n for c, of in manifest["rows"].items() for s, n in of.items()}
    lines = [f"{sum(rows.values()):,} rows ({', '.join(f'{n:,} {where}' for where, n in rows.items())})"]
    lines.append(f"{things['said']:,} things, {things['described']:,} of them described")
    lines.append(f"{things['empty']:,} images of nothing, answered with []")
    lines += [f"LEFT OUT: {things['crowds']:,} crowds, which are in no answer"] if things["crowds"] else []
    lines += [f"IN CONVERSION: {n:,} {what}" for what, n in manifest["converted"].items()]
    lines += accounting.totals(manifest["accounting"]) + accounting.lines(manifest["accounting"], plain)
    lines += [f"NOTE: {note}" for note in manifest["notes"]]
    return "\n".join([*lines, f"fingerprint {manifest['fingerprint']}"])


def _built(
    src: Path, folder: Path, source: str | None, options: Mapping[str, Any] | None, progress: Progress
) -> tuple[Path, Mapping[str, int]]:
    """The built data set of what was given, and what a conversion before lost."""
    if (src / MANIFEST).is_file():
        refuse_chat(src, read_manifest(src))
        if source or options:
            raise DataError(f"{src} is a built data set; --from and options of a build are of raw labels.")
        return src, {}
    raw, lost = gathered(src, source, folder / "raw")
    build("coco", folder / "data", src=raw, options=options, progress=progress)
    return folder / "data", lost


@dataclass
class _Maker:
    """Makes the row of an image, and counts what is said."""

    wording: Wording
    question: prompts.Grounding
    reading: Reading
    shown: dict[str, str] = field(default_factory=dict)  # by an image's SHA-256, that of how it is shown
    counted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("said", "described", "empty", "crowds"), 0))

    def kind(self) -> Kind:
        import datasets

        sides = ("width", "height", "original_width", "original_height")
        features = {**message_features(), **{name: datasets.Value("int32") for name in sides}}
        return Kind(_GROUND, [OBJECTS], datasets.Features(features), self._rows)

    def _rows(self, row: Mapping[str, Any], source: str) -> list[Made]:
        given = row["image"]["bytes"]
        rgb = images.load(given, self.reading).rgb
        fitted = showing_of(self.wording.family).sizing(self.wording.side).fit(rgb)
        content = BytesIO()
        Image.fromarray(fitted).save(content, "PNG")
        self.shown[_sha256(given)] = _sha256(content.getvalue())
        every = things_of(row[OBJECTS], self.question.task.classes)
        things = tuple(one for one in every if not one.crowd)
        self._count(len(every) - len(things), [one.description for one in things])
        view = prompts.View((rgb.shape[0], rgb.shape[1]), (fitted.shape[0], fitted.shape[1]), self.question.frame)
        image = {"bytes": content.getvalue(), "path": f"{Path(row['image']['path']).stem}.png"}
        size = {"width": view.shown[1], "height": view.shown[0]}
        size |= {"original_width": view.size[1], "original_height": view.size[0]}
        return [
            {"images": [image], **prompts.ground(self.question, prompts.Told(things, view)), "source": source, **size}
        ]

    def _count(self, crowds: int, described: list[str]) -> None:
        here = {
            "said": len(described),
            "described": sum(map(bool, described)),
            "empty": not described,
            "crowds": crowds,
        }
        self.counted = {name: n + int(here[name]) for name, n in self.counted.items()}


def _manifest(
    source: Mapping[str, Any], maker: _Maker, rows: Mapping[str, Mapping[str, int]], lost: Mapping[str, int]
) -> dict[str, Any]:
    """The source's manifest with the rows that were made of it, and each image's hash as it is shown."""
    builder, stated = source["builder"], {**maker.question.to_dict(), **asdict(maker.wording)}
    images_shown = [{**one, "shown_sha256": maker.shown[one["sha256"]]} for one in source["images"]]
    content = json.dumps([source["fingerprint"], stated, [one["shown_sha256"] for one in images_shown]])
    made = {
        "builder": {**builder, "name": f"{builder['name']}-{_GROUND}", "source_fingerprint": source["fingerprint"]},
        "grounding": stated,
        "fingerprint": _sha256(content.encode()),
        "rows": {config: dict(splits) for config, splits in rows.items()},
        "things": maker.counted,
        "converted": dict(lost),
    }
    return {**source, **made, "images": images_shown}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def ground_card(manifest: Mapping[str, Any], notes: str = "") -> str:
    """The card of such rows, from their manifest; `notes` are added to the letter."""
    name = manifest["builder"]["name"].removesuffix(f"-{_GROUND}")
    stated, said = manifest["grounding"], manifest["things"]
    loaded = configs(script_named(name), manifest, manifest["rows"])
    tasks = {"task_categories": ["object-detection", "image-text-to-text"], "configs": loaded}
    numbers = "thousandths of its sides" if stated["question"]["frame"] == prompts.THOUSANDTHS else "its pixels"
    return "\n".join(
        [
            head({"license": manifest["licence"].lower(), **tasks}), "", f"# Where things are on {name}", "",
            usage(loaded[0]["config_name"]), "",
            "Rows `images`, `prompt`, `completion` for supervised fine-tuning of a VLM of the family",
            f"`{stated['family']}`, made of the data set `{name}` after its split. An image is resized once, as that",
            f"family sees it at a side of {stated['side']} pixels, and stored as PNG. It is asked:", "",
            f"> {cell(stated['question']['text'])}", "",
            f"The answer is a JSON list of labels and boxes in {numbers}, `[]` for an image of nothing.",
            f"{said['said']:,} things are told of, {said['described']:,} of them with a description;",
            f"{said['empty']:,} images are of nothing. {said['crowds']:,} crowds are in no answer.", "",
            task_table(TaskSpec.from_dict(stated["task"], MANIFEST)), "", *rows_table(manifest), "",
            *(f"- In conversion: {n:,} {cell(what)}." for what, n in manifest["converted"].items()),
            *([""] if manifest["converted"] else []),
            "The JSON lines hold the same rows; their images lie in `images/`, called by their SHA-256.", "",
            *([notes, ""] if notes else []),
            f"    hf-inspect data ground SRC --out DIR {_options(stated)}",
            "    hf-inspect data validate DIR/train.jsonl --images DIR", "",
            f"Fingerprint `{manifest['fingerprint']}`, of `{name}` `{manifest['builder']['source_fingerprint']}`.",
            f"Licence: {manifest['licence']}.", "",
        ]
    )  # fmt: skip


def _options(stated: Mapping[str, Any]) -> str:
    named = " ".join(f"--{name} {stated[name]}" for name in ("family", "side", "language"))
    return f"{named} --describe" if stated["describe"] else named
