"""A figure on a canvas of its own, and its PNG: nothing of matplotlib's global state is read or changed."""

from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_inspect.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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


def draw_confusion(axes: "Axes", confusion: Mapping[str, Any]) -> None:
    """Counts by rows and columns, and each as a share of its row; a last column without any is left out."""
    counts = np.array(confusion["counts"])
    columns = confusion["columns"] if counts[:, -1].any() else confusion["columns"][:-1]
    counts = counts[:, : len(columns)]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), n in np.ndenumerate(counts):
        ink = "white" if share[row, column] > 0.6 else "black"
        axes.text(column, row, f"{n}\n{share[row, column]:.0%}", ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks(range(len(columns)), [as_text(name) for name in columns], rotation=35, ha="right")
    axes.set_yticks(range(len(counts)), [as_text(name) for name in confusion["rows"]])


def as_text(name: str) -> str:
    """A class name as an axis shows it, to the letter: matplotlib would set what stands between two $ as a formula."""
    cut = name if len(name) <= _LONG else name[: _LONG - 1] + "…"
    return " ".join(cut.split()).replace("$", r"\$")
