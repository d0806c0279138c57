"""What a training run says of itself: its figures, and how it does on takes that it does not learn from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoexo_xseg.config import TrainConfig
from egoexo_xseg.data.annotations import open_annotations
from egoexo_xseg.data.captions import Captions
from egoexo_xseg.data.pairs import iter_pairs
from egoexo_xseg.errors import AnnotationError, XsegError
from egoexo_xseg.files import written_whole
from egoexo_xseg.jobs.evaluate import evaluate
from egoexo_xseg.jobs.pack import pack
from egoexo_xseg.jobs.pictures import contact_sheet
from egoexo_xseg.jobs.predict import PredictOptions, predict
from egoexo_xseg.jobs.show import Answerer, choose, load_shown
from egoexo_xseg.jobs.train_state import Processes
from egoexo_xseg.progress import detail
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

    def tells(self, name: str, step: int) -> bool:
        """Whether `<name>.jsonl` has a row of this step; every process may ask."""
        path = self.out / f"{name}.jsonl"
        return path.is_file() and any(own == step for own, _ in _rows(path))


def _forget(path: Path, start: int) -> None:
    """Drop what a killed run logged after the state from which it goes on: those steps come again."""
    if path.is_file():
        kept = [line for step, line in _rows(path) if step <= start]
        with written_whole(path) as file:
            file.writelines(kept)


def _rows(path: Path) -> list[tuple[int, str]]:
    """Steps and lines, without the one in which a run was killed."""
    rows = []
    lines = path.read_text("utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            continue
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            step = None
        if type(step) is not int:
            problem = "not a line of a training's figures"
            raise XsegError(problem, where=f"{path}, line {number}", remedy="Delete that line, or move the file away")
        rows.append((step, line))
    return rows


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

    def check(self, config: TrainConfig) -> None:
        """Refuse, before anything is learnt, takes that nobody could score, and captions that are not theirs."""
        annotations = open_annotations(self.data, split=self.split)
        uids = annotations.take_uids[: self.takes]
        if self.captions:
            Captions.read(self.captions, uids)
        if not any(
            item.annotated
            for uid in uids
            for direction in self._directions(config)
            for pair in iter_pairs(annotations.load(uid), direction)
            for item in pair.objects
        ):
            problem = "no annotated target frames to validate on"
            raise AnnotationError(problem, where=annotations.source, remedy="Choose another --val-split")

    def _directions(self, config: TrainConfig) -> list[Direction]:
        return [each for each in Direction if config.direction in (each.value, "both")]

    def score(self, out: Path, step: int, config: TrainConfig, processes: Processes) -> dict[str, Any]:
        """Official scores by direction of the model in `out/model`, and a picture of some records.

        The processes share the takes; the first one scores, and counts what was `unanswered`, for want of memory or of
        a frame: a pixel in the middle stands for it. Predictions are deleted afterwards.
        """
        folder = out / f".validation-{step}.partial"
        annotations = open_annotations(self.data, split=self.split)
        takes = annotations.take_uids[: self.takes]
        directions = self._directions(config)
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
                dtype="bfloat16" if processes.device.type == "cuda" else "float32",  # as it is trained
                shard=(processes.rank + 1, processes.count),
            )
            for fault in predict(options).faults:
                detail(f"validation lacks {fault}")
        processes.wait()
        if processes.rank:
            return {}
        annotations = open_annotations(self.data, split=self.split, takes=takes)
        submission = folder / "submission.json"
        packed = pack(folder, annotations, submission, fill="center", partial=True)
        answers = Answerer(folder)
        records = load_shown(choose(answers, annotations, PICTURES, "spread"), answers, annotations)
        contact_sheet(records, out / "validation" / f"{step}.png")
        scores = evaluate([submission], annotations).to_json()
        shutil.rmtree(folder)
        return {**scores, "unanswered": packed.filled} if packed.filled else scores
