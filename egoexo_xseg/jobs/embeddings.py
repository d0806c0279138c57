"""Embeddings of objects from both sides: how far an object is from itself and from others, and how it ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy.spatial.distance import cdist

from egoexo_xseg.jobs.analyze import Columns, Estimate, estimate, mean
from egoexo_xseg.records import Direction

RANKED = 4096
"""Objects that are ranked among all, in even steps if there are more: each is compared with each."""


@dataclass(frozen=True)
class Views:
    """Visible objects from both sides: row i of `query` and of `target` is one object at one moment.

    An object keeps its number in all frames and cameras of its take; `pairs` numbers pairs of views.
    """

    take_uids: np.ndarray
    object_ids: np.ndarray
    objects: Int64[np.ndarray, " n"]
    pairs: Int64[np.ndarray, " n"]
    query: Float[np.ndarray, "n D"]
    target: Float[np.ndarray, "n D"]

    @classmethod
    def of(cls, columns: Columns, embedding: str) -> Views:
        query, target = columns[embedding].astype(np.float64).transpose(1, 0, 2)
        return cls(
            take_uids=columns["take_uid"],
            object_ids=columns["object_id"],
            objects=_number(columns, "take_uid", "object_id"),
            pairs=_number(columns, "take_uid", "query_camera", "target_camera", "frame"),
            query=query,
            target=target,
        )

    def take(self, rows: Int64[np.ndarray, " m"]) -> Views:
        return Views(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def _number(columns: Columns, *names: str) -> Int64[np.ndarray, " n"]:
    numbers: dict[tuple, int] = {}
    rows = zip(*(columns[name].tolist() for name in names), strict=True)
    return np.array([numbers.setdefault(row, len(numbers)) for row in rows], np.int64)


@dataclass(frozen=True)
class Neighbours:
    """How far an object's two embeddings lie apart, how far from its target embedding's rivals, and its rank."""

    same: Float[np.ndarray, " n"]
    different: Float[np.ndarray, " n"]
    """Mean distance to other objects; nan where there is none."""
    rank: Float[np.ndarray, " n"]
    chance: Float[np.ndarray, " n"]
    """To be first by luck: one over the number of candidates."""


def compare(views: Views) -> Neighbours:
    """Every query embedding against the target embeddings of its own object and of all others.

    The same object at other moments is no candidate, neither right nor wrong. Equals share their ranks: a model to
    which all objects are alike is no better than chance.
    """
    distances = cdist(views.query, views.target)  # (n, n)
    same = np.diag(distances).copy()
    rivals = views.objects[:, None] != views.objects
    count = rivals.sum(1)
    closer = ((distances < same[:, None]) & rivals).sum(1)
    equal = ((distances == same[:, None]) & rivals).sum(1)
    different = np.where(count, (distances * rivals).sum(1) / np.maximum(count, 1), np.nan)
    return Neighbours(same, different, 1 + closer + equal / 2, 1 / (1 + count))


def compare_in_pairs(views: Views) -> Neighbours:
    """The same, among the objects of each pair of views alone."""
    order = np.argsort(views.pairs, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(views.pairs[order])) + 1)
    found = [compare(views.take(rows)) for rows in groups]
    back = np.argsort(order)
    return Neighbours(
        *(np.concatenate([getattr(each, name) for each in found])[back] for name in Neighbours.__dataclass_fields__)
    )


@dataclass(frozen=True)
class Aligned:
    """One kind of embedding of one model in one direction."""

    direction: Direction
    model: str
    embedding: str
    views: Views
    in_pairs: Neighbours

    @classmethod
    def of(cls, direction: Direction, model: str, embedding: str, columns: Columns) -> Aligned:
        views = Views.of(columns, embedding)
        return cls(direction, model, embedding, views, compare_in_pairs(views))

    def figures(self) -> dict[str, Estimate]:
        """What stands in the table; objects that are alone in their pair count among all only."""
        several = np.isfinite(self.in_pairs.different)
        uids, near = self.views.take_uids[several], _where(self.in_pairs, several)
        even = np.unique(np.linspace(0, len(several) - 1, min(len(several), RANKED)).astype(np.int64))
        sampled = self.views.take(even)
        far = compare(sampled)
        ratio = estimate(uids, np.stack([near.same, near.different], 1), lambda sums: sums[:, 0] / sums[:, 1])
        return {
            "distance of the same object": mean(uids, near.same),
            "distance of different objects": mean(uids, near.different),
            "same over different": ratio,
            "first in its pair": mean(uids, (near.rank == 1).astype(float)),
            "first in its pair by chance": mean(uids, near.chance),
            "rank in its pair": mean(uids, near.rank),
            "first among all": mean(sampled.take_uids, (far.rank == 1).astype(float)),
            "first among all by chance": mean(sampled.take_uids, far.chance),
            "rank among all": mean(sampled.take_uids, far.rank),
        }


def _where(near: Neighbours, rows: np.ndarray) -> Neighbours:
    return Neighbours(near.same[rows], near.different[rows], near.rank[rows], near.chance[rows])
