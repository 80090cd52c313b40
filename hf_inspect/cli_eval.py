"""`hf-inspect eval`: the verbs that measure a model on a split; each writes results.json and prints its table."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_inspect import files
from hf_inspect.console import Bars
from hf_inspect.errors import DataError

evaluate = typer.Typer(help="Measure a model on a split it has not seen.", no_args_is_help=True)


def _results(out: Path) -> Path:
    return files.refuse_other(out, ("data", "environment"))


def picture(out: Path | None) -> Path | None:
    """A picture to write, checked: typer's callback."""
    return files.refuse_other(out) if out else None


def check_shown(exemplars: Path | None, num: int, nearest: bool) -> None:
    """BadParameter where it is said how exemplars are shown, and none are given."""
    if exemplars is None and (num != 1 or nearest):
        raise typer.BadParameter("--num and --nearest are of exemplars: give their pool.", param_hint="--exemplars")


Data = Annotated[Path, typer.Option(help="Folder that `hf-inspect data build` wrote.")]
Exemplars = Annotated[Path | None, typer.Option(help="Pool of `data pool` whose images the VLM is shown first.")]
Num = Annotated[int, typer.Option(help="Exemplars before each image.")]
Nearest = Annotated[bool, typer.Option("--nearest", help="Those most like the image, not the first.")]
Base = Annotated[str, typer.Option(help="VLM base: folder, Hub repository, or `demo-base`.")]
Results = Annotated[Path, typer.Option(help="results.json to write.", callback=_results)]
Plot = Annotated[Path | None, typer.Option(help="Picture to write: the confusion matrix.", callback=picture)]
Split = Annotated[str, typer.Option(help="Split to measure on; holdout/test where several configs have a test.")]

_SCORES = ".scores.jsonl"  # beside results.json: what a killed evaluation goes on from


@evaluate.command("edge")
def eval_edge(model: str, data: Data, out: Results, split: Split = "test", plot: Plot = None) -> None:
    """Measure an exported edge model; answers go to OUT.scores.jsonl, and a killed run goes on there."""
    from hf_inspect.reports import evaluate_edge

    with Bars() as bar:
        results = evaluate_edge(model, data, split, out.with_suffix(_SCORES), bar.of_many)
    _report(results, out, plot)


@evaluate.command("vlm")
def eval_vlm(
    model: Base,
    data: Data,
    out: Results,
    adapter: Annotated[str | None, typer.Option(help="Adapter: folder or repository; zero-shot without one.")] = None,
    split: Split = "test",
    questions: Annotated[Path | None, typer.Option(help="YAML of questions; the data set's own by default.")] = None,
    mode: Annotated[str, typer.Option(help="rank the options, or generate an answer.")] = "rank",
    crops: Annotated[int, typer.Option(help="5: mean over the four corners and the centre.")] = 1,
    views: Annotated[int | None, typer.Option(help="Turns averaged: 1, 2, 4, 8; the adapter's by default.")] = None,
    imgsz: Annotated[int | None, typer.Option(help="Side of the model's images, in pixels.")] = None,
    normalise: Annotated[bool, typer.Option("--normalise", help="Divide an option's score by its tokens.")] = False,
    batch_size: Annotated[int, typer.Option(help="Images in a batch; each takes a row a crop and view.")] = 16,
    beside: Annotated[Path | None, typer.Option(help="results.json to draw beside this one, zero-shot say.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture to write: recall by class.", callback=picture)] = None,
) -> None:
    """Measure a VLM, zero-shot or with its adapter; answers go to OUT.scores.jsonl, and a killed run goes on there."""
    from hf_inspect.reports import evaluate_vlm, write_comparison
    from hf_inspect.vlm import Asking

    asking = Asking(mode, crops, imgsz, normalise, batch_size, views)
    with Bars() as bar:
        results = evaluate_vlm(
            model, adapter, data, split, out.with_suffix(_SCORES), asking=asking, questions=questions,
            progress=bar.of_many,
        )  # fmt: skip
    _report(results, out)
    if plot:
        write_comparison(plot, results, beside)


@evaluate.command("cascade")
def eval_cascade(model: str, data: Data, out: Results, split: Split = "test", plot: Plot = None) -> None:
    """Measure a cascade: its edge, its VLM and each of its policies on the same images."""
    from hf_inspect.reports import evaluate_cascade

    with Bars() as bar:
        results = evaluate_cascade(model, data, split, out.with_suffix(_SCORES), bar.of_many)
    _report(results, out, plot)


@evaluate.command("anomaly")
def eval_anomaly(
    model: Annotated[str, typer.Argument(help="Anomaly model: folder or repository; or a folder of one a category.")],
    data: Data,
    out: Results,
    split: Split = "test",
    plot: Annotated[Path | None, typer.Option(help="ROC and histogram to write, a picture.", callback=picture)] = None,
    sheet: Annotated[Path | None, typer.Option(help="Picture of maps beside masks.", callback=picture)] = None,
) -> None:
    """Measure an anomaly model, and its maps where there are masks; a killed run goes on at OUT.scores.jsonl."""
    from hf_inspect.reports import anomaly_table, evaluate_anomaly, write_curves, write_sheet

    with Bars() as bar:
        results, shown = evaluate_anomaly(model, data, split, out.with_suffix(_SCORES), bar.of_many)
    files.write_json(out, results)
    print(anomaly_table(results))
    if plot:
        write_curves(plot, results)
    if sheet:
        write_sheet(sheet, shown)


@evaluate.command("detect")
def eval_detect(
    model: Annotated[str, typer.Argument(help="Model that finds things: folder that `hf-inspect export` wrote.")],
    data: Data,
    out: Results,
    split: Split = "test",
    plot: Annotated[
        Path | None, typer.Option(help="Precision, recall and confusion to write.", callback=picture)
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="Picture of the worst images.", callback=picture)] = None,
) -> None:
    """Measure what a model finds, by COCO's rules and at the score of the best F1; a killed run goes on."""
    from hf_inspect.reports import detect_table, evaluate_detect, told_lines, write_findings
    from hf_inspect.tasks import TASKS

    with Bars() as bar:
        results, shown = evaluate_detect(model, data, split, out.with_suffix(_SCORES), bar.of_many)
    files.write_json(out, results)
    print(f"{detect_table(results)}\n\n{told_lines(results)}")
    if plot:
        TASKS[results["detection"]["kind"]].draw(results["detection"], plot)
    if sheet:
        write_findings(sheet, shown)


@evaluate.command("ground")
def eval_ground(
    data: Data,
    out: Results,
    base: Annotated[str | None, typer.Argument(help="VLM base: folder, repository; none with --answers.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Adapter: folder or repository; zero-shot without one.")] = None,
    answers: Annotated[Path | None, typer.Option(help='Instead: JSON lines of {"image", "answer"}.')] = None,
    frame: Annotated[str, typer.Option(help="Of boxes in --answers: pixels, or thousandths of the image.")] = "pixels",
    split: Split = "test",
    exemplars: Exemplars = None,
    num: Num = 1,
    nearest: Nearest = False,
    by: Annotated[str | None, typer.Option(help="Findings of text, head, both; both where it has a head.")] = None,
    match: Annotated[str, typer.Option(help="Labels to classes: exact, taxonomy (tops of a/b), semantic.")] = "exact",
    semantic_threshold: Annotated[float, typer.Option(help="Cosine from which a label means a class.")] = 0.7,
    embedder: Annotated[str | None, typer.Option(help="Sentence model: folder, repository; a packaged one.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images in a batch.")] = 8,
    max_new_tokens: Annotated[int | None, typer.Option(help="Of an answer; twice the longest it learned.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Precision, recall, confusion to write.", callback=picture)] = None,
    sheet: Annotated[Path | None, typer.Option(help="Picture of the worst images.", callback=picture)] = None,
    responses: Annotated[Path | None, typer.Option(help="COCO results to write, labels as said.")] = None,
    metrics: Annotated[Path | None, typer.Option(help="JSON of the plain figures to write.")] = None,
) -> None:
    """Measure what a VLM finds and says in its own words, by COCO's rules; a killed run goes on at OUT.scores.jsonl."""
    from hf_inspect.reports import detect_table, ground, told_lines, write_findings
    from hf_inspect.reports.asked import vlm_asked
    from hf_inspect.reports.recorded import recorded
    from hf_inspect.tasks import TASKS

    check_shown(exemplars, num, nearest)
    if (base is None) == (answers is None) or (answers and (adapter or exemplars)):
        raise DataError("Give the VLM to ask, with --adapter and --exemplars, or --answers that were recorded.")
    if answers is not None:
        asked = recorded(answers, data, split, frame)
    else:
        asked = vlm_asked(
            str(base), adapter, data, exemplars=exemplars, num=num, nearest=nearest, by=by, batch_size=batch_size,
            most=max_new_tokens,
        )  # fmt: skip
    scores = out.with_suffix(_SCORES)
    with Bars() as bar:
        made = ground.evaluate_ground(
            asked, data, split, scores, match=match, threshold=semantic_threshold, embedder=embedder,
            progress=bar.of_many,
        )  # fmt: skip
    results = made.results
    files.write_json(out, results)
    print(f"{detect_table(results)}\n\n{told_lines(results)}\n{ground.ground_lines(results)}")
    if plot:
        TASKS[results[ground.SECTION]["kind"]].draw(results[ground.SECTION], plot)
    if sheet:
        write_findings(sheet, made.measured.worst)
    if responses:
        print(f"{responses} has what was found, {ground.write_coco(made, responses)} what is there.")
    if metrics:
        files.write_json(metrics, ground.plain_report(made, str(responses or scores)))


@evaluate.command("formats")
def eval_formats(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `hf-inspect export` wrote, of one model.")],
    data: Data,
    out: Results,
    images: Annotated[int, typer.Option(help="Images of validation to time, from file to answer.")] = 200,
    threads: Annotated[int | None, typer.Option(help="Of each runtime; all cores by default.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of it to write.", callback=picture)] = None,
) -> None:
    """Compare exports by size, load time, p50 and p95, images a second, memory and quality, each in its own process."""
    from hf_inspect.reports.formats import compare_formats, draw_formats, formats_table

    with Bars() as bar:
        results = compare_formats(folders, data, images, threads, bar.of_many)
    files.write_json(out, results)
    print(formats_table(results))
    if plot:
        draw_formats(results, plot)


@evaluate.command("wire")
def eval_wire(
    url: Annotated[str, typer.Argument(help="Server of a VLM: http://host:port of `hf-inspect serve`.")],
    data: Data,
    out: Results,
    jpeg: Annotated[int, typer.Option(help="Quality, 1 to 100.")] = 90,
) -> None:
    """Measure on validation what sending images as JPEG costs in answers and saves in bytes."""
    from hf_inspect.reports.wire import described, wire_cost

    with Bars() as bar:
        results = wire_cost(url, data, jpeg, out.with_suffix(_SCORES), bar.of_many)
    files.write_json(out, results)
    print(described(results))


def _report(results: dict[str, Any], out: Path, plot: Path | None = None) -> None:
    from hf_inspect.reports import model_summary, results_table
    from hf_inspect.tasks import TASKS

    files.write_json(out, results)
    print(results_table(results))
    last = "vlm" if "vlm" in results else "edge"
    print(f"\n{last}:\n{model_summary(results[last])}")
    if plot:
        TASKS[results[last]["kind"]].draw(results[last], plot)
