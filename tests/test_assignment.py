"""Scores of proposals, their joint assignment, and masks that are never empty."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_rules import pick_greedily

from egoexo_xseg.model.assignment import assign, binarise, margins, mask_sureness, score_proposals
from egoexo_xseg.model.inputs import Fit


def test_sureness_is_the_mean_probability_inside():
    logits = torch.tensor([[[2.0, -5.0], [4.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    expected = (torch.tensor(2.0).sigmoid() + torch.tensor(4.0).sigmoid()) / 2
    assert mask_sureness(logits).tolist() == [pytest.approx(expected.item(), abs=1e-6), 0.0]


def test_padding_does_not_count():
    fit = Fit((8, 16), (8, 16), 16)
    logits = torch.full((1, 4, 4), 3.0)
    logits[:, 2:] = 99.0  # below the image
    scores = score_proposals(logits, torch.zeros(2, 1), fit)
    assert scores.flatten().tolist() == pytest.approx([0.5 * torch.tensor(3.0).sigmoid().item()] * 2, abs=1e-6)


def test_objects_share_out_proposals_for_the_largest_total():
    scores = torch.tensor([[0.9, 0.8, 0.0], [0.9, 0.1, 0.0]])
    assert pick_greedily(scores) == [0, 1]
    chosen = assign(scores)
    assert chosen.tolist() == [1, 0]
    assert margins(scores, chosen).tolist() == pytest.approx([0.0, 0.8])


def test_more_objects_than_proposals():
    scores = torch.tensor([[0.1, 0.2], [0.9, 0.3], [0.2, 0.8]])
    assert assign(scores).tolist() == [1, 0, 1]
    assert margins(torch.tensor([[0.4]]), np.array([0])).tolist() == pytest.approx([0.4])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(4, 5), st.integers(0, 2**31))
def test_no_other_assignment_is_better(objects, proposals, seed):
    scores = torch.rand(objects, proposals, generator=torch.Generator().manual_seed(seed))
    chosen = assign(scores).tolist()
    totals = [
        sum(scores[k, n].item() for k, n in enumerate(order))
        for order in itertools.permutations(range(proposals), objects)
    ]
    assert len(set(chosen)) == objects
    assert sum(scores[k, n].item() for k, n in enumerate(chosen)) == pytest.approx(max(totals))


def test_masks_hold_the_pixels_above_zero():
    logits = torch.tensor([[[1.0, -1.0], [0.0, 2.0]]])
    assert binarise(logits).tolist() == [[[True, False], [False, True]]]


def test_an_empty_mask_becomes_the_most_likely_spot():
    logits = torch.full((2, 100, 200), -5.0)
    logits[0, 0, 199] = -1.0  # a corner: the spot is cut off by the border
    logits[1, 50, 60] = -1.0
    masks = binarise(logits)
    assert masks[0].nonzero().tolist() == [[row, column] for row in range(3) for column in range(197, 200)]
    assert masks[1].sum() == 25 and masks[1, 48:53, 58:63].all()
    assert binarise(torch.full((1, 4, 4), -1.0)).sum() == 1
