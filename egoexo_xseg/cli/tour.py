"""The command for newcomers: demo."""

from __future__ import annotations

from pathlib import Path

import click

from egoexo_xseg.cli.app import FOLDER, cli, example, table
from egoexo_xseg.cli.scores import print_scores


@cli.command()
@click.argument("folder", metavar="[DIR]", type=FOLDER, default="demo")
@example("xseg demo demo")
def demo(folder: Path) -> None:
    """Walk the whole way on made-up recordings.

    Makes two sample takes, prepares them, predicts both directions with the model in weights/, packs and validates the
    submission, scores it and draws pictures, all in DIR. Needs no network; takes some minutes on two processors.
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
