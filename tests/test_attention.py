"""Attention and positions against their definitions."""

import math
from itertools import product
from unittest import mock

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.measurements import plain_attention
from mvg.models import attention as rooms
from mvg.models.attention import ask_in_order, attention, read_in_order, relative_attention
from mvg.models.position import RotaryPosition, relative_tables, resize_table, rotate

GRIDS = [(4, 4), (7, 3), (1, 5), (2, 3, 4), (6,)]


def definition(q, k, v, tables, grid):
    """Relative attention, one pair of tokens after the other."""
    places = list(product(*map(range, grid)))
    bias = torch.stack(
        [
            sum(q[:, :, i] @ table[a - b + size - 1] for a, b, size, table in zip(p, r, grid, tables, strict=True))
            for i, p in enumerate(places)
            for r in places
        ],
        dim=-1,
    )
    scores = q @ k.mT * q.shape[-1] ** -0.5 + bias.unflatten(-1, (len(places), -1))
    return scores.softmax(dim=-1) @ v


def drawn(grid, dtype, batch=2, heads=3, head_dim=8, rows=None):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(batch, math.prod(grid), 3, heads, head_dim, generator=generator, dtype=dtype)
    tables = [torch.randn(rows or 2 * n - 1, head_dim, generator=generator, dtype=dtype) for n in grid]
    q, k, v = (x.detach().requires_grad_() for x in tokens.permute(2, 0, 3, 1, 4).unbind(0))
    return q, k, v, [table.requires_grad_() for table in tables]


def results(function, grid, dtype, **options):
    """Output and all gradients."""
    q, k, v, tables = drawn(grid, dtype, **options)
    out = function(q, k, v, tables, grid)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=dtype) / out[0].numel() ** 0.5
    return [out, *torch.autograd.grad((out * weight).sum(), [q, k, v, *tables])]


def fused(q, k, v, tables, grid):
    """The way of all devices but the CPU, with PyTorch's flash kernel and no other, which has no way round."""
    with mock.patch.object(rooms, "_blocks_pay", return_value=False), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return relative_attention(q, k, v, tables, grid)


def assert_same(ours, expected, tolerance=1e-5):
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("function", [relative_attention, fused])
@pytest.mark.parametrize("grid", GRIDS)
def test_relative_attention_is_its_definition_with_all_gradients(function, grid):
    assert_same(results(function, grid, torch.float32), results(definition, grid, torch.float32))
    assert_same(results(function, grid, torch.float64), results(definition, grid, torch.float64), 1e-10)


@pytest.mark.parametrize("scores", [1, 17, 100, 1000])
def test_size_of_blocks_does_not_matter(monkeypatch, scores):
    expected = results(relative_attention, (5, 3), torch.float64)
    monkeypatch.setattr(rooms, "BLOCK_SCORES", scores)
    assert_same(results(relative_attention, (5, 3), torch.float64), expected, 1e-12)


def test_gradients_agree_with_finite_differences():
    q, k, v, tables = drawn((2, 3), torch.float64, batch=1, heads=2, head_dim=4)
    assert torch.autograd.gradcheck(lambda q, k, v, *t: relative_attention(q, k, v, t, (2, 3)), (q, k, v, *tables))


def test_a_table_of_another_size_is_interpolated_with_gradient():
    def by_hand(q, k, v, tables, grid):
        return definition(q, k, v, [resize_table(t, n) for t, n in zip(tables, grid, strict=True)], grid)

    for function in (relative_attention, fused):
        assert_same(results(function, (4, 3), torch.float64, rows=11), results(by_hand, (4, 3), torch.float64, rows=11))


def test_interpolation_is_linear_and_keeps_what_fits():
    line = torch.linspace(-1, 1, 9)[:, None].expand(9, 4)
    assert resize_table(line, 5) is line
    steps = resize_table(line, 14).diff(dim=0)[2:-2]
    torch.testing.assert_close(steps, torch.full_like(steps, 2 / 8 * 9 / 27))


def test_the_same_numbers_as_timm_with_painters_design():
    from timm.models.vision_transformer_sam import Attention

    reference = Attention(24, num_heads=3, use_rel_pos=True, input_size=(6, 4))
    torch.nn.init.normal_(reference.rel_pos_h)
    torch.nn.init.normal_(reference.rel_pos_w)
    x = torch.randn(2, 6, 4, 24, generator=torch.Generator().manual_seed(0))
    q, k, v = reference.qkv(x.flatten(1, 2)).unflatten(2, (3, 3, 8)).permute(2, 0, 3, 1, 4)
    out = relative_attention(q, k, v, [reference.rel_pos_h, reference.rel_pos_w], (6, 4))
    out = reference.proj(out.transpose(1, 2).flatten(2)).view_as(x)
    torch.testing.assert_close(out, reference(x), rtol=1e-5, atol=1e-5)


def test_tables_begin_as_zeros_and_then_change_nothing():
    q, k, v, _ = drawn((3, 4), torch.float32)
    tables = relative_tables((3, 4), 8)
    assert [tuple(table.shape) for table in tables] == [(5, 8), (7, 8)]
    assert_same([relative_attention(q, k, v, list(tables), (3, 4))], [scaled_dot_product_attention(q, k, v)])


@pytest.mark.parametrize(("tables", "grid", "match"), [(1, (3, 4), "as many tables"), (2, (3, 3), "every token")])
def test_what_does_not_fit_is_refused(tables, grid, match):
    q, k, v, made = drawn((3, 4), torch.float32)
    with pytest.raises(ValueError, match=match):
        relative_attention(q, k, v, made[:tables], grid)


def test_large_scores_stay_finite():
    q, k, v, tables = drawn((3, 4), torch.float32)
    out = relative_attention(q * 1e4, k, v, tables, (3, 4))
    assert out.isfinite().all()
    assert torch.autograd.grad(out.sum(), q)[0].isfinite().all()


def test_half_precision_takes_the_fused_way_and_stays_close():
    q, k, v, tables = drawn((4, 4), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = relative_attention(q, k, v, tables, (4, 4))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), relative_attention(q, k, v, tables, (4, 4)), rtol=0.05, atol=0.05)


def test_more_keys_than_queries():
    q, k, v, _ = drawn((5, 5), torch.float64)
    assert_same([attention(q[:, :, :7], k, v)], [scaled_dot_product_attention(q[:, :, :7], k, v)], 1e-10)


def test_memory_for_gradients_grows_with_tokens_and_not_with_their_square():
    def kept(side):
        q, k, v, tables = drawn((24, 24), torch.float32)
        storages = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: storages.setdefault(x.untyped_storage().data_ptr(), x), lambda x: x
        ):
            side(q, k, v, tables, (24, 24))
        return sum(x.untyped_storage().nbytes() for x in storages.values())

    scores = 4 * 2 * 3 * 576**2
    assert kept(plain_attention) > scores > 10 * kept(relative_attention)


def tiles(count, asked, batch=2, tokens=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(3, batch, 2, count, tokens, 8, generator=generator, dtype=torch.float64)
    query = torch.randn(3, batch, 2, asked, tokens, 8, generator=generator, dtype=torch.float64)
    return [*context, *query]


def in_order(q, k, v, q_query, k_query, v_query):
    """Reads context tiles and asks after 0, 1, 2, ... of them."""
    counts = range(q_query.shape[2])
    return read_in_order(q, k, v), ask_in_order(q_query, k_query, v_query, (k, v), counts)


def test_ordered_attention_is_one_masked_attention():
    count, asked, tokens = 3, 4, 5
    groups = tiles(count, asked)
    q, k, v = (torch.cat([groups[i], groups[i + 3]], dim=2).flatten(2, 3) for i in range(3))
    allowed = torch.zeros(count + asked, count + asked, dtype=torch.bool)
    allowed[:count, :count] = torch.ones(count, count).tril() > 0
    allowed[count:, :count] = torch.ones(asked, count).tril(-1) > 0
    allowed[count:, count:] = torch.eye(asked) > 0
    mask = allowed.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
    expected = scaled_dot_product_attention(q, k, v, attn_mask=mask).unflatten(2, (-1, tokens))
    assert_same(in_order(*groups), expected.split([count, asked], dim=2), 1e-10)


@pytest.mark.parametrize("changed", [1, 2, 3])
def test_a_later_tile_never_changes_an_earlier_one(changed):
    before, after = tiles(4, 5), tiles(4, 5)
    for x in after[:3]:
        x[:, :, changed:] += 1
    for x in after[3:]:
        x[:, :, changed + 1 :] += 1
    (context, query), (new_context, new_query) = in_order(*before), in_order(*after)
    assert torch.equal(context[:, :, :changed], new_context[:, :, :changed])
    assert torch.equal(query[:, :, : changed + 1], new_query[:, :, : changed + 1])
    assert not torch.isclose(context[:, :, changed:], new_context[:, :, changed:]).any(dim=-1).all()


@pytest.mark.parametrize("cut", [1, 2])
def test_reading_piece_by_piece_equals_one_pass(cut):
    q, k, v = tiles(3, 1)[:3]
    first, second = ([x[:, :, part] for x in (q, k, v)] for part in (slice(0, cut), slice(cut, None)))
    pieces = [read_in_order(*first), read_in_order(*second, past=(first[1], first[2]))]
    assert_same([torch.cat(pieces, dim=2)], [read_in_order(q, k, v)], 1e-10)


def test_one_memory_serves_a_batch_of_queries():
    _, k, v, *query = tiles(3, 1, batch=4)
    one = ask_in_order(*query, (k[:1], v[:1]), [3])
    each = ask_in_order(*query, (k[:1].repeat(4, 1, 1, 1, 1), v[:1].repeat(4, 1, 1, 1, 1)), [3])
    assert torch.equal(one, each)


def test_counts_that_do_not_fit_are_refused():
    _, k, v, *query = tiles(2, 1)
    with pytest.raises(ValueError, match="2 context tiles do not fit counts"):
        ask_in_order(*query, (k, v), [3])


@pytest.mark.parametrize("shape", [(2, 3, 16, 8), (1, 2, 200, 16)])
def test_short_sequences_in_half_precision_take_two_products_and_stay_close(shape):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, *shape, generator=generator).to(torch.bfloat16)
    expected = scaled_dot_product_attention(q.double(), k.double(), v.double())
    torch.testing.assert_close(attention(q, k, v).double(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("grid", GRIDS)
def test_rotary_scores_depend_on_offsets_alone(grid):
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    angles = RotaryPosition(grid, 16)()
    tokens = math.prod(grid)
    scores = rotate(q.expand(tokens, -1), angles) @ rotate(k.expand(tokens, -1), angles).T
    places = torch.tensor(list(product(*map(range, grid))))
    offsets = (places[:, None] - places[None]).flatten(0, 1)
    by_offset = {}
    for offset, score in zip(map(tuple, offsets.tolist()), scores.flatten().tolist(), strict=True):
        assert by_offset.setdefault(offset, score) == pytest.approx(score, abs=1e-4)
    assert len({round(score, 3) for score in by_offset.values()}) > len(by_offset) / 2


@pytest.mark.parametrize("head_dim", [16, 22])
def test_rotation_keeps_norms_and_leaves_the_first_token_alone(head_dim):
    x = torch.randn(2, 3, 24, head_dim, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, RotaryPosition((2, 3, 4), head_dim)())
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert not torch.isclose(turned[:, :, 1:], x[:, :, 1:]).all(dim=-1).any()


def test_any_grid_is_served_at_run_time_and_nothing_is_stored():
    position = RotaryPosition((4, 4), 16)
    torch.testing.assert_close(position((6, 3)), RotaryPosition((6, 3), 16)())
    assert position().shape == (16, 32)
    assert position.state_dict() == {}


@pytest.mark.parametrize("head_dim", [7, 4])
def test_heads_too_narrow_for_the_axes_are_refused(head_dim):
    with pytest.raises(ValueError, match=f"at least 6 for 3 axes, got {head_dim}"):
        RotaryPosition((2, 2, 2), head_dim)


def test_both_sides_of_the_speed_benchmark_compute_the_same():
    grid = (5, 3)
    assert_same(results(plain_attention, grid, torch.float64), results(definition, grid, torch.float64), 1e-10)
