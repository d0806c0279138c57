"""Commands about checkpoints: weights list, pull, inspect, convert, push."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from egoexo_xseg.cli.app import DTYPES, EXISTING_FILE, EXISTING_FOLDER, FOLDER, OneLineErrors, cli, example, table

CHECKPOINT = click.argument("model", metavar="PATH|HUB_ID")


@cli.group(cls=OneLineErrors)
def weights() -> None:
    """List, pull, inspect, convert and push checkpoints."""


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@example("xseg weights list")
def list_(as_json: bool) -> None:
    """List the published checkpoints, and which of them are here.

    Reported scores are IoU as the papers give them, of a split and by a measure that are named beside; the authors'
    own measure is not the challenge's.
    """
    from egoexo_xseg.jobs.weights import known_checkpoints

    entries = known_checkpoints()
    if as_json:
        click.echo(json.dumps([entry.to_json() for entry in entries], indent=1))
        return
    columns = ("Hub id", "direction", "what", "download", "licence", "reported IoU", "here")
    rows = [
        (
            each.name,
            each.published.direction,
            each.published.what,
            f"{each.published.gigabytes:.1f} GB",
            each.published.licence,
            _reported(each.reported),
            "yes" if each.folders else "-",
        )
        for each in entries
    ]
    table("Published checkpoints", columns, rows)
    for each in entries:
        for folder in each.folders:
            click.echo(f"{each.name}: {folder}")


def _reported(scores: list[dict[str, Any]]) -> str:
    """All of one split and measure."""
    if not scores:
        return "-"
    values = " / ".join(f"{score['iou']:.3f}" for score in scores)
    return f"{values} ({scores[0]['split']}, {scores[0]['measure']})"


@weights.command()
@CHECKPOINT
@click.option("--revision", metavar="NAME", help="A commit, branch or tag of the repository (default: the newest).")
@click.option(
    "--dtype",
    type=DTYPES,
    help="As predict will want it (default: float16 where there is a GPU, else float32).",
)
@example("xseg weights pull wangzeze/ObjectRelator-Ego2Exo-Full")
def pull(model: str, revision: str | None, dtype: str | None) -> None:
    """Download a checkpoint's newest version, and say where it lies.

    One in the released names is also translated into xseg's, once, in XSEG_CACHE (~/.cache/xseg). Until it is pulled
    again, its name stands for this version, and nothing asks the network. An interrupted download continues where it
    stopped. The environment variables of the Hub are heeded: HF_HOME for the place of downloads, HF_TOKEN for private
    repositories, HF_HUB_OFFLINE for no network.
    """
    import torch

    from egoexo_xseg.model.store import fetch_model

    dtype = dtype or ("float16" if torch.cuda.is_available() else "float32")
    click.echo(fetch_model(model, revision, getattr(torch, dtype), newest=True))


@weights.command()
@CHECKPOINT
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@example("xseg weights inspect weights/xseg-tiny")
def inspect(model: str, as_json: bool) -> None:
    """Show a checkpoint's sizes, settings and origin.

    Exits with 1 if its weights do not fit the model.
    """
    from egoexo_xseg.jobs.weights import inspect as run
    from egoexo_xseg.model.hub import resolve_model

    contents = run(resolve_model(model))
    if as_json:
        click.echo(json.dumps(contents.to_json(), indent=1))
        return
    parts = [(name, f"{count:,}") for name, count in contents.parts.items()]
    table(model, ("part", "parameters"), [*parts, ("all", f"{contents.num_parameters:,}")])
    size = f"{contents.num_bytes / 1e6:,.1f} MB of {', '.join(contents.dtypes)}"
    rows = [*contents.settings.items(), *contents.provenance.items(), ("size", size), ("hash", contents.digest)]
    table("Settings and origin", ("what", "value"), rows)


@weights.command()
@CHECKPOINT
@click.argument("target", metavar="FOLDER", type=FOLDER)
@click.option(
    "--to",
    "names",
    type=click.Choice(["xseg", "released"]),
    default="xseg",
    show_default=True,
    help="Whose names the weights get.",
)
@click.option(
    "--dtype",
    type=DTYPES,
    default="float32",
    show_default=True,
    help="How they are stored.",
)
@example("xseg weights convert wangzeze/ObjectRelator-Joint joint --dtype bfloat16")
def convert(model: str, target: Path, names: str, dtype: str) -> None:
    """Rewrite a checkpoint in xseg's or the released names."""
    from egoexo_xseg.jobs.weights import convert as run
    from egoexo_xseg.model.hub import resolve_model

    run(resolve_model(model), target, names, dtype)
    click.echo(f"{target}: written")


@weights.command()
@click.argument("folder", metavar="PATH", type=EXISTING_FOLDER)
@click.argument("repository", metavar="HUB_ID")
@click.option("--scores", type=EXISTING_FILE, help="What xseg evaluate --json wrote, for the page.")
@click.option("--private", is_flag=True, help="Let nobody else see the repository.")
@click.option("--license", "licence", metavar="NAME", default="apache-2.0", show_default=True, help="For the page.")
@example("xseg weights push RUN/model NAME/my-xseg --scores scores.json --private")
def push(folder: Path, repository: str, scores: Path | None, private: bool, licence: str) -> None:
    """Upload a checkpoint to the Hub, with a page that says what it is.

    Weights, configuration, tokenizer, calibration and train.json, in one commit that replaces what an earlier push
    left there; train.json and calibration.json name the folder of your data as you gave it. The README.md of PATH
    becomes the page. Where there is none, or with --scores, one is written: size, scores, training, calibration, use.
    The token of `hf auth login` or of HF_TOKEN must be one that may write.
    """
    from egoexo_xseg.jobs.push import push as run

    click.echo(run(folder, repository, scores=scores, licence=licence, private=private))
