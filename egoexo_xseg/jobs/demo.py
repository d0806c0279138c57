"""The whole pipeline on generated recordings, with the models that come along."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.errors import CheckpointError, SubmissionError
from egoexo_xseg.jobs.caption import CaptionOptions, caption
from egoexo_xseg.jobs.evaluate import Evaluation, evaluate, write_scores
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.jobs.pictures import contact_sheet
from egoexo_xseg.jobs.predict import PredictOptions, predict
from egoexo_xseg.jobs.prepare import prepare
from egoexo_xseg.jobs.report import report
from egoexo_xseg.jobs.sample import write_sample
from egoexo_xseg.jobs.show import Answerer, choose, load_shown, show
from egoexo_xseg.jobs.validate import validate
from egoexo_xseg.records import Direction

SEED, TAKES, SPLIT = 7, 2, "val"
BESIDE = Path(__file__).parents[2] / "weights"
"""Where a clone has them; an installed package has none beside it."""


@dataclass(frozen=True)
class DemoResult:
    """Scores, where everything lies, and whether the model was ever trained."""

    evaluation: Evaluation
    places: list[tuple[str, str]]
    untrained: bool


def demo(folder: Path, say: Callable[[str], object]) -> DemoResult:
    """From a sample to a report; `say` receives each step as its command.

    Run again, it continues: what was written whole is not done twice.
    """
    weights = BESIDE if BESIDE.is_dir() else Path("weights")
    model, captioner = weights / "xseg-tiny", weights / "captioner-tiny"
    for needed in (model, captioner):
        if not needed.is_dir():
            problem = "the demo's model is not there"
            raise CheckpointError(problem, where=needed, remedy="Run it in the root of a clone of the repository")
    raw, data, predictions, submission = (folder / name for name in ("raw", "data", "predictions", "submission.json"))
    annotations = raw / "annotations" / f"relations_{SPLIT}.json"
    if not annotations.is_file():
        say(f"xseg sample {raw} --seed {SEED} --takes {TAKES} --split {SPLIT}")
        write_sample(raw, seed=SEED, takes=TAKES, split=SPLIT)
    say(f"xseg prepare {raw} {data} --split {SPLIT}")
    prepare(raw, data, split=SPLIT)
    captions = folder / "captions.jsonl"
    say(f"xseg caption --data {data} --split {SPLIT} --model {captioner} --out {captions}")
    caption(CaptionOptions(data, captions, str(captioner), split=SPLIT, device="cpu"))
    say(
        f"xseg predict --direction both --data {data} --split {SPLIT} --model {model} --captions {captions} "
        f"--out {predictions}"
    )
    predict(PredictOptions(data, predictions, None, str(model), split=SPLIT, captions=captions, device="cpu"))
    say(f"xseg pack {submission} --predictions {predictions} --data {data} --split {SPLIT}")
    pack(predictions, open_annotations(data, split=SPLIT), submission)
    say(f"xseg validate {submission} --annotations {annotations}")
    check = validate(submission, open_annotations(annotations))
    if not check.valid:
        fault = next(finding for finding in check.findings if finding.severity == "error")
        raise SubmissionError(str(fault), where=submission)
    say(f"xseg evaluate {submission} --annotations {annotations} --json {folder / 'scores.json'}")
    evaluation = evaluate([submission], open_annotations(annotations))
    write_scores(evaluation, folder / "scores.json")
    say(f"xseg show {predictions} --data {data} --split {SPLIT} --captions {captions} --out {folder / 'pictures'}")
    answers, prepared = Answerer(predictions), open_annotations(data, split=SPLIT)
    records = load_shown(choose(answers, prepared, 8, "spread"), answers, prepared, Captions.read(captions))
    show(records, folder / "pictures")
    both = [[record for record in records if record.direction is direction][:2] for direction in Direction]
    contact_sheet([record for own in both for record in own], folder / "overview.png")
    say(f"xseg report {submission} --annotations {data} --split {SPLIT} --out {folder / 'report'}")
    page = report(submission, prepared, folder / "report")
    places = [
        ("raw/", "recordings in the layout of the release: videos, takes.json, annotations"),
        ("data/", "prepared takes: one JPEG a second and camera, annotation.json"),
        ("captions.jsonl", "what each query object looks like, in words"),
        ("predictions/", "masks, visibility and scores, a line each"),
        ("submission.json", f"the challenge's file: {sum(check.predictions.values())} predictions, valid"),
        ("scores.json", "the official scores"),
        ("pictures/", "query, prediction and ground truth side by side"),
        ("overview.png", "two of each direction in one picture"),
        (str(page.relative_to(folder)), "scores, pictures and takes on one page: open it in a browser"),
    ]
    untrained = bool(json.loads((model / "config.json").read_bytes()).get("untrained"))
    return DemoResult(evaluation, places, untrained)
