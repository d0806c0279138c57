"""The picture of a calibration: what confidences claim, and what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from egoexo_xseg.data.logistic import NUM_BINS, Reliability
from egoexo_xseg.jobs.charts import write_figure
from egoexo_xseg.jobs.palette import BLUE, INK, ORANGE, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER = ORANGE, BLUE

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class ReliabilityPanel:
    """One direction's probabilities before and after calibration, and what is written at them."""

    title: str
    before: Reliability
    after: Reliability
    before_label: str
    after_label: str
    foot: str


def draw_reliability(panels: Sequence[ReliabilityPanel], path: Path) -> None:
    """Claimed against observed visibility, classes of equal weight, with bars that tell how many targets lie where."""
    write_figure(lambda: _draw(panels), path)


def _draw(panels: Sequence[ReliabilityPanel]) -> Figure:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update(STYLE)
    figure = Figure(figsize=(3.6 * len(panels), 5.8), layout="constrained")
    rows = figure.subplots(3, len(panels), squeeze=False, sharex=True, height_ratios=[4, 1, 1])
    for column, panel in zip(rows.T, panels, strict=True):
        _draw_curves(column[0], panel)
        _draw_counts(column[1], panel.before, BEFORE, "before")
        _draw_counts(column[2], panel.after, AFTER, "after")
        column[2].set_xlabel(f"confidence\n{panel.foot}")
    rows[0, 0].set_ylabel("share visible, classes weighted alike")
    return figure


def _draw_curves(axes: Axes, panel: ReliabilityPanel) -> None:
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=0.8, zorder=1)
    axes.axvline(0.5, color=RULE, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    for bins, color, marker, label in (
        (panel.before, BEFORE, "o", panel.before_label),
        (panel.after, AFTER, "s", panel.after_label),
    ):
        filled = bins.hidden + bins.visible > 0
        face = "white" if marker == "o" else color
        axes.plot(
            bins.predicted[filled], bins.observed[filled],
            color=color, marker=marker, markersize=4.5, markerfacecolor=face, linewidth=1.2, label=label, clip_on=False,
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), box_aspect=1)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.4, alignment="left",
        title=panel.title, title_fontproperties={"weight": "bold", "size": 9}, fontsize=8,
    )  # fmt: skip


def _draw_counts(axes: Axes, bins: Reliability, color: str, name: str) -> None:
    """Bars of all targets in each bin, the hidden ones dark below."""
    middles = (np.arange(NUM_BINS) + 0.5) / NUM_BINS
    width = 0.9 / NUM_BINS
    axes.bar(middles, bins.hidden, width, color=color, label="hidden")
    axes.bar(middles, bins.visible, width, bottom=bins.hidden, color=color, alpha=0.35, linewidth=0, label="visible")
    axes.set_ylabel(name)
    axes.set_ylim(0, 1.4 * max((bins.hidden + bins.visible).max(), 1))  # room for the legend
    axes.locator_params(axis="y", nbins=3, integer=True)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="upper left", fontsize=7, handlelength=1, handleheight=0.8, ncols=2, borderaxespad=0)
