"""How charts look: few colours, labels beside what they name, no frames."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.palette import FAINT, INK, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure of so many inches, the title at its top left."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=150, facecolor="white", layout="constrained")
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def plain(axes: Axes, title: str = "", *, left: bool = True) -> None:
    """Take away the frame but for a thin line below (and at the `left`), and quieten the ticks."""
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom" or (left and side == "left"))
        spine.set_color(RULE)
    axes.tick_params(color=RULE, labelcolor=FAINT, labelsize=8.5, length=3)
    axes.xaxis.label.set(color=FAINT, size=9)
    axes.yaxis.label.set(color=FAINT, size=9)


def write_figure(draw: Callable[[], Figure], path: Path) -> None:
    """Draw and write as PNG: the same bytes every time, whatever the user's own settings are."""
    import matplotlib as mpl

    with mpl.rc_context(mpl.rcParamsDefault), warnings.catch_warnings(), written_whole(path, "wb") as file:
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names may be in any script
        draw().savefig(file, format="png", metadata={"Software": None})
