"""A page of an evaluation's images on this machine: what is there beside what was found, filtered, one by one."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_inspect.errors import DataError, InspectError, MissingExtraError
from hf_inspect.reports.browse import KINDS, Browsed, case_html, counts_html, open_results

if TYPE_CHECKING:
    import gradio as gr

EVERY = "all classes"
_FONTS = ("system-ui", "sans-serif")  # of the visitor's machine: nothing is fetched from elsewhere
_CSS = ".marks td, .marks th { text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; }"
_KEPT = 600  # seconds that a drawn picture stays on the disk

Shown = tuple[str, Any, Any, str, str, int]  # headline, both pictures, table, counts, place among those chosen


def browse(results: Path, data: Path | None = None, host: str = "127.0.0.1", port: int = 7861) -> None:
    """Serve the page of an evaluation until it is stopped; `data` as in `open_results`.

    DataError where the port cannot be listened at; MissingExtraError without gradio.
    """
    browsed = open_results(results, data)
    page = build(browsed, results.name)
    try:
        page.launch(**settings(host, port))
    except OSError as error:
        raise DataError(f"Port {port} of {host} cannot be listened at ({error}); give another --port.") from None


def settings(host: str, port: int) -> dict[str, Any]:
    """How the page is launched: at this address alone, with nothing from elsewhere."""
    gr = _gradio()
    theme = gr.themes.Default(font=_FONTS, font_mono=("ui-monospace", "monospace"))
    return {
        "server_name": host, "server_port": port, "share": False, "theme": theme, "css": _CSS, "ssr_mode": False,
        "enable_monitoring": False, "run_history": False, "footer_links": [],
    }  # fmt: skip


def build(browsed: Browsed, title: str) -> "gr.Blocks":
    """The page."""
    gr = _gradio()
    with gr.Blocks(title=f"hf_inspect: {title}", analytics_enabled=False, delete_cache=(60, _KEPT)) as page:
        gr.Markdown(f"# {title}\n{browsed.place} of {browsed.data.name}: {len(browsed.cases)} images")
        at = gr.State(0)
        with gr.Row():
            name = gr.Dropdown([EVERY, *browsed.classes], value=EVERY, label="Class")
            kinds = gr.CheckboxGroup(list(KINDS), label="With at least one that is (none: all images)", scale=3)
            told = gr.Slider(0, 1, browsed.threshold, step=0.001, label="Score from which on findings are told of")
            text = gr.Textbox(label="Source holds")
        counts = gr.HTML()
        with gr.Row():
            back, on = gr.Button("Previous"), gr.Button("Next")
        headline = gr.Markdown()
        with gr.Row():
            how: dict[str, Any] = {"interactive": False, "format": "png", "buttons": ["fullscreen", "download"]}
            pictures = [gr.Image(label=said, **how) for said in ("There", "Found")]
        marks = gr.HTML(elem_classes="marks")
        filters, outputs = [name, kinds, told, text], [headline, *pictures, marks, counts, at]
        shown = _Page(browsed)
        changes = [page.load, name.change, kinds.change, told.change, text.submit]
        live: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
        gr.on(changes, shown.first, filters, outputs, api_name="first", **live)
        back.click(shown.previous, [*filters, at], outputs, api_name="previous", **live)
        on.click(shown.next, [*filters, at], outputs, api_name="next", **live)
    return page


class _Page:
    """What the page's events call: of the images that the filters choose the first, the one before, the one after."""

    def __init__(self, browsed: Browsed) -> None:
        self.browsed = browsed

    def first(self, name: str, kinds: Sequence[str], told: float, text: str) -> Shown:
        """The first image."""
        return self._show(name, kinds, told, text, 0)

    def previous(self, name: str, kinds: Sequence[str], told: float, text: str, at: int) -> Shown:
        """The one before; before the first comes the last."""
        return self._show(name, kinds, told, text, at - 1)

    def next(self, name: str, kinds: Sequence[str], told: float, text: str, at: int) -> Shown:
        """The one after; after the last comes the first."""
        return self._show(name, kinds, told, text, at + 1)

    def _show(self, name: str, kinds: Sequence[str], told: float, text: str, at: int) -> Shown:
        of = self.browsed
        chosen = of.chosen(None if name == EVERY else name, kinds, told, text)
        counts = counts_html(of.counts(chosen, told), len(chosen), len(of.cases))
        if not chosen:
            return "No image is like that.", None, None, "", counts, 0
        at %= len(chosen)
        case = of.cases[chosen[at]]
        headline, marks = f"{at + 1} of {len(chosen)}: `{case.source.replace('`', '')}`", of.marks(told)[chosen[at]]
        try:
            there, found = of.pictures(chosen[at], told)
        except InspectError as error:
            return f"{headline}: {error}", None, None, case_html(case, marks), counts, at
        return headline, there, found, case_html(case, marks), counts, at


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported
    try:
        import gradio
    except ImportError as error:
        raise MissingExtraError("Browsing results needs gradio: pip install 'hf-inspect[space]'") from error
    return gradio
