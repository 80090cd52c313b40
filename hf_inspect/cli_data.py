"""`hf-inspect data`: the verbs that build data sets, and those of a COCO file; each calls one function."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_inspect.cli_eval import picture
from hf_inspect.console import Bars, plain_lines

data = typer.Typer(help="Build data sets that cannot leak.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Folder to write; an older one is replaced if all in it is ours.")]
Coco = Annotated[Path, typer.Argument(help="COCO JSON.")]
Json = Annotated[bool, typer.Option("--json", help="All of it, as JSON.")]
Exif = Annotated[str | None, typer.Option(help="How boxes lie on turned photos of no telling size: stored, upright.")]


@data.command("build", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def data_build(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Data set, such as `elpv`; its own options follow: --seed 1.")],
    out: Out,
    src: Annotated[Path | None, typer.Option(help="Raw data: its folder, or the archive as downloaded.")] = None,
    num_proc: Annotated[int, typer.Option(help="Threads that read and sign; the result is the same.")] = 2,
    layout: Annotated[str, typer.Option(help="`folders`: val/good and val/defect besides the Parquet.")] = "parquet",
    accept_license: Annotated[bool, typer.Option("--accept-license", help="Accept the data set's licence.")] = False,
    max_pixels: Annotated[int | None, typer.Option(help="Leave out larger images.")] = None,
    on_conflict: Annotated[str | None, typer.Option(help="`drop`: leave out equal images of unequal class.")] = None,
    bits: Annotated[int | None, typer.Option(help="Bits of 16 that carry the picture; found without.")] = None,
    near: Annotated[str | None, typer.Option(help="One picture: `normal`, `strict` (fixed camera), `off`.")] = None,
    fold: Annotated[str | None, typer.Option(help="`1/2`: hold the first half of train out, as calibration.")] = None,
) -> None:
    """Build a data set as Parquet, card and manifest: `load_dataset(OUT)` reads it."""
    from hf_inspect.data import Rules, build, described, options_from

    if layout not in ("parquet", "folders"):
        raise typer.BadParameter(f"{layout!r} is not known; use parquet or folders.", param_hint="--layout")
    given: dict[str, Any] = {"max_pixels": max_pixels, "on_conflict": on_conflict, "bits": bits, "near": near}
    given["fold"] = fold
    rules = Rules(**{name: value for name, value in given.items() if value is not None})
    with Bars() as bar:
        manifest = build(
            name, out, src=src, options=options_from(name, context.args), rules=rules, num_proc=num_proc,
            folders=layout == "folders", accept_license=accept_license, progress=bar.of_many,
        )  # fmt: skip
    print(plain_lines(described(manifest)))


@data.command("chat")
def data_chat(
    folder: Annotated[Path, typer.Argument(help="Built data set.")],
    out: Out,
    questions: Annotated[Path | None, typer.Option(help="YAML of questions; the data set's own by default.")] = None,
) -> None:
    """Turn a built data set into chat rows (images, prompt, completion), split as it is."""
    from hf_inspect.data import chat

    with Bars() as bar:
        manifest = chat(folder, out, questions, bar.of_many)
    rows = sum(n for splits in manifest["rows"].values() for n in splits.values())
    print(f"{out}: {rows} rows of {len(manifest['images'])} images")


@data.command("ground", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def data_ground(
    context: typer.Context,
    src: Annotated[Path, typer.Argument(help="Built data set of boxes; or COCO, Pascal VOC, LabelMe, YOLO, CVAT.")],
    out: Out,
    family: Annotated[str, typer.Option(help="The VLM's: qwen2_5_vl, qwen3_vl, smolvlm, ...")] = "qwen2_5_vl",
    side: Annotated[int, typer.Option(help="Pixels of a side that the VLM is given.")] = 768,
    language: Annotated[str, typer.Option(help="en or zh.")] = "en",
    describe: Annotated[bool, typer.Option("--describe", help="Answers bring what was written of things.")] = False,
    source: Annotated[str | None, typer.Option("--from", help="Format of raw labels; found without.")] = None,
) -> None:
    """Turn boxes into rows (images, prompt, completion) of where things are; options of a coco build may follow."""
    from hf_inspect.data import Wording, ground, grounded, options_from

    wording, options = Wording(family, side, language, describe), options_from("coco", context.args)
    with Bars() as bar:
        manifest = ground(src, out, wording, source=source, options=options, progress=bar.of_many)
    print(plain_lines(f"{out}: {grounded(manifest)}"))


@data.command("pool")
def data_pool(
    folder: Annotated[Path, typer.Argument(help="Built data set of boxes.")],
    out: Out,
    size: Annotated[int, typer.Option(help="Exemplars, at most one of a group.")] = 10,
    seed: Annotated[int, typer.Option(help="Decides between images that show as much.")] = 42,
    split: Annotated[str, typer.Option(help="Split to choose from; nothing is evaluated on what is chosen.")] = "train",
    sheet: Annotated[Path | None, typer.Option(help="Picture of the exemplars to write.", callback=picture)] = None,
) -> None:
    """Choose exemplars that guide a VLM: they cover classes, densities, places and sizes; OUT/pool.jsonl lists them."""
    from hf_inspect.data import read_pool, write_pool, write_pool_sheet

    with Bars() as bar:
        chosen = write_pool(folder, out, size, seed, split, bar.of_many)
    if sheet:
        write_pool_sheet(read_pool(out), sheet)
    print(plain_lines(chosen.table()))


@data.command("audit")
def data_audit(
    folders: Annotated[list[Path], typer.Argument(help="Built data sets.")],
    sheet: Annotated[Path | None, typer.Option(help="Picture of the pairs to write.", callback=picture)] = None,
) -> None:
    """Find images that are, exactly or nearly, in two places; exits with 1 if any crosses a split or a data set."""
    from hf_inspect.data import audit

    with Bars() as bar:
        found = audit(folders, sheet, bar.of_many)
    print(plain_lines(found.table()))
    if found.crossing:
        raise typer.Exit(1)


@data.command("augment")
def data_augment(
    folder: Annotated[Path, typer.Argument(help="Built data set of boxes.")],
    out: Annotated[Path, typer.Option(help="Picture to write.", callback=picture)],
    characteristic: Annotated[list[str], typer.Option(help="What the things are: thin, ...; repeat.")] = [],  # noqa: B006 - typer's default
    environment: Annotated[list[str], typer.Option(help="Where they are seen: dark, ...; repeat.")] = [],  # noqa: B006 - typer's default
    intensity: Annotated[str, typer.Option(help="low, medium or high.")] = "medium",
    size: Annotated[int, typer.Option(help="Pixels of the sides that images are brought to.")] = 320,
    split: str = "train",
    seed: int = 0,
) -> None:
    """Show what a detection model would be trained on: images, each with three versions."""
    from hf_inspect.detectors.augment import augmentation
    from hf_inspect.detectors.sheet import augmentation_sheet

    augment = augmentation(characteristic, environment, intensity, size, size)
    print(f"{out}: {augmentation_sheet(folder, out, augment, split, seed)} images, three versions each")


@data.command("inspect")
def data_inspect(coco: Coco, as_json: Json = False) -> None:
    """Say what a COCO file holds, which teachers and student follow, and the next command."""
    from hf_inspect.data.coco import inspect

    found = inspect(coco)
    print(json.dumps(found.to_dict(), indent=2) if as_json else plain_lines(found.table()))


@data.command("validate")
def data_validate(
    coco: Annotated[Path, typer.Argument(help="COCO JSON; or the JSON lines of `data ground`.")],
    images: Annotated[Path, typer.Option(help="Folder of its images; no file elsewhere is opened.")],
    repair: Annotated[Path | None, typer.Option(help="COCO JSON to write, with what can be saved.")] = None,
    exif: Exif = None,
    as_json: Json = False,
) -> None:
    """Hold a COCO file, or rows, against every rule and the images; exits with 1 if anything stays wrong."""
    from hf_inspect.data import validate_rows
    from hf_inspect.data.coco import Validation, validate
    from hf_inspect.data.coco import repair as mend

    rows = coco.suffix.lower() == ".jsonl"
    if rows and (repair or exif):
        raise typer.BadParameter("rows are written again, not repaired; leave --repair and --exif out.")
    found = validate_rows(coco, images) if rows else validate(coco, images, exif)
    mended = mend(found, images, repair, exif) if repair and isinstance(found, Validation) else None
    if as_json:
        print(json.dumps(found.to_dict() | (mended.to_dict() if mended else {}), indent=2))
    else:
        print(plain_lines("\n".join([found.table(), *([mended.table()] if mended else [])])))
    if found.wrong and not mended:
        raise typer.Exit(1)


@data.command("split")
def data_split(
    coco: Coco,
    out: Out,
    split: Annotated[str, typer.Option(help="Parts and their shares.")] = "train:0.7,val:0.15,test:0.15",
    group_by: Annotated[str | None, typer.Option(help="Regular expression: group 1 of the name is the photo.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder: near-duplicates join a group, too.")] = None,
    seed: int = 42,
) -> None:
    """Split a COCO file by group, each class in proportion: OUT/train.json and so on, which add up to the whole."""
    from hf_inspect.data.coco import parse_split
    from hf_inspect.data.coco import split as run

    with Bars() as bar:
        made = run(coco, parse_split(split), out, group_by, seed, images, bar.of_many)
    print(plain_lines(made.table()))


@data.command("convert")
def data_convert(
    src: Annotated[Path, typer.Argument(help="COCO's JSON, CVAT's XML, or the folder of the others.")],
    source: Annotated[str, typer.Option("--from", help="coco, yolo, voc, labelme or cvat.")],
    out: Out,
    to: Annotated[str, typer.Option(help="The same.")] = "coco",
) -> None:
    """Convert boxes and classes from and to COCO; what a format or the library loses is counted and said."""
    from hf_inspect.data.coco import convert

    print(plain_lines(convert(src, source, to, out).table()))
