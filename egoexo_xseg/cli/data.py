"""Commands that make data: sample, prepare."""

from __future__ import annotations

from pathlib import Path

import click

from egoexo_xseg.cli.app import (
    EXISTING_FOLDER,
    FOLDER,
    cli,
    example,
    report_faults,
    split_option,
    table,
    takes_option,
    workers_option,
)


@cli.command()
@click.argument("raw", metavar="DIR", type=FOLDER)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other scenes.")
@click.option("--takes", type=click.IntRange(1, 100_000), default=2, show_default=True, help="How many takes.")
@click.option("--split", metavar="NAME", default="val", show_default=True, help="The split they belong to.")
@click.option("--full-size", is_flag=True, help="Write videos at the release's full size besides the 448p ones.")
@workers_option
@example("xseg sample RAW --seed 7 --takes 2 --split val")
def sample(raw: Path, seed: int, takes: int, split: str, full_size: bool, workers: int | None) -> None:
    """Make up recordings in the layout of the raw release.

    Ray-cast scenes of textured objects on a table, seen by a moving egocentric camera and static exocentric ones,
    stand in for the licensed recordings: masks, occlusion and visibility are geometrically true.
    """
    from egoexo_xseg.jobs.sample import write_sample

    figures = write_sample(raw, seed=seed, takes=takes, split=split, full_size=full_size, workers=workers)
    table(f"Sample split {split!r} in {raw}", ("figure", "value"), figures.rows())


@cli.command()
@click.argument("raw", type=EXISTING_FOLDER)
@click.argument("data", type=FOLDER)
@split_option
@takes_option
@workers_option
@example("xseg prepare RAW DATA --split val")
def prepare(raw: Path, data: Path, split: str | None, takes: tuple[str, ...], workers: int | None) -> None:
    """Turn the raw release into frames and annotations.

    RAW is a folder of the official downloader (or of xseg sample); DATA receives a folder per take with one JPEG a
    second and camera, and annotation.json. Finished takes are skipped, so an interrupted run continues.
    """
    from egoexo_xseg.jobs.prepare import prepare as run

    summary = run(raw, data, split=split, takes=takes, workers=workers)
    table(f"Prepared {data}", ("figure", "value"), summary.rows())
    report_faults(summary.skipped, "takes were skipped")
    report_faults(summary.notes, "videos are missing or cut short")
    report_faults(summary.faults, "masks were skipped")
