"""Commands that run the model: predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from egoexo_xseg.cli.app import (
    DIRECTIONS,
    EXISTING_FILE,
    EXISTING_FOLDER,
    FOLDER,
    cli,
    example,
    fail,
    report_faults,
    split_option,
    takes_option,
)


class Shard(click.ParamType):
    """One part of n, written `i/n` with i from 1."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        index, _, count = value.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            self.fail(f"{value!r} is not a shard: the second of eight is 2/8", param, ctx)
        return int(index), int(count)


@cli.command()
@click.option("--direction", type=DIRECTIONS, required=True, help="From the view with the query masks to the other.")
@click.option("--data", type=EXISTING_FOLDER, required=True, help="Prepared takes.")
@split_option
@takes_option
@click.option("--model", metavar="PATH|HUB_ID", help="A checkpoint (default: the released one of the direction).")
@click.option("--captions", type=EXISTING_FILE, help="Captions of the query objects, JSON lines (default: none).")
@click.option("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one).")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Default: bfloat16 on a GPU, else float32.")
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Camera pairs at a time.")
@click.option("--out", type=FOLDER, default="predictions", show_default=True, help="Receives a file per take.")
@click.option("--shard", type=Shard(), default="1/1", show_default=True, help="This part of the takes only.")
@example("xseg predict --direction ego2exo --data DATA --split val --model weights/xseg-tiny --out PRED")
def predict(direction: str, data: Path, device: str | None, **options: Any) -> None:
    """Predict masks and visibility for every camera pair.

    Answers every object, camera pair and query frame of a direction into OUT/DIRECTION/<take>.jsonl. Finished takes
    are skipped, so the same command continues an interrupted run; it exits with 1 if a pair had to be left out.
    """
    from egoexo_xseg.jobs.predict import PredictOptions, check_device
    from egoexo_xseg.jobs.predict import predict as run
    from egoexo_xseg.records import Direction

    check_device(device)
    summary = run(PredictOptions(data=data, direction=Direction(direction), device=device, **options))
    click.echo(
        f"{summary.folder}: {summary.takes} takes predicted, {summary.already} were there, "
        f"{summary.predictions} new predictions"
    )
    report_faults(summary.notes, "masks of the annotations were skipped")
    if summary.faults:
        report_faults(summary.faults, "pairs have no answer; the same command tries them again")
        fail(f"{len(summary.faults)} pairs have no answer in {summary.folder}")
