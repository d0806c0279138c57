"""Commands that make, run and tune the model: train, predict, calibrate."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

import click

from egoexo_xseg.cli.app import (
    DIRECTIONS_OR_BOTH,
    DTYPES,
    EXISTING_FILE,
    EXISTING_FOLDER,
    EXISTING_PATH,
    FOLDER,
    captions_option,
    cli,
    data_option,
    device_option,
    example,
    fail,
    report_faults,
    shard_option,
    split_option,
    spread,
    table,
    takes_option,
    warn_unprepared,
    workers_option,
)


@cli.command()
@click.option(
    "--stage", type=click.Choice(["1", "2", "all"]), help="1: the fusion; 2: all but the image tower (default)."
)
@click.option("--direction", type=DIRECTIONS_OR_BOTH, help="Default: both in one model.")
@click.option(
    "--init",
    metavar="PATH|HUB_ID",
    default="EnmingZhang/PSALM",
    show_default=True,
    help="What to start from: a checkpoint, or the config.json of a new model.",
)
@click.option("--data", type=EXISTING_FOLDER, help="Prepared takes (default: endless scenes of the sample world).")
@split_option
@captions_option("Captions of the query objects (default: none)")
@click.option(
    "--config", "recipe", type=EXISTING_FILE, help="Settings (JSON, docs/formats.md); options given here override it."
)
@click.option("--epochs", type=float, help="How often all records are seen (default: 4).")
@click.option("--steps", type=click.IntRange(1), help="Optimizer steps, instead of epochs.")
@click.option("--batch-size", type=click.IntRange(1), help="Records per process and step (default: 12).")
@click.option("--accumulate", type=click.IntRange(1), help="Batches per step (default: 1).")
@click.option("--lr", type=float, help="Learning rate at its peak (default: 6e-5).")
@click.option("--seed", type=click.IntRange(0), help="Random seed (default: 0).")
@click.option(
    "--reference-behaviour", is_flag=True, default=None, help="Keep frozen parts in training mode, as the authors do."
)
@click.option("--fsdp", is_flag=True, help="Spread the model over the processes instead of copying it.")
@click.option("--device", help="cpu or cuda (default: a GPU if there is one).")
@click.option("--val-split", metavar="NAME", help="Score takes of this split every now and then (default: none).")
@click.option("--val-data", type=EXISTING_FOLDER, help="Prepared takes of that split (default: those of --data).")
@click.option("--val-takes", type=click.IntRange(1), default=4, show_default=True, help="Number of those takes.")
@click.option("--tensorboard", is_flag=True, help="Log for TensorBoard too, into OUT/tensorboard.")
@click.option("--out", type=FOLDER, required=True, help="Receives model/, log.jsonl and what resuming needs.")
@example(
    "xseg train --stage 1 --direction ego2exo --data DATA --split train --captions CAPTIONS --out stage1",
    "xseg train --init stage1/model --direction ego2exo --data DATA --split train --captions CAPTIONS --out stage2",
)
def train(
    init: str, out: Path, data: Path | None, split: str | None, captions: Path | None, recipe: Path | None,
    fsdp: bool, device: str | None, val_split: str | None, val_data: Path | None, val_takes: int, tensorboard: bool,
    **settings: Any,
) -> None:  # fmt: skip
    """Train the model: the paper's two stages, or from scratch.

    All settings are saved with the checkpoint, OUT/model. Run again, the same command continues after the last state
    that was saved. Started by torchrun it uses several processes, GPUs or machines.
    """
    from egoexo_xseg.config import TrainConfig
    from egoexo_xseg.jobs.predict import check_device
    from egoexo_xseg.jobs.train import HeldOut, TrainOptions
    from egoexo_xseg.jobs.train import train as run

    check_device(device)
    config = TrainConfig.read(recipe, **settings)
    validates, where = val_split or val_data, val_data or data
    if validates and where is None:
        raise click.UsageError("--val-split needs --val-data where there is no --data.")
    if data is None and (split or (captions and not validates)):
        raise click.UsageError(f"--{'split' if split else 'captions'} needs --data: drawn scenes have no takes.")
    if data is not None:
        warn_unprepared(data, split)
    held_out = HeldOut(where, val_split, captions, val_takes) if validates else None
    options = TrainOptions(init, out, config, data, split, captions, device, fsdp, held_out, tensorboard)
    trained = run(options)
    click.echo(f"{trained.model}: trained")
    report_faults(trained.faults, "masks of the annotations were skipped")
    if trained.left_out:
        click.echo(f"{trained.left_out} records could not be read (-v names them while it trains)", err=True)


@cli.command()
@click.option(
    "--direction",
    type=DIRECTIONS_OR_BOTH,
    required=True,
    help="From the view with the query masks to the other; both share their work.",
)
@data_option
@split_option
@takes_option
@click.option(
    "--model",
    metavar="PATH|HUB_ID",
    help="A checkpoint (default: the released one of the direction; with both, ObjectRelator-Joint).",
)
@captions_option("Captions of the query objects (default: none)")
@click.option(
    "--shuffle-captions",
    type=click.IntRange(0),
    metavar="SEED",
    help="Control: give each object another object's caption, by this seed.",
)
@device_option
@click.option(
    "--dtype",
    type=DTYPES,
    help="Default: float16 on a GPU, else float32.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Camera pairs at a time, rounded up to whole frames (default: 4; on a GPU 16).",
)
@click.option("--out", type=FOLDER, default="predictions", show_default=True, help="Receives a file per take.")
@shard_option
@example("xseg predict --direction ego2exo --data DATA --split val --model weights/xseg-tiny --out PRED")
def predict(direction: str, device: str | None, shard: tuple[int, int], **options: Any) -> None:
    """Predict masks and visibility for every camera pair.

    Answers every object, camera pair and query frame of a direction into OUT/DIRECTION/<take>.jsonl. Finished takes
    are skipped, so the same command continues an interrupted run; it exits with 1 if a pair had to be left out.
    Started by torchrun, or with --shard 2/8 as the second of eight, it predicts its part of the takes.
    """
    from egoexo_xseg.jobs.predict import PredictOptions, check_device
    from egoexo_xseg.jobs.predict import predict as run
    from egoexo_xseg.records import Direction

    shard, device = spread(shard, device)
    check_device(device)
    warn_unprepared(options["data"], options["split"], options["takes"])
    way = None if direction == "both" else Direction(direction)
    summary = run(PredictOptions(direction=way, device=device, shard=shard, **options))
    click.echo(
        f"{summary.folder}: {summary.takes} takes predicted, {summary.already} were there, "
        f"{summary.predictions} new predictions"
    )
    report_faults(summary.notes, "masks of the annotations were skipped")
    if summary.faults:
        report_faults(summary.faults, "pairs have no answer; the same command tries them again")
        fail(f"{len(summary.faults)} pairs have no answer in {summary.folder}")


@cli.command()
@click.argument("predictions", type=EXISTING_FOLDER)
@click.option(
    "--data",
    "--annotations",
    "data",
    type=EXISTING_PATH,
    required=True,
    help="Prepared takes, or annotations with target masks.",
)
@split_option
@click.option("--model", type=EXISTING_FOLDER, help="The checkpoint that predicted; predict then applies what it gets.")
@click.option("--out", type=FOLDER, help="Receives the predictions with calibrated confidences, and the calibration.")
@click.option("--from", "source", type=EXISTING_FILE, help="Apply this calibration.json instead of fitting a new one.")
@workers_option
@example(
    "xseg calibrate PRED --data DATA --split val --model weights/xseg-tiny",
    "xseg calibrate OTHERS_VAL --data DATA --split val --out CALIBRATED",
    "xseg calibrate OTHERS_TEST --data DATA --split test --from CALIBRATED/calibration.json --out CALIBRATED_TEST",
)
def calibrate(predictions: Path, source: Path | None, **options: Any) -> None:
    """Calibrate confidences: 0.5 best separates visible from hidden.

    Learns from PREDICTIONS of a validation split, ours or another method's, how scores, margins, likeness of object and
    answer, sizes and cuts at the image border tell visibility, for each direction. Prints balanced accuracy, log loss
    and calibration error as predicted and on takes left out of the fit, and draws them beside calibration.json.
    """
    from egoexo_xseg.jobs.calibrate import CalibrateOptions, recalibrate
    from egoexo_xseg.jobs.calibrate import calibrate as run

    warn_unprepared(options["data"], options["split"])
    wanted = CalibrateOptions(predictions, **options)
    if source:
        click.echo(f"{wanted.out}: {recalibrate(wanted, source)} predictions with calibrated confidences")
        return
    summary = run(wanted)
    for direction, judged in summary.judged.items():
        print_judged(direction.value, judged)
    report_faults(summary.notes, "remarks")
    for path in summary.files:
        click.echo(path)


def print_judged(name, judged) -> None:
    """How good confidences were, and how good each candidate made them."""
    rows = [
        (f"{label} (kept)" if label == judged.chosen else label, *(f"{value:.4f}" for value in astuple(quality)))
        for label, quality in judged.qualities.items()
    ]
    table(name, ("confidence", "balanced accuracy", "log loss", "calibration error"), rows)
    click.echo(f"{judged.basis}\n")
