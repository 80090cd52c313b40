"""`hf-inspect`: each verb reads its arguments, calls one function and prints what came back."""

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from hf_inspect.cli_data import Out, data
from hf_inspect.cli_eval import Data, Exemplars, Nearest, Num, check_shown, evaluate, picture
from hf_inspect.console import Bars, plain_lines
from hf_inspect.errors import DataError, MissingExtraError, sentence_of
from hf_inspect.others import quieten

app = typer.Typer(help="Industrial inspection on the Hugging Face stack.", no_args_is_help=True, add_completion=False)
app.add_typer(data, name="data")
app.add_typer(evaluate, name="eval")


def main() -> None:
    """Run the command line; what this package or the disk refuses is printed as one sentence, and exits with 1."""
    quieten()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no Unicode
    try:
        app()
    except Exception as error:
        said = sentence_of(error)
        if said is None:
            raise
        print(f"hf-inspect: {plain_lines(said)}", file=sys.stderr)
        raise SystemExit(1) from None


@app.command("demo-base")
def demo_base(out: Annotated[Path | None, typer.Option(help="Folder; the cache by default.")] = None) -> None:
    """Assemble the demo's VLM base from EfficientNet-Lite0 and SmolLM2-135M, both from PyPI."""
    from hf_inspect.vlm import demo_base

    print(demo_base(out))


@app.command()
def label(
    data: Annotated[Path, typer.Argument(help="Built data set of boxes or masks.")],
    teacher: Annotated[Path, typer.Option(help="output_dir of recipes/teacher_lora, or folder of a larger student.")],
    out: Out,
    split: Annotated[str, typer.Option(help="Split to label.")] = "train",
    sample: Annotated[
        str, typer.Option(help="Split that people labelled, and the teacher has not seen.")
    ] = "calibration",
    least: Annotated[
        float | None, typer.Option(help="Score from which a box is a label: 0.3, or what a student tells of.")
    ] = None,
    precision: Annotated[float, typer.Option(help="Least precision of every class on the sample.")] = 0.5,
    recall: Annotated[float, typer.Option(help="Least recall.")] = 0.5,
    iou: Annotated[float, typer.Option(help="Least mean overlap of masks, of boxes where there are none.")] = 0.5,
) -> None:
    """Compare a teacher's labels with people's and, if they are good enough, label a split for a student."""
    from hf_inspect.detectors import teacher_of
    from hf_inspect.teachers import Bar, described, write_labels

    with Bars() as bar:
        made = write_labels(
            teacher_of(teacher, least), data, out, split=split, sample=sample,
            bar=Bar(precision, recall, iou), progress=bar.of_many,
        )  # fmt: skip
    print(plain_lines(described(made)))


@app.command()
def export(
    student: Path,
    calibrate: Annotated[Path, typer.Option(help="Built data set: INT8 is fitted on train, checked on validation.")],
    out: Out,
    to: Annotated[str, typer.Option(help="Format: openvino or onnx.")] = "openvino",
    int8: bool = False,
    category: Annotated[str, typer.Option(help="Of the data, that an anomaly model was fitted to.")] = "",
) -> None:
    """Export a student, a detection or an anomaly model for the edge, or nothing if the export answers differently."""
    from hf_inspect.export import export as run
    from hf_inspect.export import format_named

    try:
        format_named(to)
    except (DataError, MissingExtraError) as error:
        raise typer.BadParameter(str(error), param_hint="--to") from None
    print(f"{out}:\n{run(student, out, data=calibrate, int8=int8, category=category, to=to)}")


@app.command()
def calibrate(
    edge: Annotated[str, typer.Option(help="Folder that `hf-inspect export` wrote, or repository of one.")],
    data: Data,
    out: Out,
    base: Annotated[str | None, typer.Option(help="VLM base, as for `eval vlm`; none: an edge-only cascade.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Its adapter; none: a base that was fine-tuned whole.")] = None,
    vlm: Annotated[str | None, typer.Option(help="In their place, a server: http://host:port of `serve`.")] = None,
    model: Annotated[str | None, typer.Option(help="Of openai+http://host:port/v1, where it lists several.")] = None,
    exemplars: Exemplars = None,
    num: Num = 1,
    nearest: Nearest = False,
    sibling: Annotated[
        list[Path], typer.Option(help="Cascade of the same recipes on a fold of the data; repeated, they fit with it.")
    ] = [],  # noqa: B006 - typer's default
    escape: Annotated[float, typer.Option(help="Most defects the system may pass, as a share.")] = 0.05,
    overkill: Annotated[float, typer.Option(help="Most good parts the system may reject, as a share.")] = 0.10,
    confidence: float = 0.95,
) -> None:
    """Certify a cascade: fit its score on validation, set its limits on calibration, with their risk stated."""
    from hf_inspect.calibrate import calibrate as run

    check_shown(exemplars, num, nearest)
    if adapter and not base:
        raise typer.BadParameter("an adapter needs its base: give --base, demo-base say.", param_hint="--adapter")
    if (vlm and base) or (model and not vlm):
        raise typer.BadParameter("a VLM is --base with its --adapter, or --vlm with its --model.", param_hint="--vlm")
    second = vlm or ((base, adapter) if base else None)
    with Bars() as bar:
        stated = run(
            edge, second, data, out, model=model, exemplars=exemplars, num=num, nearest=nearest, siblings=sibling,
            escape=escape, overkill=overkill, confidence=confidence, progress=bar.of_many,
        )  # fmt: skip
    print(stated["policies"]["certified"]["statement"])
    print(stated["second_look"])


@app.command()
def plan(
    escape: Annotated[float, typer.Option(help="Most defects the system may pass, as a share.")] = 0.05,
    overkill: Annotated[float, typer.Option(help="Most good parts the system may reject, as a share.")] = 0.10,
    confidence: float = 0.95,
    scores: Annotated[Path | None, typer.Option(help="A cascade's calibration.jsonl: what stays undecided.")] = None,
    prevalence: Annotated[float | None, typer.Option(help="Share of defects among the parts made.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of it to write.", callback=picture)] = None,
) -> None:
    """Say how many labelled parts a promise takes, what stays undecided, and what it comes to in 10,000 parts."""
    from hf_inspect.cascade import Promise
    from hf_inspect.plan import run

    if plot and not scores:
        raise typer.BadParameter("the picture is of scores: give --scores, a cascade's calibration.jsonl.")
    print(run(Promise(escape, overkill, confidence), scores, prevalence, plot))


@app.command()
def predict(
    cascade: Annotated[str, typer.Argument(help="Cascade, or what `export` wrote: folder, or repository org/name.")],
    paths: Annotated[list[Path], typer.Argument(help="Files, folders, quoted patterns, videos, camera:0.")],
    fallback: Annotated[str, typer.Option(help="For parts nobody could decide: reject, hold or pass.")] = "hold",
    out: Annotated[Path | None, typer.Option(help="JSON lines to add to; the last of a path counts.")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Refuse larger images.")] = None,
    policy: Annotated[str | None, typer.Option(help="Another of the cascade's policies.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of org/name.")] = None,
    strict: Annotated[bool, typer.Option(help="Exit with 2 if any file or folder is unreadable.")] = False,
    vlm: Annotated[str | None, typer.Option(help="Address of its VLM's server; the cascade's own by default.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds that a part waits for it; 10 by default.")] = None,
    jpeg: Annotated[int | None, typer.Option(help="Send it JPEG of this quality, 1 to 100; see `eval wire`.")] = None,
    maps: Annotated[Path | None, typer.Option(help="Folder for pictures of where: maps or findings.")] = None,
    every: Annotated[str | None, typer.Option(help="Of videos and cameras: 10, each tenth frame, or 0.5s.")] = None,
    coco: Annotated[Path | None, typer.Option(help="File for what is found, as a list of COCO results.")] = None,
    coco_ids: Annotated[Path | None, typer.Option(help="COCO file whose ids of images and categories it has.")] = None,
) -> None:
    """Inspect files, folders, videos and cameras: a line a picture, and a summary."""
    from hf_inspect.predict import run
    from hf_inspect.sources import Every

    if coco_ids and not coco:
        raise typer.BadParameter("ids are of COCO results: give --coco, the file to write.", param_hint="--coco-ids")
    limits = {} if max_pixels is None else {"max_pixels": max_pixels}
    frames = None if every is None else Every.parse(every)
    with Bars() as bar:
        summary = run(
            cascade, paths, out, maps=maps, coco=coco, coco_ids=coco_ids, every=frames, show=print,
            progress=bar.of_many,
            policy=policy, fallback=fallback, revision=revision, vlm=vlm, deadline=deadline, jpeg=jpeg, **limits,
        )  # fmt: skip
    changed = summary.get("wire", {}).get("changed", 0)
    if changed:
        print(f"hf-inspect: {changed} parts have no answer of the VLM, as its server has another one.", file=sys.stderr)
    if changed or (strict and summary["label"].get("unreadable")):
        raise typer.Exit(2)


@app.command()
def serve(
    vlm: Annotated[str, typer.Argument(help="Cascade, adapter, or VLM fine-tuned whole: folder or repository.")],
    base: Annotated[str | None, typer.Option(help="An adapter's base, where it names none that is known.")] = None,
    exemplars: Exemplars = None,
    num: Num = 1,
    nearest: Nearest = False,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: int = 8100,
    waiting: Annotated[int, typer.Option(help="Images that may wait; further ones are told to come again.")] = 64,
    window: Annotated[float, typer.Option(help="Milliseconds that a batch is gathered for; 0: not at all.")] = 4.0,
    most_mb: Annotated[float, typer.Option(help="Megabytes of the largest image that is taken.")] = 32.0,
) -> None:
    """Serve a VLM to boxes at the line; a token in HF_INSPECT_SERVE_TOKEN is then asked of them."""
    from hf_inspect.vlm.guiding import FIXED, NEAREST, Guide
    from hf_inspect.vlm.serve import Limits, serve

    check_shown(exemplars, num, nearest)
    limits = Limits(waiting, window / 1000, int(most_mb * 2**20))
    guide = Guide.from_path(exemplars, num, NEAREST if nearest else FIXED) if exemplars else None
    serve(vlm, base, guide=guide, host=host, port=port, limits=limits)


@app.command()
def card(
    folder: Annotated[
        Path, typer.Argument(help="Data set, VLM, adapter, student, anomaly model, detector or cascade.")
    ],
) -> None:
    """Write a folder's card, README.md, from its own records; what only you know goes into its notes.md."""
    from hf_inspect.reports import write_card

    print(write_card(folder))


@app.command()
def report(
    cascade: Annotated[Path, typer.Argument(help="Cascade's folder, with the results.json of `eval cascade` in it.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="HTML file to write; it holds its pictures.")],
) -> None:
    """Write one page on a measured cascade: its promise, what was measured, what went wrong, in pictures."""
    from hf_inspect.reports import write_report

    print(write_report(cascade, data, out))


@app.command()
def browse(
    results: Annotated[Path, typer.Argument(help="results.json of `eval detect` or `eval ground`.")],
    data: Annotated[Path | None, typer.Option(help="Its data set, where that lies elsewhere now.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: int = 7861,
) -> None:
    """Browse an evaluation: each image with what is there beside what was found, by class, error, score and source."""
    from hf_inspect.reports.browser import browse as run

    run(results, data, host, port)


@app.command()
def push(
    folder: Annotated[
        Path, typer.Argument(help="Data set, VLM, adapter, student, anomaly model, detector, cascade or Space.")
    ],
    repository: Annotated[str, typer.Argument(help="org/name")],
    public: Annotated[bool, typer.Option("--public", help="All may read it; private without.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose the commit as a pull request.")] = False,
) -> None:
    """Check a folder and commit it to the Hub: what is there already is not sent again."""
    from hf_inspect import hub

    made = hub.push(folder, repository, private=not public, create_pr=create_pr)
    print(made or f"{repository} holds all of it already; nothing was sent.")


@app.command()
def bundle(
    cascade: Annotated[str, typer.Argument(help="Cascade: folder, or org/name; with --verify, a bundle.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of org/name.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check a bundle's files; exits with 1 if any differs.")
    ] = False,
) -> None:
    """Gather a cascade with all its parts in one folder for a plant without internet, or check such a folder."""
    from hf_inspect import hub
    from hf_inspect.bundle import bundle as gather

    if verify == (out is not None):
        raise typer.BadParameter("give --out to write a bundle, or --verify to check one.", param_hint="--out")
    with Bars() as bar:
        made = gather(cascade, out, revision, bar.of_many) if out else None
        different = [] if made else hub.verify(Path(cascade), bar.of_many)
    print(made.described() if made else "\n".join(different) or f"{cascade}: every file is as it was bundled.")
    if different:
        raise typer.Exit(1)


@app.command()
def demo(out: Path = Path("outputs/demo")) -> None:
    """Build, calibrate, inspect and measure the shipped solar-cell cascade on this machine."""
    from hf_inspect.demo import run

    with Bars() as bar:
        table = run(out, bar.of_many, show=print)
    print(f"\n{table}")


if __name__ == "__main__":
    main()
