"""The cascade in a browser: one image's way through it, other promises on its stored scores, and a batch.

`HF_INSPECT_CASCADE` names the cascade, a folder or a repository; the shipped solar-cell one by default.
"""

import os
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
from gradio.data_classes import FileData, ListFiles

from hf_inspect import errors
from hf_inspect.cascade import Promise, what_if
from hf_inspect.reports import page, uploads
from hf_inspect.schema import Verdict

QUEUE = 64  # visitors waiting; the next one is told that the page is busy
EXAMPLES = sorted(Path(__file__).parent.glob("examples/*.png"))
FONTS = ("system-ui", "sans-serif")  # of the visitor's machine: nothing is fetched from elsewhere
CSS = """
.verdict { border-left: 6px solid #6b7280; padding: 0.5rem 0.8rem; }
.verdict.good { border-color: #0072b2; } .verdict.defect { border-color: #d55e00; }
.verdict p { font-size: 1.1rem; } .verdict strong { text-transform: uppercase; }
.heat { margin: 0.6rem 0; } .heat img { width: 100%; max-width: 540px; } .heat figcaption { font-size: 0.9rem; }
.verdict dt { font-weight: 600; margin-top: 0.4rem; } .verdict dd { margin: 0; }
.what-if table { width: 100%; border-collapse: collapse; font-size: 0.9rem; } .what-if caption { text-align: left; }
.what-if th, .what-if td { text-align: left; padding: 0.2rem 0.5rem 0.2rem 0; vertical-align: top; }
.what-if table, .what-if tr, .what-if th, .what-if td { border: 0; } .what-if tr { border-bottom: 1px solid #d1d5db; }
.what-if img { width: 100%; max-width: 540px; } .what-if caption { padding-bottom: 0.3rem; font-weight: 600; }
"""


def shipped() -> Path:
    """The solar-cell cascade's folder."""
    from hf_inspect import demo  # brings transformers, which an edge-only cascade does not need

    return demo.assets()


inspector, scores = page.open_cascade(os.environ.get("HF_INSPECT_CASCADE") or shipped())
policy, promise, COLUMNS = inspector.policy, inspector.policy.promise, page.columns_of(inspector.task)
INTRO = f"""# Edge model and vision-language model, under one promise
{page.how_decided(policy, "" if inspector.vlm else inspector.no_vlm)}
A demonstration, on solar cells unless it was set up for other parts, and no inspection service: what you send is
deleted within a quarter of an hour and shown to nobody else."""
RISK = f"""**The promise in use.** {policy.statement}"""
WHAT_IF = """### What if another promise were wanted?
The sliders move the promise for the whole system. Its limits are set anew on the cascade's stored calibration scores,
and what follows is counted on those same scores: it is no promise for other parts, and the verdict above stays."""


def inspect(content: bytes | None) -> tuple[str, Verdict | None]:
    """One image's verdict, for people and for the what-if."""
    if content is None:
        return "", None
    [verdict] = page.inspect_uploads(inspector, [content])
    return page.verdict_html(verdict, policy) + page.heat_html(inspector, content, verdict), verdict


def explore(escape: float, overkill: float, confidence: float, verdict: Verdict | None) -> tuple[str, str]:
    """Another promise, in percent: limits and rates, and their plot."""
    found = what_if(scores, policy.composite, Promise(escape / 100, overkill / 100, confidence / 100))
    return page.what_if_html(found, scores, verdict)


def inspect_batch(images: list[tuple[str, bytes]] | None) -> tuple[list[list], str]:
    """Several images' verdicts as a table and a CSV."""
    names, contents = zip(*images, strict=True) if images else ((), ())
    try:
        rows = page.table_of(names, page.inspect_uploads(inspector, contents))
    except errors.InspectError as error:
        raise gr.Error(str(error)) from None
    return rows, page.csv_link(rows, COLUMNS) if rows else ""


def sent(_: gr.Image, image: FileData | None) -> bytes | None:
    """An uploaded image's bytes as they came."""
    return sent_by_name(_, [image])[0][1] if image else None


def sent_by_name(_: gr.File, files: ListFiles | None) -> list[tuple[str, bytes]]:
    """Uploaded files' names and bytes as they came."""
    names = [Path(file.orig_name or "image").name for file in files or []]
    try:
        return list(zip(names, page.read_uploads([Path(file.path) for file in files or []]), strict=True))
    except errors.InspectError as error:
        raise gr.Error(str(error)) from None


# Inspector reads the files, as everywhere: gradio would decode them, and fail on a broken one. Set on the classes, as
# gradio makes a component anew for a visitor who clicks an example.
gr.Image.preprocess, gr.File.preprocess = sent, sent_by_name


def build() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="hf_inspect: cascade", analytics_enabled=False, delete_cache=(60, uploads.KEPT)) as blocks:
        gr.Markdown(INTRO)
        last = gr.State(None)
        with gr.Tab("One image"):
            with gr.Row():
                with gr.Column():
                    sources = ["upload", "webcam", "clipboard"]
                    image = gr.Image(label="Image", alt_text="What you sent", height=300, sources=sources, buttons=[])
                    names = [f"A {example.stem} cell" for example in EXAMPLES]
                    gr.Examples(EXAMPLES, image, label="Drawn examples", example_labels=names, cache_examples=False)
                with gr.Column():
                    verdict = gr.HTML(min_height=120, elem_id="verdict")
                    gr.Markdown(RISK)
            gr.Markdown(WHAT_IF)
            with gr.Row():
                with gr.Column():
                    risks = [
                        gr.Slider(0.5, 30, promise.escape * 100, step=0.5, label="What if: escapes, percent"),
                        gr.Slider(0.5, 30, promise.overkill * 100, step=0.5, label="What if: overkill, percent"),
                        gr.Slider(50, 99, promise.confidence * 100, step=1, label="What if: confidence, percent"),
                    ]
                    rates = gr.HTML(elem_id="rates", elem_classes="what-if")
                with gr.Column():
                    plot = gr.HTML(elem_id="plot", elem_classes="what-if")
        with gr.Tab("Batch"):
            gr.Markdown(f"{page.LIMITS} {COLUMNS[4]} is that of whoever decided.")
            files = gr.File(label="Images", file_count="multiple", file_types=["image"])
            csv = gr.HTML(elem_id="csv")
            table = gr.Dataframe(headers=COLUMNS, label="Verdicts", interactive=False, wrap=True)
        one_at_a_time = {"concurrency_id": "models", "concurrency_limit": 1}
        inspected = image.change(inspect, image, [verdict, last], api_name="inspect", **one_at_a_time)
        inspected.then(explore, [*risks, last], [rates, plot], api_name=False, show_progress="hidden")
        files.change(inspect_batch, files, [table, csv], api_name="inspect_batch", **one_at_a_time)
        changes = [blocks.load, *(risk.change for risk in risks)]
        live = {"trigger_mode": "always_last", "show_progress": "hidden"}
        gr.on(changes, explore, [*risks, last], [rates, plot], api_name="what_if", **live)
    return blocks.queue(max_size=QUEUE)


if __name__ == "__main__":
    blocks = build()
    blocks.launch(
        app_kwargs=uploads.bounded(blocks.upload_file_set),
        theme=gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace")),
        css=CSS,
        max_file_size=page.MAX_BYTES,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=["api"],
    )
