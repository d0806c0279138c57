"""Commands that look into a model: analyze text, alignment, fusion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from egoexo_xseg.cli.app import (
    DIRECTIONS_OR_BOTH,
    FOLDER,
    OneLineErrors,
    captions_option,
    cli,
    data_option,
    device_option,
    example,
    fail,
    report_faults,
    split_option,
    takes_option,
    warn_unprepared,
)


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every analysis is told."""
    options = (
        click.option(
            "--direction", type=DIRECTIONS_OR_BOTH, default="both", show_default=True,
            help="From the view with the query masks to the other.",
        ),
        data_option,
        split_option,
        takes_option,
        click.option(
            "--model", metavar="PATH|HUB_ID", help="A checkpoint (default: each direction's own released one)."
        ),
        device_option,
        click.option(
            "--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Camera pairs at a time."
        ),
        click.option("--out", type=FOLDER, required=True, help="Receives the figure, the table and the text."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@cli.group(cls=OneLineErrors)
def analyze() -> None:
    """Look into a model: what text, alignment and fusion do.

    Each analysis writes a figure (PNG), a table (CSV) and a text (Markdown), which it prints too. An interrupted one
    continues when it is run again.
    """


@analyze.command()
@study_options
@captions_option("Captions of the query objects", required=True)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed of the shuffled captions."
)
@example("xseg analyze text --data DATA --split val --model weights/xseg-tiny --captions CAPTIONS --out text")
def text(seed: int, **options: Any) -> None:
    """Compare right, shuffled and no captions, by object size.

    Every pair is answered three times by the same checkpoint. Differences of IoU and of visibility accuracy come with
    95% bootstrap intervals over takes, the same takes for both sides.
    """
    from egoexo_xseg.jobs.analyze_text import analyze_text

    report(*analyze_text(read_options(**options), seed))


@analyze.command()
@study_options
@click.option("--before", metavar="PATH|HUB_ID", help="A checkpoint to compare with, such as one without alignment.")
@example("xseg analyze alignment --data DATA --split val --model AFTER --before BEFORE --out alignment")
def alignment(before: str | None, **options: Any) -> None:
    """Compare objects' embeddings in the query and the target view.

    Distances of the same and of different objects, the right object's rank among those of its pair of views and among
    all, and a picture of the clusters, for region features and for conditions.
    """
    from egoexo_xseg.jobs.analyze_alignment import analyze_alignment

    report(*analyze_alignment(read_options(**options), before))


@analyze.command()
@study_options
@captions_option("Captions of the query objects (default: none)")
@click.option("--values", type=click.IntRange(2), default=11, show_default=True, help="Even steps from 0 to 1.")
@example("xseg analyze fusion --data DATA --split val --model weights/xseg-tiny --captions CAPTIONS --out fusion")
def fusion(values: int, **options: Any) -> None:
    """Sweep the fusion weight k from 0 (text) to 1 (pixels).

    The IoU of visible objects at every weight, with 95% bootstrap intervals over takes, and at the learnt one.
    """
    from egoexo_xseg.jobs.analyze_fusion import analyze_fusion

    report(*analyze_fusion(read_options(**options), values))


def read_options(direction: str, device: str | None, captions: Path | None = None, **options: Any) -> Any:
    from egoexo_xseg.jobs.analyze import AnalyzeOptions
    from egoexo_xseg.jobs.predict import check_device
    from egoexo_xseg.records import Direction

    check_device(device)
    warn_unprepared(options["data"], options["split"], options["takes"])
    directions = tuple(Direction) if direction == "both" else (Direction(direction),)
    return AnalyzeOptions(directions=directions, device=device, captions=captions, **options)


def report(paragraph: str, faults: list[str]) -> None:
    click.echo(paragraph.rstrip())
    if faults:
        report_faults(faults, "pairs were left out; the same command tries them again")
        fail(f"{len(faults)} pairs were left out of these figures")
