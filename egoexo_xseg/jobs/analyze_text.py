"""What text is worth: one checkpoint with right, shuffled and no captions, by object size."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from egoexo_xseg.data.annotations import Take
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.metrics import CONFIDENCE_THRESHOLD, mean_recall
from egoexo_xseg.errors import XsegError
from egoexo_xseg.jobs.analyze import (
    Analyst,
    AnalyzeOptions,
    Columns,
    Estimate,
    Study,
    estimate,
    intervals_note,
    mean,
    score,
    write_results,
)
from egoexo_xseg.jobs.charts import new_figure, plain
from egoexo_xseg.jobs.evaluate import SIZES, size_name
from egoexo_xseg.jobs.palette import BLUE, FAINT, INK, ORANGE, RULE
from egoexo_xseg.model.answers import unroll
from egoexo_xseg.records import Direction, Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VARIANTS = ("right", "shuffled", "none")
COMPARISONS = ("right - shuffled", "right - none", "shuffled - none")

SMALL = 0.005
"""Objects up to this share of the target image are small."""

FEW = 10
"""Groups of fewer samples are in the table, and not in the figure."""

Figures = Mapping[tuple[str, str, str], Estimate]
"""A direction's results by measure, kind of captions (or difference between two kinds) and group of objects."""


def analyze_text(options: AnalyzeOptions, seed: int = 0) -> tuple[str, list[str]]:
    """Answer every pair three times and write the differences; returns the text, and pairs that were left out."""
    if options.captions is None:
        raise XsegError("captions are needed", remedy="Give --captions")
    study = Study(options)
    captions = Captions.read(options.captions, study.annotations.take_uids)
    shuffled = captions.shuffled(seed)
    study.begin("text", seed=seed)
    measured = study.measure(partial(_measure, captions, shuffled))
    figures = {direction: compare(columns) for direction, columns in measured.items()}
    header = ("direction", "measure", "captions", "objects", "samples", "value", "low", "high")
    rows = [(each.value, *key, *found.cells) for each, own in figures.items() for key, found in own.items()]
    text = _text(options, measured, figures, seed)
    write_results(options.out, "text", (header, rows), text, partial(_draw, figures))
    return text, study.faults


def _measure(
    captions: Captions, shuffled: Captions, analyst: Analyst, take: Take, direction: Direction, faults: list[str]
) -> Columns:
    answers: list[list[Prediction]] = [[] for _ in VARIANTS]
    for look in analyst.iter_looks(take, direction, faults):
        canvas = unroll(analyst.segmenter, look.sight)
        for own, told in zip(answers, (captions, shuffled, None), strict=True):
            own += analyst.answer(look, canvas, analyst.read(look, told))
    columns = score(take, direction, answers)
    if columns:
        places = zip(*(columns[name].tolist() for name in ("object_id", "query_camera", "frame")), strict=True)
        columns["captioned"] = np.array([captions.of(take.take_uid, *place) is not None for place in places])
    return columns


def compare(columns: Columns) -> Figures:
    """IoU by size, of small against large objects, and visibility, under each kind of captions and between them."""
    seen = columns["visible"]
    uids, shares = columns["take_uid"][seen], columns["area_share"][seen]
    ious = dict(zip(VARIANTS, columns["iou"][seen].T, strict=True))
    ious |= {name: ious[first] - ious[second] for name in COMPARISONS for first, _, second in [name.split()]}
    small, sizes = shares <= SMALL, np.array([size_name(share) for share in shares])
    groups = {"all": np.ones(len(shares), bool), "small": small, "large": ~small}
    groups |= {name: sizes == name for _, name in SIZES}
    figures: dict[tuple[str, str, str], Estimate] = {}
    for told, values in ious.items():
        for name, chosen in groups.items():
            if chosen.any():
                figures["iou", told, name] = mean(uids[chosen], values[chosen])
        if small.any() and not small.all():
            figures["iou", told, "small - large"] = _contrast(uids, values, small)
    hits = dict(zip(VARIANTS, seen == (columns["confidence"] > CONFIDENCE_THRESHOLD).T, strict=True))
    for told in (*VARIANTS, *COMPARISONS):
        own = [hits[name] for name in told.split(" - ")]
        figures["visibility", told, "all"] = _balanced_accuracy(columns["take_uid"], seen, own)
    return figures


def _contrast(uids: np.ndarray, values: np.ndarray, small: np.ndarray) -> Estimate:
    """The mean over small objects less that over large ones, of the same draws of takes."""
    columns = np.stack([values * small, small, values * ~small, ~small], 1)
    return estimate(uids, columns, lambda sums: sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3])


def _balanced_accuracy(uids: np.ndarray, visible: np.ndarray, hits: list[np.ndarray]) -> Estimate:
    """The official one, or the first's less the second's; of one class where the other does not occur."""
    counts = [visible, ~visible, *(kind & hit for hit in hits for kind in (visible, ~visible))]

    def statistic(sums: np.ndarray) -> np.ndarray:
        recalls = sums[:, 2:].reshape(len(sums), len(hits), 2) / sums[:, None, :2]
        balanced = mean_recall(recalls)  # (rows, 1 or 2)
        return balanced[:, 0] - (balanced[:, 1] if len(hits) == 2 else 0)

    return estimate(uids, np.stack(counts, 1).astype(np.float64), statistic)


def _text(
    options: AnalyzeOptions, measured: Mapping[Direction, Columns], figures: Mapping[Direction, Figures], seed: int
) -> str:
    uids, captioned = (
        np.concatenate([columns[name] for columns in measured.values()]) for name in ("take_uid", "captioned")
    )
    head = (
        f"Model `{options.model or 'as released'}`, captions `{options.captions}` (for {captioned.mean():.0%} of the "
        f"objects), shuffled with seed {seed}. {intervals_note(uids)} Differences are paired."
    )
    parts = [f"**{direction.value}**: {_spell(found)}" for direction, found in figures.items()]
    return "\n\n".join(["# Right, shuffled and no captions", head, *parts, "![Differences by size](text.png)"]) + "\n"


def _spell(figures: Figures) -> str:
    """A direction's figures in sentences."""
    groups = {
        "all": "",
        "small": f"objects up to {SMALL:.1%} of the image ",
        "large": "larger ones ",
        "small - large": "the former less the latter ",
    }
    sentences = []
    if ("iou", "right", "all") in figures:
        right, shuffled, none = (figures["iou", told, "all"] for told in VARIANTS)
        sentences.append(
            f"IoU of {right.samples} visible objects {right:.3f} with right captions, {shuffled:.3f} with shuffled "
            f"ones, {none:.3f} without."
        )
        for told in COMPARISONS[:2]:
            found = [
                f"{words}{figures['iou', told, name]:+z.3f}"
                for name, words in groups.items()
                if ("iou", told, name) in figures
            ]
            sentences.append(f"{told.replace('-', 'less').capitalize()}: {', '.join(found)}.")
    levels = [f"{told} {figures['visibility', told, 'all'].value:.3f}" for told in VARIANTS]
    changes = [f"{told.replace('-', 'less')} {figures['visibility', told, 'all']:+z.3f}" for told in COMPARISONS[:2]]
    return " ".join([*sentences, f"Balanced visibility accuracy: {', '.join(levels)}; {', '.join(changes)}."])


def _draw(figures: Mapping[Direction, Figures]) -> Figure:
    """A panel per direction: what right captions gain, size by size, and for visibility."""
    from matplotlib.lines import Line2D

    figure = new_figure(4.6 * len(figures) + 1.6, 4.4, "What right captions gain")
    figure.get_layout_engine().set(wspace=0.06)
    panels = figure.subplots(1, len(figures), sharey=True, sharex=True, squeeze=False)[0]
    for axes, (direction, found) in zip(panels, figures.items(), strict=True):
        _draw_direction(axes, direction.value, found)
    handles = [Line2D([], [], color=colour, marker="o", markersize=5, linewidth=1.6) for colour in (ORANGE, BLUE)]
    labels = ["over shuffled captions", "over none"]
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, labelcolor="linecolor")
    return figure


def _draw_direction(axes: Axes, title: str, figures: Figures) -> None:
    lines = {"IoU, all objects": ("iou", "all")} | {f"{name} of the image": ("iou", name) for _, name in SIZES}
    lines["visibility accuracy"] = ("visibility", "all")
    places = [0.0, *(1.4 + index for index in range(len(SIZES))), 1.8 + len(SIZES)]
    axes.axvline(0, color=RULE, linewidth=1, zorder=0)
    for place, (measure, name) in zip(places, lines.values(), strict=True):
        for told, colour, shift in ((COMPARISONS[0], ORANGE, -0.15), (COMPARISONS[1], BLUE, 0.15)):
            each = figures.get((measure, told, name))
            if each is not None and each.samples >= FEW:
                axes.plot([each.low, each.high], [place + shift] * 2, color=colour, linewidth=1.6, alpha=0.6)
                axes.plot(each.value, place + shift, "o", color=colour, markersize=5)
        samples = each.samples if each is not None else 0
        axes.annotate(
            str(samples),
            (1, place),
            xycoords=("axes fraction", "data"),
            va="center",
            ha="right",
            fontsize=8,
            color=FAINT,
        )
    plain(axes, title, left=False)
    axes.set_title("samples", loc="right", fontsize=8, color=FAINT)
    axes.set_yticks(places, list(lines))
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.margins(x=0.12)
    axes.set_xlabel("difference, and its 95% interval")
