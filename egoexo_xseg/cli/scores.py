"""Commands about answers: pack, validate, evaluate, show, report, compare."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from egoexo_xseg.cli.app import (
    EXISTING_FILE,
    EXISTING_FOLDER,
    EXISTING_PATH,
    FILE,
    FOLDER,
    captions_option,
    cli,
    example,
    fail,
    report_faults,
    split_option,
    table,
    takes_option,
    warn_unprepared,
    workers_option,
)
from egoexo_xseg.errors import printable

SHOWN = 20
"""Findings of one kind that are printed; --json holds thousands."""

ANNOTATIONS_HELP = "relations_*.json, correspondence-gt.json, or a folder of prepared takes."


def annotations_option(command):
    names = ("--annotations", "--data", "annotations")
    return click.option(*names, type=EXISTING_PATH, required=True, help=ANNOTATIONS_HELP)(command)


@cli.command()
@click.argument("submission", type=FILE)
@click.option("--predictions", type=FOLDER, default="predictions", show_default=True, help="What to pack.")
@click.option(
    "--from",
    "files",
    type=EXISTING_FILE,
    multiple=True,
    help="Pack another method's answers instead: .jsonl or .json, one after the other where there are several.",
)
@click.option(
    "--data", "--annotations", "data", type=EXISTING_PATH, required=True, help=f"What is asked for: {ANNOTATIONS_HELP}"
)
@split_option
@click.option(
    "--fill",
    type=click.Choice(["error", "center", "propagate"]),
    default="error",
    show_default=True,
    help="For missing predictions: error lists them and writes nothing; center puts one pixel in the middle; propagate "
    "takes the nearest frame's mask. Filled answers get confidence 0.",
)
@click.option(
    "--partial", is_flag=True, help="Allow what the official evaluator refuses: only one direction, or not all takes."
)
@example(
    "xseg pack submission.json --predictions PRED --data DATA --split val",
    "xseg pack submission.json --from answers.jsonl --data DATA --split val",
    "xseg pack submission.json --from ego-exo_val_results.json --from exo-ego_val_results.json --data DATA --split val",
)
def pack(
    submission: Path,
    predictions: Path,
    files: tuple[Path, ...],
    data: Path,
    split: str | None,
    fill: str,
    partial: bool,
) -> None:
    """Write the challenge's submission from predictions.

    Every take of the split, object, camera pair and query frame that the official evaluator asks for is in SUBMISSION,
    or there is no file.

    Answers of another method may be listed in a file, with their masks as run lengths, PNG or NumPy files of any size,
    or stand in results files of the official baselines, one for each direction.
    """
    from egoexo_xseg.data.annotations import open_annotations
    from egoexo_xseg.jobs.pack import pack as run

    summary = run(files or predictions, open_annotations(data, split=split), submission, fill=fill, partial=partial)
    table(f"Packed {submission}", ("figure", "value"), summary.rows())
    for name in summary.left_out:
        click.echo(f"Warning: {submission} holds no {name}: the official evaluator refuses it.", err=True)


@cli.command()
@click.argument("submission", type=EXISTING_FILE)
@annotations_option
@split_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@example("xseg validate submission.json --annotations RAW/annotations/relations_val.json")
def validate(submission: Path, annotations: Path, split: str | None, as_json: bool) -> None:
    """Check any submission against the official evaluator's rules.

    Lists faults with take, object, cameras and frame, and what is legal but loses points; the first of each kind, and
    with --json thousands. Exits with 1 if the official evaluator would refuse the file. The code of the challenge's
    server is not public, and may ask for more.
    """
    from egoexo_xseg.data.annotations import open_annotations
    from egoexo_xseg.jobs.validate import validate as run

    report = run(submission, open_annotations(annotations, split=split))
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        lines = dict.fromkeys(f"{finding.severity}: {finding}" for finding in report.first(SHOWN))
        for line in lines:
            click.echo(printable(line))
        if any(count > SHOWN for count in report.counts.values()):
            click.echo(f"({SHOWN} of a kind are shown; --json has more)")
        rows = [(severity, kind, count) for (severity, kind), count in sorted(report.counts.items())]
        if rows:
            table("Findings", ("severity", "kind", "count"), rows)
        for direction, count in report.predictions.items():
            share = report.predicted_visible.get(direction, 0.0)
            click.echo(f"{direction}: {count} predictions, {share:.1%} predicted visible")
    if not report.valid:
        fail(f"{submission} would be refused")
    if not as_json:
        click.echo(f"{submission} is valid.")


@cli.command()
@click.argument("submissions", metavar="PREDICTIONS|SUBMISSION...", type=EXISTING_PATH, nargs=-1, required=True)
@annotations_option
@split_option
@click.option("--json", "json_path", type=FILE, help="Write the scores to this file.")
@click.option("--per-sample", type=FILE, help="Write every sample's scores to this file (CSV).")
@captions_option("Tables by what the captions say")
@workers_option
@example(
    "xseg evaluate submission.json --annotations RAW/annotations/relations_val.json --json scores.json",
    "xseg evaluate PRED --data DATA --split val",
)
def evaluate(
    submissions: tuple[Path, ...],
    annotations: Path,
    split: str | None,
    json_path: Path | None,
    per_sample: Path | None,
    captions: Path | None,
    workers: int | None,
) -> None:
    """Compute the official scores of submissions.

    Equal to the official evaluator's values. Each SUBMISSION may hold one direction or both, or be a folder of
    predictions. Tables show the mean IoU by object size, take and camera (and by what captions say), with 95% bootstrap
    intervals over takes.
    """
    from egoexo_xseg.data.annotations import open_annotations
    from egoexo_xseg.data.captions import Captions
    from egoexo_xseg.jobs.evaluate import evaluate as run
    from egoexo_xseg.jobs.evaluate import write_samples, write_scores
    from egoexo_xseg.jobs.pack import packed

    warn_unprepared(annotations, split)
    truth = open_annotations(annotations, split=split)
    known = Captions.read(captions, truth.take_uids) if captions else None
    with packed(submissions, truth) as files:
        evaluation = run(files, truth, workers=workers, names=submissions)
    if json_path:
        write_scores(evaluation, json_path)
    if per_sample:
        write_samples(evaluation, per_sample)
    print_scores(evaluation)
    for direction in evaluation.samples:
        for name, groups in evaluation.tables(direction, known).items():
            rows = [
                # Of one take alone, no other can be drawn.
                (g.name, g.samples, f"{g.iou:.4f}", "-" if g.low == g.high else f"{g.low:.4f} - {g.high:.4f}")
                for g in groups
            ]
            table(f"{direction.value} by {name}", (name, "samples", "IoU", "95% interval"), rows)
    report_faults(truth.faults, "masks of the annotations were skipped")
    odd = sum(not 0 <= sample.confidence <= 1 for own in evaluation.samples.values() for sample in own)
    if odd:
        click.echo(f"Warning: {odd} confidences are not within 0 and 1: see xseg validate.", err=True)


def print_scores(evaluation) -> None:
    """The official scores, a row per direction, and what both come to."""
    found = evaluation.scores
    columns = (
        "direction",
        "IoU",
        "location error",
        "contour accuracy",
        "visibility (balanced)",
        "existence",
        "samples",
    )
    rows = [
        (
            direction.value,
            *("-" if value is None else f"{value:.4f}" for value in list(scores.to_json().values())[:-1]),
            scores.samples,
        )
        for direction, scores in found.items()
    ]
    table("Scores", columns, rows)
    mean = sum(scores.iou for scores in found.values()) / 2
    if len(found) == 2 and not math.isnan(mean):
        click.echo(f"Mean IoU of both directions, by which the challenge ranked in 2025: {mean:.4f}\n")


@cli.command()
@click.argument("source", metavar="PREDICTIONS|SUBMISSION", type=EXISTING_PATH)
@click.option("--data", "--annotations", "data", type=EXISTING_FOLDER, required=True, help="Prepared takes.")
@split_option
@takes_option
@captions_option("Printed beside the objects")
@click.option("--frame", type=int, help="Only this frame.")
@click.option(
    "--which",
    type=click.Choice(["best", "worst", "spread"]),
    default="spread",
    show_default=True,
    help="Which records, by mean IoU; spread: evenly from best to worst.",
)
@click.option("--count", type=click.IntRange(1), default=8, show_default=True, help="How many.")
@click.option("--out", type=FOLDER, default="pictures", show_default=True, help="Receives PNG files.")
@example("xseg show PRED --data DATA --split val --which worst --count 4 --out pictures")
def show(
    source: Path,
    data: Path,
    split: str | None,
    takes: tuple[str, ...],
    captions: Path | None,
    frame: int | None,
    which: str,
    count: int,
    out: Path,
) -> None:
    """Draw query, prediction and ground truth side by side."""
    from egoexo_xseg.data.annotations import open_annotations
    from egoexo_xseg.data.captions import Captions
    from egoexo_xseg.jobs.show import Answerer, choose, load_shown
    from egoexo_xseg.jobs.show import show as run

    warn_unprepared(data, split, takes)
    answers, annotations = Answerer(source), open_annotations(data, split=split, takes=takes)
    places = choose(answers, annotations, count, which, frame)
    known = Captions.read(captions) if captions else None
    for path in run(load_shown(places, answers, annotations, known), out):
        click.echo(path)


@cli.command()
@click.argument("source", metavar="PREDICTIONS|SUBMISSION", type=EXISTING_PATH)
@annotations_option
@split_option
@workers_option
@click.option("--out", type=FOLDER, default="report", show_default=True, help="Receives index.html.")
@example("xseg report PRED --annotations DATA --split val --out report")
def report(source: Path, annotations: Path, split: str | None, workers: int | None, out: Path) -> None:
    """Make a page of scores, pictures and takes to look at.

    One HTML file that opens from disk: scores with intervals, where they come from, how far confidences can be trusted,
    galleries, objects over time, and every take frame by frame. Prepared takes as --annotations give it pictures.
    """
    from egoexo_xseg.data.annotations import open_annotations
    from egoexo_xseg.jobs.report import report as run

    warn_unprepared(annotations, split)
    truth = open_annotations(annotations, split=split)
    click.echo(f"{run(source, truth, out, workers)}: open it in a browser")
    report_faults(truth.faults, "masks of the annotations were skipped")


@cli.command()
@click.argument("first", type=EXISTING_PATH)
@click.argument("second", type=EXISTING_PATH)
@annotations_option
@split_option
@click.option(
    "--count", type=click.IntRange(0), default=5, show_default=True, help="Objects shown that got better, and worse."
)
@click.option("--out", type=FOLDER, metavar="DIR", help="Receives index.html: a page with takes, objects and pictures.")
@workers_option
@example(
    "xseg compare before.json after.json --annotations DATA --split val",
    "xseg compare PRED_BEFORE PRED_AFTER --annotations DATA --split val --out compare",
)
def compare(
    first: Path, second: Path, annotations: Path, split: str | None, count: int, out: Path | None, workers: int | None
) -> None:
    """Compare two submissions, score by score and object by object.

    Shows what SECOND has more than FIRST, with 95% bootstrap intervals over takes, the same takes for both. Either may
    be a folder of predictions. The page of --out opens from disk; prepared takes as --annotations give it pictures of
    both answers side by side.
    """
    from egoexo_xseg.data.annotations import open_annotations
    from egoexo_xseg.jobs.compare import compare as run

    warn_unprepared(annotations, split)
    compared = run(first, second, open_annotations(annotations, split=split), out=out, workers=workers)
    for found in compared:
        rows = [
            (each.name, f"{each.first:.4f}", f"{each.second:.4f}", f"{each.lead:+.4f}",
             f"{each.low:+.4f} to {each.high:+.4f}", "yes" if each.is_sure else "no")
            for each in found.differences
        ]  # fmt: skip
        columns = ("score", "first", "second", "difference", "95% interval", "sure")
        table(f"{found.direction.value}, {found.samples} samples", columns, rows)
        ends = min(count, len(found.changes) // 2)
        shown = [*found.changes[:ends], *found.changes[len(found.changes) - ends :]]
        objects = [
            (
                each.object_id.strip(),
                each.take_uid,
                each.samples,
                f"{each.first:.3f}",
                f"{each.second:.3f}",
                f"{each.lead:+.3f}",
            )
            for each in shown
        ]
        columns = ("object", "take", "samples", "first", "second", "difference")
        table(f"{found.direction.value}: objects whose IoU rose and fell most", columns, objects)
    if out is not None:
        click.echo(f"{out / 'index.html'}: open it in a browser")
