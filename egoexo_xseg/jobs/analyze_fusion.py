"""How much of an object's condition should come from its pixels: the fusion weight k, swept from 0 to 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from egoexo_xseg.data.annotations import Take
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.errors import XsegError
from egoexo_xseg.jobs.analyze import (
    Analyst,
    AnalyzeOptions,
    Columns,
    Estimate,
    Study,
    intervals_note,
    mean,
    score,
    write_results,
)
from egoexo_xseg.jobs.charts import new_figure, plain
from egoexo_xseg.jobs.palette import BLUE, FAINT, ORANGE, RULE
from egoexo_xseg.model.answers import unroll
from egoexo_xseg.model.segmenter import CrossViewModel
from egoexo_xseg.records import Direction, Prediction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Sweep:
    """IoU of one direction's visible objects at each k, the learnt one among them."""

    direction: Direction
    weights: list[float]
    learnt: float
    take_uids: np.ndarray
    ious: np.ndarray  # (samples, weights)

    def __post_init__(self) -> None:
        if not len(self.ious):
            raise XsegError(f"no visible object {self.direction.value}: there is no IoU to compare")

    def curve(self) -> list[Estimate]:
        return [mean(self.take_uids, ious) for ious in self.ious.T]

    def gain(self, weight: float) -> Estimate:
        """What another k would gain over the learnt one."""
        own, other = self.weights.index(self.learnt), self.weights.index(weight)
        return mean(self.take_uids, self.ious[:, other] - self.ious[:, own])

    @property
    def best(self) -> float:
        return self.weights[int(np.argmax(self.ious.mean(0)))]


def analyze_fusion(options: AnalyzeOptions, values: int = 11) -> tuple[str, list[str]]:
    """Answer every pair at `values` weights and the learnt one; returns the paragraph, and pairs left out."""
    study = Study(options)
    captions = Captions.read(options.captions, study.annotations.take_uids) if options.captions else None
    study.begin("fusion", values=values)
    weights = {direction: _weights(study.analyst(direction).segmenter, values) for direction in options.directions}
    measured = study.measure(partial(_measure, captions, values))
    sweeps = []
    for direction, columns in measured.items():
        seen, learnt = columns["visible"], study.analyst(direction).segmenter.fusion.k.item()
        sweeps.append(Sweep(direction, weights[direction], learnt, columns["take_uid"][seen], columns["iou"][seen]))
    text = _text(options, sweeps)
    header = ("direction", "k", "learnt", "samples", "iou", "low", "high")
    rows = [
        (sweep.direction.value, f"{k:.6f}", int(k == sweep.learnt), *each.cells)
        for sweep in sweeps
        for k, each in zip(sweep.weights, sweep.curve(), strict=True)
    ]
    write_results(options.out, "fusion", (header, rows), text, partial(_draw, sweeps))
    return text, study.faults


def _weights(segmenter: CrossViewModel, values: int) -> list[float]:
    """Even steps from 0 to 1, and the learnt value in its place."""
    return sorted({*np.linspace(0, 1, values).tolist(), segmenter.fusion.k.item()})


def _measure(
    captions: Captions | None, values: int, analyst: Analyst, take: Take, direction: Direction, faults: list[str]
) -> Columns:
    """The images are encoded and the prompts read once; only the mask decoder runs at each k."""
    weights = _weights(analyst.segmenter, values)
    answers: list[list[Prediction]] = [[] for _ in weights]
    for look in analyst.iter_looks(take, direction, faults):
        canvas, reading = unroll(analyst.segmenter, look.sight), analyst.read(look, captions)
        for own, weight in zip(answers, weights, strict=True):
            with fusion_weight(analyst.segmenter, weight):
                own += analyst.answer(look, canvas, reading)
    return score(take, direction, answers)


@contextmanager
def fusion_weight(segmenter: CrossViewModel, weight: float) -> Iterator[None]:
    """Answer as if `weight` had been learnt."""
    learnt = segmenter.fusion.k.item()
    segmenter.fusion.k.fill_(weight)
    try:
        yield
    finally:
        segmenter.fusion.k.fill_(learnt)


def _text(options: AnalyzeOptions, sweeps: list[Sweep]) -> str:
    told = f"captions `{options.captions}`" if options.captions else "no captions"
    uids = np.concatenate([sweep.take_uids for sweep in sweeps])
    head = (
        f"Model `{options.model or 'as released'}`, {told}. A condition is k times what the object's pixels became, "
        f"and 1 - k times what the attention to text reads out. {intervals_note(uids)} Differences are paired."
    )
    parts = []
    for sweep in sweeps:
        curve = dict(zip(sweep.weights, sweep.curve(), strict=True))
        parts.append(
            f"**{sweep.direction.value}**, {len(sweep.ious)} visible objects: IoU {curve[sweep.learnt]:.3f} at the "
            f"learnt k = {sweep.learnt:.3f}. The best of {len(curve)} values is k = {sweep.best:.3f} with "
            f"{curve[sweep.best]:.3f}, {sweep.gain(sweep.best):+z.3f} over the learnt one. Pixels alone (k = 1): "
            f"{curve[1.0]:.3f}, {sweep.gain(1.0):+z.3f}; the attention alone (k = 0): {curve[0.0]:.3f}, "
            f"{sweep.gain(0.0):+z.3f}."
        )
    return "\n\n".join(["# The fusion weight", head, *parts, "![IoU by fusion weight](fusion.png)"]) + "\n"


def _draw(sweeps: list[Sweep]) -> Figure:
    figure = new_figure(6.4, 4.0, "IoU by fusion weight")
    axes = figure.subplots()
    for learnt in sorted({sweep.learnt for sweep in sweeps}):
        axes.axvline(learnt, color=RULE, linewidth=1, zorder=0)
        axes.annotate(
            f"learnt {learnt:.2f}", (learnt, 1), (4, -2), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=8.5, color=FAINT,
        )  # fmt: skip
    for sweep, colour in zip(sweeps, (BLUE, ORANGE), strict=False):
        others = [other.curve()[-1].value for other in sweeps if other is not sweep]
        _draw_sweep(axes, sweep, colour, raised=all(sweep.curve()[-1].value >= other for other in others))
    plain(axes)
    axes.set_xlabel("k: 0 the attention to text alone, 1 the object's pixels alone")
    axes.set_ylabel("IoU of visible objects, 95% band")
    axes.margins(x=0.02, y=0.12)
    return figure


def _draw_sweep(axes: Axes, sweep: Sweep, colour: str, raised: bool) -> None:
    """One curve, its band, the learnt point and its name, which stands a little higher or lower than the end."""
    curve = sweep.curve()
    values, lows, highs = zip(*((each.value, each.low, each.high) for each in curve), strict=True)
    axes.fill_between(sweep.weights, lows, highs, color=colour, alpha=0.13, linewidth=0)
    axes.plot(sweep.weights, values, color=colour, linewidth=1.8)
    learnt = values[sweep.weights.index(sweep.learnt)]
    axes.plot(sweep.learnt, learnt, "o", color=colour, markersize=7, markeredgecolor="white", markeredgewidth=1.2)
    axes.annotate(
        sweep.direction.value, (sweep.weights[-1], values[-1]), (6, 5 if raised else -5),
        textcoords="offset points", va="center", fontsize=9.5, color=colour,
    )  # fmt: skip
