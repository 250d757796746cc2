import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvg.canvas import block_mask, enlarge, episode_masks, split, stitch, to_map, to_tokens

GRIDS = st.lists(st.integers(1, 9), min_size=1, max_size=3)


def draw(mim=(True, False), seeds=(3, 3), grid=(4, 6), tiles=3, ratio=0.25, ordered=False):
    return episode_masks(torch.tensor(mim), torch.tensor(seeds), grid, tiles, ratio, 2, ordered)


@pytest.mark.parametrize("size", [(4, 6), (2, 4, 6)])
def test_stitch_lays_tiles_below_each_other_and_split_takes_them_apart(size):
    tiles = torch.randn(2, 3, 5, *size)
    canvas = stitch(tiles)
    assert torch.equal(canvas[:, :, size[0] : 2 * size[0]], tiles[:, 1])
    assert torch.equal(split(canvas, 3), tiles)


@pytest.mark.parametrize("grid", [(4, 6), (2, 4, 6)])
def test_tokens_are_the_map_in_row_major_order(grid):
    features = torch.randn(2, 5, *grid)
    tokens = to_tokens(features)
    assert torch.equal(tokens[0, -2], features[(0, slice(None), *(-1,) * (len(grid) - 1), -2)])
    assert torch.equal(to_map(tokens, grid), features)


def test_enlarged_mask_covers_the_pixels_of_its_tokens():
    mask = torch.rand(2, 3, 2) > 0.5
    assert torch.equal(enlarge(mask, (12, 8))[:, 0], torch.kron(mask.float(), torch.ones(4, 4)))


@settings(max_examples=200, deadline=None)
@given(GRIDS, st.floats(0, 1), st.integers(1, 40), st.integers(0, 99), st.floats(0.05, 1))
def test_block_mask_hides_exactly_as_many_cells_as_asked(grid, ratio, min_block, seed, aspect):
    count = round(ratio * math.prod(grid))
    mask = block_mask(grid, count, np.random.default_rng(seed), min_block, aspect=aspect)
    assert mask.shape == tuple(grid)
    assert mask.sum() == count


def test_block_mask_comes_in_blocks():
    def borders(mask):
        return sum(int(np.diff(mask, axis=axis).sum()) for axis in (0, 1))

    rng = np.random.default_rng(0)
    blocks = np.mean([borders(block_mask((16, 16), 64, rng, min_block=16)) for _ in range(20)])
    cells = np.mean([borders(block_mask((16, 16), 64, rng, min_block=1, max_block=1)) for _ in range(20)])
    assert blocks < 0.6 * cells


@pytest.mark.parametrize(
    ("count", "min_block", "said"), [(25, 1, "24 cells"), (-1, 1, "got -1"), (3, 0, "`min_block`")]
)
def test_impossible_mask_is_refused(count, min_block, said):
    with pytest.raises(ValueError, match=said):
        block_mask((4, 6), count, np.random.default_rng(0), min_block)


def test_autoregression_hides_the_whole_query_and_nothing_else():
    mask = draw()[1]
    assert mask[-1].all()
    assert not mask[:-1].any()


def test_ordered_autoregression_hides_every_tile():
    assert draw(ordered=True)[1].all()


@pytest.mark.parametrize(("ordered", "shares"), [(False, [0.25]), (True, [0.25, 0.25, 0.25])])
def test_masked_episode_hides_its_share_of_the_canvas_or_of_each_tile(ordered, shares):
    mask = draw(ordered=ordered)[0].float()
    assert mask.reshape(len(shares), -1).mean(1).tolist() == shares


@pytest.mark.parametrize("ordered", [False, True])
def test_masked_episode_hides_at_least_one_token(ordered):
    assert draw(ratio=1e-3, ordered=ordered)[0].sum() == (3 if ordered else 1)


def test_masks_depend_on_the_seed_alone():
    alone, beside = draw((True,), (7,)), draw((False, True, True), (7, 7, 8))
    assert torch.equal(alone[0], beside[1])
    assert not torch.equal(beside[1], beside[2])
