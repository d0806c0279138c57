"""Commands for a first look: try, demo, doctor."""

from __future__ import annotations

import json
from pathlib import Path

import click

from egoexo_xseg.cli.app import (
    DIRECTIONS,
    EXISTING_FILE,
    FILE,
    FOLDER,
    cli,
    device_option,
    example,
    fail,
    split_option,
    table,
)
from egoexo_xseg.cli.scores import print_scores
from egoexo_xseg.errors import printable


@cli.command("try")
@click.argument("query", metavar="QUERY.jpg", type=EXISTING_FILE)
@click.argument("mask", metavar="MASK.png", type=EXISTING_FILE)
@click.argument("target", metavar="TARGET.jpg", type=EXISTING_FILE)
@click.option("--model", metavar="PATH|HUB_ID", help="A checkpoint (default: the released one of the direction).")
@click.option(
    "--direction", type=DIRECTIONS, default="ego2exo", show_default=True, help="From the query's view to the target's."
)
@click.option("--caption", "captions", multiple=True, metavar="NUMBER=WORDS", help="What an object is, in a few words.")
@device_option
@click.option("--out", type=FILE, default="answer.png", show_default=True, help="Receives the picture of the answer.")
@example(
    "xseg try query.jpg mask.png target.jpg --model weights/xseg-tiny",
    'xseg try query.jpg mask.png target.jpg --caption "1=red cup" --caption "2=striped bowl"',
)
def try_(
    query: Path, mask: Path, target: Path, model: str | None, direction: str, captions: tuple[str, ...],
    device: str | None, out: Path,
) -> None:  # fmt: skip
    """Find the objects of one picture in another.

    In MASK.png, of QUERY's size, every value but 0 is an object: 255 for the only one, or 1, 2, 3, ... Draws the
    answer and says for each object how likely it is visible in TARGET.
    """
    from egoexo_xseg.api import CrossViewSegmenter
    from egoexo_xseg.jobs.attempt import attempt
    from egoexo_xseg.jobs.predict import check_device

    check_device(device)
    segmenter = CrossViewSegmenter.from_pretrained(model, direction=direction, device=device)
    found = attempt(segmenter, (query, mask, target), captions, out)
    rows = [(each.number, each.caption or "-", f"{each.visibility:.0%}", f"{each.share:.2%}") for each in found]
    table("Objects", ("value", "caption", "visible", "share of the target"), rows)
    click.echo(f"{out}: drawn")


@cli.command()
@click.argument("folder", metavar="[DIR]", type=FOLDER, default="demo")
@example("xseg demo demo")
def demo(folder: Path) -> None:
    """Run the whole pipeline on generated recordings.

    Makes two sample takes, prepares them, describes their objects and predicts both directions with the models in
    weights/, packs and validates the submission, scores it, draws pictures and a report, all in DIR. Needs no network;
    takes about a minute on two processors.
    """
    from egoexo_xseg.jobs.demo import demo as run

    result = run(folder, say=click.echo)
    print_scores(result.evaluation)
    table(f"What lies in {folder}", ("file or folder", "what"), result.places)
    if result.untrained:
        click.echo(
            "The model is untrained: it shows that everything runs, and finds nothing. A trained one, 6.4 GB: "
            "xseg predict --model wangzeze/ObjectRelator-Ego2Exo-Full"
        )


@cli.command()
@click.option("--data", type=FOLDER, help="Look at these prepared takes, too: which lack frames.")
@click.option(
    "--raw", type=FOLDER, help="Look at these recordings, too: which takes lack videos, what disk space they need."
)
@split_option
@click.option(
    "--model", metavar="PATH|HUB_ID", help="The model that should fit (default: of the published ones' size)."
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@example("xseg doctor --data DATA --split val", "xseg doctor --raw RAW --split val --model weights/xseg-tiny")
def doctor(data: Path | None, raw: Path | None, split: str | None, model: str | None, as_json: bool) -> None:
    """See whether everything is ready, and what to run next.

    Looks at the machine, how many records at a time fit into its memory, the packages, the models, recordings and
    prepared takes. Exits with 1 if something is missing.
    """
    from egoexo_xseg.jobs.packages import Diagnosis, check_packages

    found = Diagnosis(check_packages(), "pip install --upgrade egoexo-xseg   or what is named above, by itself")
    if found.well:  # or not even the rest of the doctor could be imported
        from egoexo_xseg.jobs.doctor import diagnose

        found = diagnose(data, split, raw, model)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    else:
        width = max(len(each.what) for each in found.findings)
        for each in found.findings:
            mark = {"fine": "  ", "note": "~ ", "fault": "! "}[each.state]
            click.echo(f"{mark}{each.what:{width}}  {printable(each.value)}")
        click.echo(f"\nNext: {found.next}")
    if not found.well:
        fail("some checks failed: see the lines marked !")
