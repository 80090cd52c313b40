"""A figure on a canvas of its own, and its PNG: nothing of matplotlib's global state is read or changed."""

from io import BytesIO
from typing import TYPE_CHECKING

from hf_inspect.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
_LONG = 18  # letters of a class name on an axis
_PALETTE = 128  # colours of a saved plot: no visible loss, and a third of the size


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches on the Agg canvas; MissingExtraError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Plots need matplotlib: pip install 'hf-inspect[train]'") from error
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png_of(figure: "Figure") -> bytes:
    """The figure as a PNG; the same figure gives the same bytes."""
    from PIL import Image

    rendered, png = BytesIO(), BytesIO()
    figure.savefig(rendered, format="png", metadata={"Software": None})
    # Matplotlib's own drawing, not an image of anybody's.
    Image.open(rendered).convert("RGB").quantize(_PALETTE).save(png, "png", optimize=True)
    return png.getvalue()


def as_text(name: str) -> str:
    """A class name as an axis shows it, to the letter: matplotlib would set what stands between two $ as a formula."""
    cut = name if len(name) <= _LONG else name[: _LONG - 1] + "…"
    return " ".join(cut.split()).replace("$", r"\$")
