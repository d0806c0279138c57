"""Commands that run the model: train, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from egoexo_xseg.cli.app import (
    DIRECTIONS,
    EXISTING_FILE,
    EXISTING_FOLDER,
    FOLDER,
    captions_option,
    cli,
    example,
    fail,
    report_faults,
    shard_option,
    split_option,
    takes_option,
)


@cli.command()
@click.option(
    "--stage", type=click.Choice(["1", "2", "all"]), help="1: the fusion; 2: all but the image tower (default)."
)
@click.option("--direction", type=click.Choice(["ego2exo", "exo2ego", "both"]), help="Default: both in one model.")
@click.option(
    "--init", metavar="PATH|HUB_ID", default="EnmingZhang/PSALM", show_default=True, help="What to start from."
)
@click.option("--data", type=EXISTING_FOLDER, help="Prepared takes (default: endless scenes of the sample world).")
@split_option
@captions_option("Captions of the query objects")
@click.option("--config", "recipe", type=EXISTING_FILE, help="Settings, JSON; what is given here goes before it.")
@click.option("--steps", type=click.IntRange(1), help="How long (default: 4 epochs).")
@click.option("--batch-size", type=click.IntRange(1), help="Records per process and step (default: 12).")
@click.option("--accumulate", type=click.IntRange(1), help="Batches per step (default: 1).")
@click.option("--lr", type=float, help="Learning rate at its peak (default: 6e-5).")
@click.option("--seed", type=click.IntRange(0), help="Of every random draw (default: 0).")
@click.option("--fsdp", is_flag=True, help="Spread the model over the processes instead of copying it.")
@click.option("--device", help="cpu or cuda (default: a GPU if there is one).")
@click.option("--out", type=FOLDER, required=True, help="Receives model/, log.jsonl and what resuming needs.")
@example(
    "xseg train --stage 1 --direction ego2exo --data DATA --split train --captions CAPTIONS --out stage1",
    "xseg train --init stage1/model --direction ego2exo --data DATA --split train --captions CAPTIONS --out stage2",
)
def train(
    init: str, out: Path, data: Path | None, split: str | None, captions: Path | None, recipe: Path | None,
    fsdp: bool, device: str | None, **settings: Any,
) -> None:  # fmt: skip
    """Train the model: the paper's two stages, or from scratch.

    The settings that count are saved with the checkpoint, OUT/model. Given again, the same command goes on after the
    last state that was saved. Started by torchrun it uses several processes, GPUs or machines.
    """
    from egoexo_xseg.config import TrainConfig
    from egoexo_xseg.jobs.predict import check_device
    from egoexo_xseg.jobs.train import TrainOptions
    from egoexo_xseg.jobs.train import train as run

    check_device(device)
    config = TrainConfig.read(recipe, **settings)
    click.echo(f"{run(TrainOptions(init, out, config, data, split, captions, device, fsdp))}: trained")


@cli.command()
@click.option("--direction", type=DIRECTIONS, required=True, help="From the view with the query masks to the other.")
@click.option("--data", type=EXISTING_FOLDER, required=True, help="Prepared takes.")
@split_option
@takes_option
@click.option("--model", metavar="PATH|HUB_ID", help="A checkpoint (default: the released one of the direction).")
@captions_option("Captions of the query objects (default: none)")
@click.option(
    "--shuffle-captions",
    type=click.IntRange(0),
    metavar="SEED",
    help="For control: each object gets another's caption.",
)
@click.option("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one).")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Default: bfloat16 on a GPU, else float32.")
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Camera pairs at a time.")
@click.option("--out", type=FOLDER, default="predictions", show_default=True, help="Receives a file per take.")
@shard_option
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
