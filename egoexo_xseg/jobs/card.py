"""The page that tells people on the Hub what a checkpoint is: from its folder, and from scores that were measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from egoexo_xseg.data.sources import read_json
from egoexo_xseg.data.visibility import FILE_NAME, read_calibration
from egoexo_xseg.errors import SubmissionError
from egoexo_xseg.jobs.evaluate import Scores
from egoexo_xseg.jobs.weights import Contents
from egoexo_xseg.model.store import read_origin
from egoexo_xseg.records import Direction

METRICS = {
    "iou": "IoU",
    "location_error": "location error",
    "contour_accuracy": "contour accuracy",
    "visibility_balanced_accuracy": "visibility, balanced accuracy",
    "existence_accuracy": "existence accuracy",
}

MOST = 1e12
"""No score comes near; a number with hundreds of digits cannot even be written as one."""

ScoreTable = Mapping[Direction, Mapping[str, float | None]]


def read_scores(path: Path) -> ScoreTable:
    """What `xseg evaluate --json` wrote, by direction; a SubmissionError for anything else."""
    values = read_json(path)
    names = {entry.name for entry in fields(Scores)}
    known = [direction for direction in Direction if direction.value in values]
    for direction in known:
        found = values[direction.value]
        if not isinstance(found, dict) or found.keys() != names or not all(map(_is_score, found.values())):
            known = []
    if not known or len(known) != len(values):
        raise SubmissionError("not the scores that xseg evaluate --json writes", where=path)
    return {direction: values[direction.value] for direction in known}


def _is_score(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MOST)


def make_card(folder: Path, contents: Contents, repository: str, licence: str, scores: ScoreTable | None) -> str:
    """Markdown with the Hub's metadata in front."""
    settings = read_json(folder / "train.json") if (folder / "train.json").is_file() else {}
    trained = settings.get("config") if isinstance(settings.get("config"), dict) else {}
    directions = _directions(trained.get("direction"), scores)
    sizes = [(name, f"{count:,}") for name, count in contents.parts.items()]
    stored = [("stored as", ", ".join(contents.dtypes)), ("SHA-256", contents.digest)]
    parts = [
        _front(licence, directions),
        f"# {repository.partition('/')[2]}",
        _opening(folder, contents, directions),
        *_use(repository, directions),
        "## Size",
        _table(("part", "parameters"), [*sizes, ("all", f"{contents.num_parameters:,}")]),
        _table(("what", "value"), [*contents.settings.items(), *stored]),
    ]
    if scores:
        parts += ["## Scores", "As `xseg evaluate` measured them; `scores.json` has every digit.", _scores(scores)]
    if trained:
        start = settings.get("run", {}).get("init") if isinstance(settings.get("run"), dict) else None
        rows = [*((name, value) for name, value in trained.items() if value is not None), ("start (SHA-256)", start)]
        parts += ["## Training", _table(("setting", "value"), [row for row in rows if row[1] is not None])]
    if (folder / FILE_NAME).is_file():
        parts += ["## Calibration", "How confidences were calibrated: 0.5 best separates visible from hidden."]
        parts.append(_calibration(folder / FILE_NAME))
    return "\n\n".join(parts) + "\n"


def _directions(trained: object, scores: ScoreTable | None) -> list[Direction]:
    """Which ways the model goes, as far as training or scores tell."""
    if trained is None:
        return list(scores or ())
    return [direction for direction in Direction if trained in ("both", direction.value)]


def _front(licence: str, directions: Iterable[Direction]) -> str:
    tags = ["xseg", "ego-exo4d", "cross-view-segmentation", *(direction.value for direction in directions)]
    lines = [f"license: {licence}", "library_name: xseg", "pipeline_tag: image-segmentation", "tags:"]
    return "\n".join(["---", *lines, *(f"- {tag}" for tag in tags), "---"])


def _opening(folder: Path, contents: Contents, directions: list[Direction]) -> str:
    ways = f" ({' and '.join(direction.value for direction in directions)})" if directions else ""
    lines = [
        f"Finds the objects of one camera's view in another's{ways}: masks of objects in an egocentric or an",
        "exocentric view become masks in the other view, each with whether the object is visible there. For `xseg`,",
        f"{contents.num_parameters / 1e6:,.1f} million parameters.",
    ]
    if contents.settings["trained"] == "no":
        lines.append("**Its weights are untrained: it runs, and finds nothing.**")
    if origin := read_origin(folder):
        lines.append(f"Translated from {_cell(origin.get('repository'))} at commit {_cell(origin.get('commit'))}.")
    return "\n".join(lines)


def _use(repository: str, directions: list[Direction]) -> list[str]:
    way = "both" if len(directions) == 2 else (directions or list(Direction))[0].value
    one = (directions or list(Direction))[0].value
    return [
        "## Use",
        f"```\nxseg predict --model {repository} --direction {way} --data DATA --split val --out PRED\n```",
        "```python\nfrom egoexo_xseg import CrossViewSegmenter\n\n"
        f'segmenter = CrossViewSegmenter.from_pretrained("{repository}", direction="{one}")\n'
        "masks, visibility = segmenter.segment(query_image, query_masks, target_image)\n```",
    ]


def _scores(scores: ScoreTable) -> str:
    rows = [
        (label, *("-" if found[name] is None else f"{found[name]:.4f}" for found in scores.values()))
        for name, label in METRICS.items()
    ]
    rows.append(("samples", *(f"{found['samples']:,}" for found in scores.values())))
    return _table(("", *(direction.value for direction in scores)), rows)


def _calibration(path: Path) -> str:
    maps = read_calibration(path)
    names = list(dict.fromkeys(name for each in maps.values() for name in each.fitted if name != "data"))
    rows = [(name, *(each.fitted.get(name, "-") for each in maps.values())) for name in names]
    return _table(("", *(direction.value for direction in maps)), rows)


def _table(columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: object) -> str:
    """A value of somebody's JSON, which must not leave its cell."""
    if isinstance(value, dict):
        value = ", ".join(f"{str(name).replace('_', ' ')} {inner}" for name, inner in value.items())
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
