"""Commands that make data: sample, prepare, export, caption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from egoexo_xseg.cli.app import (
    DIRECTIONS,
    DIRECTIONS_OR_BOTH,
    EXISTING_FOLDER,
    EXISTING_PATH,
    FILE,
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
    table,
    takes_option,
    warn_unprepared,
    workers_option,
)


@cli.command()
@click.argument("raw", metavar="DIR", type=FOLDER)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed of the scenes.")
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
@click.argument("sources", metavar="RAW|RECORDS...", type=EXISTING_PATH, nargs=-1, required=True)
@click.argument("data", type=FOLDER)
@split_option
@takes_option
@click.option("--images", type=EXISTING_FOLDER, help="The folder of the RECORDS' pictures (default: that of RECORDS).")
@workers_option
@example("xseg prepare RAW DATA --split val", "xseg prepare ego2exo_val.json DATA --images data_root --split val")
def prepare(
    sources: tuple[Path, ...],
    data: Path,
    split: str | None,
    takes: tuple[str, ...],
    images: Path | None,
    workers: int | None,
) -> None:
    """Make frames and annotations from the raw release or records.

    RAW is a folder of the official downloader (or of xseg sample); DATA receives a folder per take with one JPEG a
    second and camera, and annotation.json. Finished takes are skipped, so an interrupted run continues.

    RECORDS are JSON lists as ObjectRelator's code reads them, those of both directions together if wanted; --split says
    where their takes belong. Captions in them become DATA/captions-SPLIT.jsonl.
    """
    if any(source.is_file() for source in sources):
        _prepare_records(sources, data, split, images, takes)
        return
    if len(sources) > 1 or images:
        raise click.UsageError("one RAW folder at a time, without --images.")
    from egoexo_xseg.jobs.prepare import prepare as run

    summary = run(sources[0], data, split=split, takes=takes, workers=workers)
    table(f"Prepared {data}", ("figure", "value"), summary.rows())
    report_faults(summary.skipped, "takes were skipped")
    report_faults(summary.notes, "videos are missing or cut short")
    report_faults(summary.faults, "masks were skipped")


def _prepare_records(
    lists: tuple[Path, ...], data: Path, split: str | None, images: Path | None, takes: tuple[str, ...]
) -> None:
    from egoexo_xseg.jobs.relator import prepare_records

    if split is None or any(path.is_dir() for path in lists):
        raise click.UsageError("RECORDS are files, and need --split: they do not say where their takes belong.")
    summary = prepare_records(lists, data, split, images=images, takes=takes)
    table(f"Prepared {data}", ("figure", "value"), summary.rows())
    report_faults(summary.notes, "records and captions were left out")


@cli.command()
@click.argument("records", type=FILE)
@data_option
@click.option("--split", metavar="NAME", required=True, help="The split to write (train, val, test, ...).")
@click.option("--direction", type=DIRECTIONS, required=True, help="From the view with the query masks to the other.")
@captions_option("Texts of the records (default: none)")
@example("xseg export ego2exo_val.json --data DATA --split val --direction ego2exo --captions captions.jsonl")
def export(records: Path, data: Path, split: str, direction: str, captions: Path | None) -> None:
    """Write prepared takes as records for ObjectRelator's code.

    The same pairs that its own script makes of a take: one exo camera, and the objects that both views show.
    RECORDS.split.json beside it lists the takes that have any.
    """
    from egoexo_xseg.data.annotations import open_annotations
    from egoexo_xseg.data.captions import Captions
    from egoexo_xseg.jobs.relator import export_records
    from egoexo_xseg.records import Direction

    warn_unprepared(data, split)
    annotations = open_annotations(data, split=split)
    known = Captions.read(captions, annotations.take_uids) if captions else None
    summary = export_records(annotations, records, Direction(direction), split, known)
    click.echo(
        f"{records}: {summary.records} records of {len(summary.takes)} takes, {summary.objects} objects in both views"
    )
    report_faults(summary.without, "takes have no records")
    report_faults(annotations.faults, "masks of the annotations were skipped")


@cli.command()
@data_option
@split_option
@takes_option
@click.option(
    "--model",
    metavar="PATH|HUB_ID",
    default="llava-hf/llava-1.5-7b-hf",
    show_default=True,
    help="A captioner of the LLaVA family.",
)
@click.option(
    "--direction",
    type=DIRECTIONS_OR_BOTH,
    default="both",
    show_default=True,
    help="Which directions' query views to describe.",
)
@click.option(
    "--per",
    type=click.Choice(["object", "frame"]),
    default="object",
    show_default=True,
    help="Once per object and camera, where its mask is largest, or at every query frame (far longer, and no better "
    "on the sample world).",
)
@device_option
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), help="Default: bfloat16 on a GPU, else float32.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Objects at a time.")
@click.option("--out", type=FILE, default="captions.jsonl", show_default=True, help="A line per caption.")
@shard_option
@example("xseg caption --data DATA --split val --out captions.jsonl")
def caption(data: Path, out: Path, device: str | None, **options: Any) -> None:
    """Describe query objects in words, from their pixels.

    Shows each object to a captioner, highlighted in its query view, and keeps a short noun phrase in OUT, which other
    commands read as --captions. What was described by the same mask, model and question is not described again, so the
    same command continues an interrupted run; it exits with 1 if an object had to be left out. With --shard 2/8,
    captions.jsonl becomes captions-2-of-8.jsonl.
    """
    from egoexo_xseg.jobs.caption import CaptionOptions
    from egoexo_xseg.jobs.caption import caption as run
    from egoexo_xseg.jobs.predict import check_device

    check_device(device)
    warn_unprepared(data, options["split"], options["takes"])
    summary = run(CaptionOptions(data=data, out=out, device=device, **options))
    click.echo(
        f"{summary.path}: {summary.written} captions written ({summary.unnamed} name nothing), "
        f"{summary.already} were there"
    )
    report_faults(summary.notes, "masks of the annotations were skipped")
    if summary.faults:
        report_faults(summary.faults, "objects have no caption; the same command tries them again")
        fail(f"{len(summary.faults)} objects have no caption in {summary.path}")
