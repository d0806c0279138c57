"""What a training run says of itself: its figures, and how it does on takes that it does not learn from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.errors import XsegError
from egoexo_xseg.jobs.evaluate import evaluate
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.jobs.pictures import contact_sheet
from egoexo_xseg.jobs.predict import PredictOptions, predict
from egoexo_xseg.jobs.show import Answerer, choose, load_shown
from egoexo_xseg.jobs.train_state import Processes
from egoexo_xseg.records import Direction

PICTURES = 4
"""Records drawn at each validation, evenly from the best to the worst."""


class Log:
    """Figures by step as JSON lines, and for TensorBoard if asked for. Only the first process writes."""

    def __init__(self, out: Path, start: int, processes: Processes, tensorboard: bool) -> None:
        self.out, self.writes = out, processes.rank == 0
        if self.writes:
            for path in (out / "log.jsonl", out / "validation.jsonl"):
                _forget(path, start)
        self.board = _open_board(out / "tensorboard", start) if tensorboard and self.writes else None

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Append a row, which has a `step`, to `<name>.jsonl`."""
        if not self.writes:
            return
        with (self.out / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        if self.board:
            for label, value in row.items():
                for inner, figure in value.items() if isinstance(value, dict) else (("", value),):
                    if figure is not None and label != "step":
                        self.board.add_scalar(f"{name}/{label}/{inner}".rstrip("/"), figure, row["step"])
            self.board.flush()


def _forget(path: Path, start: int) -> None:
    """Drop what a killed run logged after the state from which it goes on: those steps come again."""
    if path.is_file():
        lines = [line for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(line for line in lines if json.loads(line)["step"] <= start), "utf-8")
        os.replace(partial, path)


def _open_board(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise XsegError("TensorBoard is not installed", remedy="pip install tensorboard") from None
    return SummaryWriter(str(folder), purge_step=start + 1)


@dataclass(frozen=True)
class HeldOut:
    """Takes to validate on: the first few of a split."""

    data: Path
    split: str | None
    captions: Path | None
    takes: int

    def score(self, out: Path, step: int, config: TrainConfig, processes: Processes) -> dict[str, Any]:
        """Official scores by direction of the model in `out/model`, and a picture of some records.

        The processes share the takes; the first one scores. Predictions are deleted afterwards.
        """
        folder = out / f".validation-{step}.partial"
        annotations = open_annotations(self.data, split=self.split)
        takes = annotations.take_uids[: self.takes]
        directions = [each for each in Direction if config.direction in (each.value, "both")]
        for direction in directions:
            options = PredictOptions(
                self.data,
                folder,
                direction,
                str(out / "model"),
                split=self.split,
                takes=takes,
                captions=self.captions,
                device=str(processes.device),
                shard=(processes.rank + 1, processes.count),
            )
            predict(options)
        processes.wait()
        if processes.rank:
            return {}
        annotations = open_annotations(self.data, split=self.split, takes=takes)
        submission = folder / "submission.json"
        pack(folder, annotations, submission, fill="center", partial=len(directions) == 1)
        answers = Answerer(folder)
        records = load_shown(choose(answers, annotations, PICTURES, "spread"), answers, annotations)
        contact_sheet(records, out / "validation" / f"{step}.png")
        scores = evaluate([submission], annotations).to_json()
        shutil.rmtree(folder)
        return scores
