"""What others report, to be shown beside one's own scores, as their papers' tables say."""

from __future__ import annotations

from typing import Any

BALANCED, EXISTENCE = "balanced", "existence"
"""Which of two things a paper's visibility accuracy is; only the first is the challenge's."""

TEST_TAKES = 295
"""Of the v2 test split."""

AUTHORS, CHALLENGE = "the authors'", "the challenge's"
"""Whose IoU a paper reports: the authors' asks one exo camera and frames in which both views show the object."""

REPORTED: dict[str, list[dict[str, Any]]] = {
    repository: [
        {"direction": direction, "split": split, "measure": measure, "iou": iou}
        for direction, split, measure, iou in rows
    ]
    for repository, rows in {
        "wangzeze/ObjectRelator-Ego2Exo-Full": [("ego2exo", "val", AUTHORS, 0.454)],
        "wangzeze/ObjectRelator-Ego2Exo-Small": [("ego2exo", "val", AUTHORS, 0.443)],
        "wangzeze/ObjectRelator-Exo2Ego-Full": [("exo2ego", "val", AUTHORS, 0.509)],
        "wangzeze/ObjectRelator-Exo2Ego-Small": [("exo2ego", "val", AUTHORS, 0.492)],
        "EnmingZhang/PSALM": [("ego2exo", "test", CHALLENGE, 0.0740), ("exo2ego", "test", CHALLENGE, 0.0210)],
    }.items()
}
"""By checkpoint. None of the joint one: of two that are reported, one is released, and it is not said which."""

PUBLISHED: dict[str, list[dict[str, Any]]] = {
    direction: [
        {"method": method, "iou": iou, "location_error": le, "contour_accuracy": ca, "visibility": va, "kind": kind}
        for method, iou, le, ca, va, kind in rows
    ]
    for direction, rows in {
        "ego2exo": (
            ("LM-EEC (NeurIPS 2025)", 0.5498, 0.017, 0.778, 0.6422, BALANCED),
            ("O-MaMa (1st, 2025)", 0.4257, 0.033, 0.590, 0.5000, BALANCED),
            ("CCMP (CVPR 2026)", 0.4195, 0.038, 0.669, 0.9892, EXISTENCE),
            ("ObjectRelator (2nd, 2025)", 0.3527, 0.036, 0.540, 0.9595, EXISTENCE),
            ("XView-XMem + XSegTx", 0.3490, 0.038, 0.559, 0.6679, BALANCED),
            ("XSegTx", 0.1899, 0.070, 0.386, 0.6631, BALANCED),
        ),
        "exo2ego": (
            ("LM-EEC (NeurIPS 2025)", 0.6577, 0.031, 0.774, 0.5814, BALANCED),
            ("CCMP (CVPR 2026)", 0.4718, 0.081, 0.591, 0.9986, EXISTENCE),
            ("O-MaMa (1st, 2025)", 0.4408, 0.082, 0.524, 0.5005, BALANCED),
            ("ObjectRelator (2nd, 2025)", 0.4031, 0.068, 0.500, 0.9736, EXISTENCE),
            ("XSegTx", 0.2714, 0.104, 0.358, 0.8201, BALANCED),
            ("XView-XMem + XSegTx", 0.2500, 0.117, 0.327, 0.5971, BALANCED),
        ),
    }.items()
}
"""By direction, on the v2 test split."""
