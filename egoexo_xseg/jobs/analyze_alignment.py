"""Whether an object is the same to the model from both sides: its embeddings in the query and in the target view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int64

from egoexo_xseg.data.annotations import Take
from egoexo_xseg.jobs.analyze import (
    Analyst,
    AnalyzeOptions,
    Columns,
    Estimate,
    Study,
    intervals_note,
    write_results,
)
from egoexo_xseg.jobs.charts import new_figure, plain
from egoexo_xseg.jobs.embeddings import Aligned, Views
from egoexo_xseg.jobs.palette import BLUE, FAINT, INK, OBJECTS, ORANGE
from egoexo_xseg.records import Direction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EMBEDDINGS = {"region": "region features", "condition": "conditions"}
"""Pooled under the mask, before the language model; and read by it, before fusion: what XObjAlign compares."""

TINY = 1e-300
"""Keeps a model to which all objects are alike from dividing by nothing."""

SHOWN, MOMENTS = 8, 6
"""Objects in a picture of clusters, and how often each is shown."""


def analyze_alignment(options: AnalyzeOptions, before: str | None = None) -> tuple[str, list[str]]:
    """Compare both views' embeddings, of two models if `before` names another; returns the text, and pairs left out."""
    studies = {"after": Study(options)}
    if before is not None:
        studies = {"before": Study(replace(options, model=before)), **studies}
    studies["after"].begin("alignment", before=studies["before"].models if before is not None else None)
    found = []
    for name, study in studies.items():
        measured = study.measure(_measure, name)
        found += [
            Aligned.of(direction, name, embedding, columns)
            for direction, columns in measured.items()
            for embedding in EMBEDDINGS
        ]
    found.sort(key=lambda each: (options.directions.index(each.direction), [*EMBEDDINGS].index(each.embedding)))
    figures = [each.figures() for each in found]
    rows = [
        (each.direction.value, each.model, each.embedding, name, *value.cells)
        for each, own in zip(found, figures, strict=True)
        for name, value in own.items()
    ]
    header = ("direction", "model", "embedding", "figure", "samples", "value", "low", "high")
    text = _text(options, before, list(zip(found, figures, strict=True)))
    write_results(options.out, "alignment", (header, rows), text, partial(_draw, found))
    return text, [fault for study in studies.values() for fault in study.faults]


def _measure(analyst: Analyst, take: Take, direction: Direction, faults: list[str]) -> Columns:
    """Embeddings of the visible objects: (rows, 2, D), query view first. Captions come later in a prompt."""
    places, embeddings = [], {name: [] for name in EMBEDDINGS}
    for look in analyst.iter_looks(take, direction, faults):
        sight = look.sight
        found = analyst.segmenter.pool(sight.encoding, sight.batch.target, analyst.target_masks(look))
        regions = [sight.regions, found]
        looks = (look, replace(look, sight=replace(sight, regions=found)))
        conditions = [analyst.read(own, None).objects for own in looks]
        for b, pair in enumerate(look.pairs):
            rows = [k for k, entry in enumerate(pair.objects) if entry.visible]
            for name, both in zip(EMBEDDINGS, (regions, conditions), strict=True):
                embeddings[name] += [np.stack([side[b, k].float().cpu().numpy() for side in both]) for k in rows]
            places += [(pair.objects[k].object_id, pair.query_camera, pair.target_camera, pair.frame) for k in rows]
    if not places:
        return {}
    names = ("object_id", "query_camera", "target_camera", "frame")
    columns = {name: np.array(values) for name, values in zip(names, zip(*places, strict=True), strict=True)}
    return columns | {name: np.stack(values) for name, values in embeddings.items()}


def _text(options: AnalyzeOptions, before: str | None, found: list[tuple[Aligned, dict[str, Estimate]]]) -> str:
    uids = np.concatenate([each.views.take_uids for each, _ in found])
    models = f"Model `{options.model or 'as released'}`" + (f", before: `{before}`" if before else "")
    groups: dict[str, dict[str, dict[str, Estimate]]] = {}
    for each, figures in found:
        name = f"**{each.direction.value}, {EMBEDDINGS[each.embedding]}**"
        groups.setdefault(name, {})[each.model if before else ""] = figures
    lines = [f"{name}: {_spell(figures)}" for name, figures in groups.items()]
    head = f"{models}. {intervals_note(uids)}"
    return "\n\n".join(["# Objects from both sides", head, *lines, "![Clusters and distances](alignment.png)"]) + "\n"


def _spell(models: dict[str, dict[str, Estimate]]) -> str:
    """One kind of embedding in sentences, each figure model by model."""

    def told(name: str, spec: str) -> str:
        return ", ".join(f"{figures[name]:{spec}} {model}".rstrip() for model, figures in models.items())

    figures = next(iter(models.values()))
    near, far = figures["first in its pair"], figures["first among all"]
    sentences = []
    if near.samples:
        chance = figures["first in its pair by chance"].value
        sentences = [
            f"an object's distance to itself in the other view, over that to the other objects there: "
            f"{told('same over different', '.3f')}. Nearest to itself among the objects of its pair of views, of "
            f"{near.samples}: {told('first in its pair', '.1%')} ({chance:.1%} by chance)."
        ]
    chance = figures["first among all by chance"].value
    sentences.append(
        f"Nearest to itself among the objects of all takes, of {far.samples}: {told('first among all', '.1%')} "
        f"({chance:.2%} by chance), at mean rank {told('rank among all', '.1f')}."
    )
    return " ".join(sentences)


def choose_objects(views: Views) -> list[tuple[str, str]]:
    """Take and name of the most seen objects of the take that has most of them."""
    seen: dict[str, dict[str, int]] = {}
    for uid, object_id in zip(views.take_uids.tolist(), views.object_ids.tolist(), strict=True):
        counts = seen.setdefault(uid, {})
        counts[object_id] = counts.get(object_id, 0) + 1
    uid, counts = max(seen.items(), key=lambda item: len(item[1]))
    return [(uid, object_id) for object_id in sorted(counts, key=counts.__getitem__, reverse=True)[:SHOWN]]


def choose_moments(views: Views, objects: Sequence[tuple[str, str]]) -> dict[int, Int64[np.ndarray, " m"]]:
    """Rows that show each of `objects` (by its place there), in even steps."""
    chosen = {}
    for index, (uid, object_id) in enumerate(objects):
        rows = np.flatnonzero((views.take_uids == uid) & (views.object_ids == object_id))
        if len(rows):
            chosen[index] = rows[np.unique(np.linspace(0, len(rows) - 1, MOMENTS).astype(int))]
    return chosen


def flatten(points: Float[np.ndarray, "n D"]) -> tuple[Float[np.ndarray, "n 2"], float]:
    """The plane in which points spread most (PCA), and its share of their variance."""
    centred = points - points.mean(0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(1)])[:, None]
    flat = np.zeros((len(points), 2))
    flat[:, : len(axes)] = centred @ axes.T
    return flat, float((spread[:2] ** 2).sum() / max((spread**2).sum(), TINY))


def _draw(found: list[Aligned]) -> Figure:
    """A line per direction and kind of embedding: each model's clusters, then the distances."""
    groups: dict[tuple[Direction, str], list[Aligned]] = {}
    for each in found:
        groups.setdefault((each.direction, each.embedding), []).append(each)
    columns = len(next(iter(groups.values()))) + 1
    figure = new_figure(3.3 * columns + 0.4, 2.9 * len(groups) + 1.0, "Objects from both sides")
    table = figure.subplots(len(groups), columns, squeeze=False)
    objects = choose_objects(found[0].views)
    for index, (line, ((direction, embedding), group)) in enumerate(zip(table, groups.items(), strict=True)):
        for axes, each in zip(line, group, strict=False):
            model = f", {each.model}" if len(group) > 1 else ""
            _draw_clusters(axes, each.views, objects)
            axes.set_title(f"{direction.value}: {EMBEDDINGS[embedding]}{model}", loc="left", fontsize=10, color=INK)
        _draw_distances(line[-1], group, named=index == 0)
    _add_key(figure, [object_id for _, object_id in objects])
    return figure


def _draw_clusters(axes: Axes, views: Views, objects: Sequence[tuple[str, str]]) -> None:
    chosen = choose_moments(views, objects)
    plain(axes, left=False)
    axes.spines["bottom"].set_visible(False)
    axes.set(xticks=[], yticks=[])
    if not chosen:
        return
    rows = np.concatenate(list(chosen.values()))
    colours = [OBJECTS[index] for index, own in chosen.items() for _ in own]
    flat, share = flatten(np.concatenate([views.query[rows], views.target[rows]]))
    query, target = flat[: len(rows)], flat[len(rows) :]
    for start, end, colour in zip(query, target, colours, strict=True):
        axes.plot(*zip(start, end, strict=True), color=colour, linewidth=0.7, alpha=0.45, zorder=1)
    axes.scatter(*query.T, c=colours, s=22, marker="o", linewidths=0, zorder=2)
    axes.scatter(*target.T, c="white", edgecolors=colours, s=26, marker="^", linewidths=1.1, zorder=3)
    axes.set_xlabel(f"{share:.0%} of the spread")


def _draw_distances(axes: Axes, group: list[Aligned], named: bool) -> None:
    """Distances of the same object and of different ones, in units of the latter's mean; a ridge per model."""
    plain(axes, "distances", left=False)
    axes.set(yticks=[], xlim=(0, 2), ylim=(0, len(group)), xlabel="1 = mean distance of different objects")
    edges = np.linspace(0, 2, 101)
    places = (edges[:-1] + edges[1:]) / 2
    smooth = np.exp(-0.5 * ((places[:, None] - places) / 0.05) ** 2)
    for base, each in zip(reversed(range(len(group))), group, strict=True):
        several = np.isfinite(each.in_pairs.different)
        if not several.any():
            continue
        same, different = each.in_pairs.same[several], each.in_pairs.different[several]
        for values, colour, name, side in (
            (different, ORANGE, "different objects", "left"),
            (same, BLUE, "same object", "right"),
        ):
            heights, _ = np.histogram(np.clip(values / max(different.mean(), TINY), 0, 2), edges)
            curve = smooth @ heights
            curve = base + 0.8 * curve / max(curve.max(), TINY)
            axes.fill_between(places, base, curve, color=colour, alpha=0.25, linewidth=0)
            axes.plot(places, curve, color=colour, linewidth=1.2)
            if named and base == len(group) - 1:
                peak = places[curve.argmax()] + (0.1 if side == "right" else 0)
                axes.text(peak, curve.max() + 0.04, name, ha=side, fontsize=8.5, color=colour)
        first = (each.in_pairs.rank[several] == 1).mean()
        model = f"{each.model}: " if len(group) > 1 else ""
        axes.text(2, base + 0.62, f"{model}nearest in {first:.0%}", fontsize=8.5, color=INK, ha="right")


def _add_key(figure: Figure, names: Sequence[str]) -> None:
    """The objects that are shown, and what the markers mean."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=FAINT, marker="o", linestyle="", markersize=5),
        Line2D([], [], color=FAINT, marker="^", linestyle="", markersize=6, markerfacecolor="white"),
        *(Line2D([], [], color=colour, marker="s", linestyle="", markersize=6) for colour in OBJECTS[: len(names)]),
    ]
    words = [" ".join(name.split()) for name in names]
    labels = ["query view", "target view", *(name if len(name) <= 24 else f"{name[:23]}…" for name in words)]
    columns = max(2, int(figure.get_figwidth() / 2.1))
    legend = figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=8.5)
    for text in legend.get_texts():
        text.set(color=INK, parse_math=False)
