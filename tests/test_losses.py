"""Losses with known values; the released code's own numbers are in test_reference_parity."""

from __future__ import annotations

import math

import pytest
import torch

from egoexo_xseg.model.losses import (
    LossConfig,
    Matching,
    Targets,
    alignment_loss,
    bce_loss,
    condition_loss,
    contrast_loss,
    dice_loss,
    level_loss,
    match,
    sample_points,
    uncertain_points,
)
from egoexo_xseg.model.mask_decoder import Level
from egoexo_xseg.model.objective import strangers

GRID = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="xy"), -1).flatten(0, 1)
CENTRES = ((GRID + 0.5) / 4)[None]  # (1, 16, 2): the pixel centres of a 4 x 4 mask


def half(side: str) -> torch.Tensor:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:, :2] = side == "left"
    mask[:, 2:] = side == "right"
    return mask


def sure(mask: torch.Tensor) -> torch.Tensor:
    return mask.float() * 20 - 10


def test_points_at_pixel_centres_read_the_pixels():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(sample_points(image, CENTRES), image.flatten(2))
    between = torch.tensor([[[0.25, 0.125]]])  # half way from the first pixel to the second
    assert sample_points(image, between).item() == 0.5


def test_proposals_are_matched_to_the_objects_they_cover():
    left, right = half("left"), half("right")
    logits = torch.stack([sure(right), torch.zeros(4, 4), sure(left)])
    # In the second record the left half is hidden, so nothing may stand for it.
    both, one = torch.tensor([[True, True], [False, True]])
    labels = torch.stack([left, right]).float().flatten(1)
    found = match(logits.flatten(1).expand(2, -1, -1), labels.expand(2, -1, -1), torch.stack([both, one]))
    assert found.records.tolist() == [0, 0, 1]
    assert found.proposals.tolist() == [0, 2, 0]
    assert found.objects.tolist() == [1, 0, 1]


def test_not_a_number_does_not_stop_the_matching():
    logits = torch.stack([torch.full((4, 4), math.nan), sure(half("left"))])
    yes = torch.ones(1, 1, dtype=torch.bool)
    assert len(match(logits.flatten(1)[None], half("left")[None].float().flatten(1)[None], yes).proposals) == 1


def test_a_perfect_mask_costs_nothing_and_a_reversed_one_all():
    left = half("left").float().view(1, 16)
    for logits, bce, dice in ((sure(left), 0.0, 0.0), (-sure(left), 10.0, 1 - 1 / 17)):
        assert bce_loss(logits, left, 1.0).item() == pytest.approx(bce, abs=1e-3)
        assert dice_loss(logits, left, 1.0).item() == pytest.approx(dice, abs=1e-3)


def test_cells_are_labelled_by_the_share_that_an_object_covers():
    masks = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    masks[0, 0, 2:4, 2:6] = True  # of 4 x 4 cells, two whole ones
    masks[0, 0, 4, 2:4] = True  # and half of one below
    yes = torch.ones(1, 1, dtype=torch.bool)
    logits = torch.full((1, 2, 4, 4), -10.0)
    logits[0, 1, 1, 1:3], logits[0, 1, 2, 1] = 10.0, 0.0
    level = Level(logits, torch.zeros(1, 1, 2))
    found = level_loss(level, Targets(masks, yes, yes), LossConfig(num_points=None), torch.rand)
    assert found.matching.proposals.tolist() == [1]
    # The least decided two of sixteen cells: the half covered one, which is right at log 2, and a sure one.
    assert found.mask.item() == pytest.approx(math.log(2) / 2, abs=1e-3)
    assert found.dice.item() == pytest.approx(1 - (2 * 2.25 + 1) / (2.5 + 2.5 + 1), abs=1e-3)


def test_an_object_of_one_cell_is_seen():
    masks = torch.zeros(1, 1, 256, 256, dtype=torch.bool)
    masks[0, 0, 100:104, 60:64] = True
    yes = torch.ones(1, 1, dtype=torch.bool)
    logits = torch.full((1, 3, 64, 64), -10.0)
    logits[0, 2, 25, 15] = 10.0
    found = level_loss(
        Level(logits, torch.zeros(1, 1, 3)), Targets(masks, yes, yes), LossConfig(num_points=None), torch.rand
    )
    assert found.matching.proposals.tolist() == [2]


def test_objects_own_proposals_belong_to_them_and_the_others_are_matched_besides():
    masks = torch.stack([half("left"), half("right")])[None]
    yes = torch.ones(1, 2, dtype=torch.bool)
    logits = torch.stack([sure(half("right")), torch.zeros(4, 4), sure(half("left")), sure(half("right"))])[None]
    conditions = torch.full((1, 2, 4), -20.0)
    conditions[0, 0, [1, 2]] = conditions[0, 1, [0, 3]] = 20.0
    found = level_loss(
        Level(logits, conditions), Targets(masks, yes, yes), LossConfig(num_points=None), torch.rand, own_from=2
    )  # fmt: skip
    pairs = zip(found.matching.proposals.tolist(), found.matching.objects.tolist(), strict=True)
    assert sorted(pairs) == [(0, 1), (1, 0), (2, 0), (3, 1)]
    assert found.condition.item() == pytest.approx(0, abs=1e-6)


def test_points_gather_where_the_mask_is_undecided():
    torch.manual_seed(0)
    config = LossConfig(num_points=64)
    logits = torch.linspace(-8, 8, 32).expand(1, 32, 32)  # undecided in the middle column
    points = uncertain_points(logits, config, torch.rand)
    assert points.shape == (1, 64, 2)
    assert (points[0, :48, 0] - 0.5).abs().max() < 0.3
    assert (points[0, 48:, 0] - 0.5).abs().max() > 0.3


def test_conditions_of_absent_objects_must_match_nothing():
    present = torch.tensor([[True, True, False]])
    matching = Matching(*torch.tensor([[0], [1], [0]]))
    right = torch.full((1, 3, 4), -20.0)
    right[0, 0, 1] = 20.0
    right[0, 2] = 20.0  # padding: whatever it says
    assert condition_loss(right, present, matching, 1.0).item() == pytest.approx(0, abs=1e-6)
    claimed = right.clone()
    claimed[0, 1, 2] = 20.0  # an absent object that claims a proposal
    assert condition_loss(claimed, present, matching, 1.0).item() == pytest.approx(20 / 8)
    missed = right.clone()
    missed[0, 0, 1] = -20.0  # a positive weighs as much as the seven negatives together
    assert condition_loss(missed, present, matching, 1.0).item() == pytest.approx(7 * 20 / 8)


def test_alignment_is_the_mean_distance_of_visible_objects():
    query = torch.zeros(2, 2, 3)
    target = torch.tensor([[[3.0, 4, 0], [9, 9, 9]], [[0, 0, 1], [0, 0, 3]]])
    visible = torch.tensor([[True, False], [True, True]])
    assert alignment_loss(query, target, visible).item() == pytest.approx((5 + 2) / 2)
    assert alignment_loss(query, target, torch.zeros_like(visible)).item() == 0


def test_contrast_wants_each_object_nearest_to_itself():
    rows, all_others = torch.eye(4)[:3], ~torch.eye(3, dtype=torch.bool)
    right = contrast_loss(rows, rows, all_others, 0.1).item()
    assert right == pytest.approx(math.log(1 + 2 * math.exp(-10)), abs=1e-6)
    assert contrast_loss(rows, rows[[1, 2, 0]], all_others, 0.1).item() == pytest.approx(10, abs=1e-3)
    alone = torch.ones(1, 4, requires_grad=True)
    contrast_loss(alone, alone, torch.ones(1, 1, dtype=torch.bool), 0.1).backward()
    assert alone.grad.abs().sum() == 0


def test_an_object_is_not_pushed_away_from_itself_in_another_record():
    """Both directions of a pair of views hold the same two objects, each once as query and once as target."""
    ego, exo = torch.eye(4)[:2], torch.eye(4)[:2]
    query, target = torch.cat([ego, exo]), torch.cat([exo, ego])
    record = torch.tensor([0, 0, 1, 1])
    others = strangers(("take t", "take t"))
    assert others.tolist() == [[True, False], [False, True]]
    loss = contrast_loss(query, target, others[record][:, record], 0.1)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-10)), abs=1e-6)


def test_strangers_are_of_other_recordings():
    """Other cameras and other moments of a recording show the same objects again."""
    assert strangers(("take t", "take u", "take t")).tolist() == [
        [True, True, False],
        [True, True, True],
        [False, True, True],
    ]


def test_a_level_without_visible_objects_only_teaches_absence():
    logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    conditions = torch.zeros(1, 2, 3, requires_grad=True)
    none = torch.zeros(1, 2, dtype=torch.bool)
    targets = Targets(torch.zeros(1, 2, 4, 4, dtype=torch.bool), ~none, none)
    loss = level_loss(Level(logits, conditions), targets, LossConfig(num_points=16), torch.rand)
    assert loss.mask.item() == loss.dice.item() == 0
    assert loss.condition.item() == pytest.approx(math.log(2))
    (loss.mask + loss.dice + loss.condition).backward()
    assert conditions.grad.min() > 0
