"""Coarse to fine: what holds for any volume, any window and any network."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvg.data.geometry import resize
from mvg.episode import Pair
from mvg.models import CanvasViT, PatchStem
from mvg.models.base import InContextModel
from mvg.next_scale import (
    Asked,
    Foreground,
    Nearest,
    NextScale,
    Pyramid,
    SamePlace,
    Several,
    Whole,
    answer_batch,
    levels,
)
from mvg.next_scale.level import cut, enlarge, shrink

WINDOW = (8, 8, 8)
SHAPES = [(8, 8, 8), (5, 3, 8), (20, 17, 8), (33, 32, 4), (9, 64, 2)]


class Told(InContextModel):
    """Paints the mean target of its examples: with the query as the only one, the truth."""

    def __init__(self, image_size=WINDOW, in_channels=1, out_channels=1):
        super().__init__()
        self.image_size, self.in_channels, self.out_channels = tuple(image_size), in_channels, out_channels
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.calls, self.contexts, self.coarse = 0, 0, []

    def remember(self, context_images, context_targets):
        self.contexts += 1
        return context_targets

    def answer(self, image, memory, coarse=None):
        self.calls += len(image)
        self.coarse.append(coarse)
        return memory.mean(1).expand(len(image), *memory.shape[2:]) * self.scale

    def loss(self, episode):
        return {"loss": self.scale.sum()}


class Refine(Told):
    """Paints what was painted at the coarser scale; at the first scale, the query."""

    def answer(self, image, memory, coarse=None):
        super().answer(image, memory, coarse)
        return image if coarse is None else coarse.target


def volume(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((1, *shape), dtype=np.float32))


def mask(shape, seed=0):
    return (volume(shape, seed) > 0.5).float()


def small(image_size=WINDOW, **options):
    torch.manual_seed(0)
    return CanvasViT(image_size, width=32, depth=1, heads=2, stem=PatchStem(4), **options).eval()


extents = st.lists(st.integers(1, 70), min_size=3, max_size=3)

# ---------------------------------------------------------------- levels


@settings(max_examples=60, deadline=None)
@given(extents, st.lists(st.integers(4, 20), min_size=3, max_size=3))
def test_levels_go_from_one_window_to_full_resolution(shape, window):
    found = levels(shape, window)
    assert all(size <= side for size, side in zip(found[0].size, window, strict=True))
    assert found[-1].size == tuple(shape)
    for coarse, fine in itertools.pairwise(found):
        steps = [b / a for a, b in zip(coarse.size, fine.size, strict=True)]
        assert max(steps) > 1
        assert all(1 <= step <= 2 for step in steps)
    for axis, side in enumerate(window):
        lengths = {level.size[axis] for level in found}
        assert lengths == {shape[axis]} if shape[axis] <= side else min(lengths) >= side


@pytest.mark.parametrize(("side", "count"), [(1, 1), (128, 1), (129, 2), (256, 2), (257, 3), (512, 3)])
def test_number_of_levels_is_never_below_one(side, count):
    assert len(levels((side, 60, 60), (128, 128, 128))) == count


def test_thin_volume_reaches_full_resolution_with_all_of_its_slices():
    sizes = [level.size for level in levels((512, 512, 60), (128, 128, 128))]
    assert sizes == [(128, 128, 60), (256, 256, 60), (512, 512, 60)]


def test_axes_must_agree():
    with pytest.raises(ValueError, match="alike axes"):
        levels((8, 8), WINDOW)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_placement_cuts_what_a_window_of_the_level_shows(shape):
    finest = levels(shape, WINDOW)[-1]
    low = finest.around((0.9, 0.1, 0.5))
    box = finest.placement(low)
    assert box.box == box.inner
    shown = cut(volume(shape), low, WINDOW)
    spans = tuple(slice(a, a + n) for a, n in zip(box.start, box.inner, strict=True))
    held = tuple(slice(a, a + n) for a, n in zip(box.low, box.box, strict=True))
    assert torch.equal(shown[(0, *spans)], volume(shape)[(0, *held)])
    assert shown.sum() == pytest.approx(float(shown[(0, *spans)].sum()), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 12), min_size=3, max_size=3), st.lists(st.integers(-6, 20), min_size=3, max_size=3))
def test_enlarged_windows_are_cut_from_the_enlarged_whole(shape, low):
    size = [2 * n - n % 2 for n in shape]
    whole = resize(volume(shape), size)
    assert torch.allclose(enlarge(volume(shape), size, low, WINDOW), cut(whole, low, WINDOW), atol=1e-5)


@pytest.mark.parametrize("size", [(5, 9, 16), (3, 3, 3), (20, 17, 16)])
def test_volumes_are_reduced_in_parts_as_in_one(size, monkeypatch):
    whole = resize(volume((20, 17, 16)), size)
    monkeypatch.setattr("mvg.next_scale.level._CHUNK", 600)
    assert torch.allclose(shrink(volume((20, 17, 16)), size), whole, atol=1e-6)
    assert (shrink(volume((20, 17, 16)).half(), size).float() - whole).abs().max() < 2e-3


def test_largest_values_keep_structures_that_means_lose():
    target = torch.zeros(1, 32, 32, 32)
    target[0, 5, 6, 7] = 1
    assert Pyramid(target, WINDOW, target).targets[0].max() < 0.1
    assert Pyramid(target, WINDOW, target, largest=True).targets[0].max() == 1


# ---------------------------------------------------------------- the roll-out


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_truth_shown_comes_back_at_full_resolution(shape, blend):
    network, plan = Told(), NextScale(blend=blend)
    image, truth = volume(shape), mask(shape, 1)
    painted = plan(network, image, plan.read(network, [Pair(image, truth)]))
    assert painted.shape == truth.shape
    assert torch.equal((painted > 0.5).float(), truth)
    assert torch.allclose(painted, truth, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 33), (7, 9), (16, 65)])
def test_pictures_are_answered_as_volumes_are(shape):
    network, plan = Told((8, 8)), NextScale()
    image, truth = volume(shape), mask(shape, 1)
    assert torch.allclose(plan(network, image, plan.read(network, [Pair(image, truth)])), truth, atol=1e-5)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_windows_cover_every_voxel(overlap):
    network, image = Told(), torch.ones(1, 30, 11, 4)
    plan = NextScale(overlap=overlap)
    assert torch.allclose(plan(network, image, plan.read(network, [Pair(image, image)])), image, atol=1e-6)


def test_a_single_window_is_a_direct_call():
    network, image, pair = small(), volume(WINDOW), Pair(volume(WINDOW, 1), mask(WINDOW, 1))
    plan = NextScale()
    found = list(plan.scales(network, image, plan.read(network, [pair])))
    with torch.inference_mode():
        direct = network(image[None], pair.image[None, None], pair.target[None, None])[0]
    assert len(found) == 1
    assert torch.equal(found[0].painted, direct)


def test_each_answer_leads_the_next_one():
    network, plan = Refine(), NextScale()
    image = volume((20, 17, 8))
    coarse, middle, fine = plan.scales(network, image, plan.read(network, [Pair(image, image)]))
    assert torch.allclose(middle.painted, resize(coarse.painted, middle.level.size), atol=1e-5)
    assert torch.allclose(fine.painted, resize(middle.painted, (20, 17, 8)), atol=1e-5)
    assert network.coarse[0] is None
    assert all(pair is not None for pair in network.coarse[1:])


def test_a_single_scale_asks_without_a_coarser_one():
    network, plan = Refine(), NextScale(single=True)
    image = volume((20, 17, 8))
    (only,) = plan.scales(network, image, plan.read(network, [Pair(image, image)]))
    assert torch.allclose(only.painted, image, atol=1e-6)
    assert network.coarse == [None] * network.calls


def test_batches_of_windows_do_not_change_the_answer():
    network, context = small(), [Pair(volume((13, 9, 8), 1), mask((13, 9, 8), 1))]
    answers = []
    for batch in (1, 5):
        plan = NextScale(batch=batch, retrieval=Whole())
        answers.append(plan(network, volume((20, 17, 8)), plan.read(network, context)))
    assert torch.allclose(*answers, atol=1e-5)


@pytest.mark.parametrize("retrieval", [Foreground(), Whole(), SamePlace(), Nearest()])
@pytest.mark.parametrize("options", [{}, {"single": True}, {"limit": 2}, {"focus": 0.4}])
def test_several_pictures_are_answered_as_each_alone(retrieval, options):
    network = small((8, 8), in_channels=2, out_channels=2)
    pairs = [Pair(volume((2, 20, 13), k)[0], mask((2, 20, 13), k)[0]) for k in range(2)]
    images = [volume((2, *size), 9)[0] for size in ((20, 17), (20, 17), (20, 17), (5, 6), (5, 6), (20, 17))]
    together, alone = NextScale(batch=30, retrieval=retrieval, **options), NextScale(retrieval=retrieval, **options)
    context = alone.read(network, pairs)
    for image, answer in zip(images, together.answer(network, images, context), strict=True):
        assert torch.allclose(answer, alone(network, image, context), atol=1e-5)


def test_windows_of_several_pictures_share_a_call():
    network, plan = Told((8, 8)), NextScale(batch=16, retrieval=Foreground())
    pairs = [Pair(volume((8, 8), 1), mask((8, 8), 1))]
    answers = list(plan.answer(network, [volume((7, 8), k) for k in range(20)], plan.read(network, pairs)))
    assert (len(answers), network.calls, len(network.coarse)) == (20, 20, 2)
    with pytest.raises(ValueError, match="takes 1 image channels, got 3"):
        next(plan.answer(network, [torch.zeros(3, 8, 8)], plan.read(network, pairs)))


@pytest.mark.parametrize("retrieval", [SamePlace(), Foreground(), Several([Whole(), SamePlace()])])
def test_several_runs_are_answered_as_each_alone(retrieval):
    network, query = small(attention="full"), volume((20, 17, 8))
    plan = NextScale(batch=3, retrieval=retrieval)
    context = plan.read(network, [Pair(volume((13, 9, 8), k), mask((13, 9, 8), k)) for k in range(3)])
    *_, (_, painted) = plan.scales_after(network, query, context, [(1, False), (3, False), (2, True)])
    for answer, (count, single) in zip(painted, [(1, False), (3, False), (2, True)], strict=True):
        alone = NextScale(single=single, retrieval=retrieval)
        assert torch.allclose(answer, alone(network, query, context[:count]), atol=1e-4)
    with pytest.raises(ValueError, match="1 to 3 pairs, as many as there are, got 4"):
        next(plan.scales_after(network, query, context, [(4, False)]))


@pytest.mark.parametrize("retrieval", [SamePlace(), Whole(), Foreground(2), Nearest(2), Several([Whole(), Nearest()])])
def test_the_order_of_the_context_does_not_matter_to_a_network_without_order(retrieval):
    network, plan = small(attention="full"), NextScale(retrieval=retrieval)
    pairs = [Pair(volume(shape, k), mask(shape, k)) for k, shape in enumerate([(20, 9, 5), (8, 8, 8), (31, 12, 30)])]
    query = volume((20, 17, 8), 7)
    answers = [plan(network, query, plan.read(network, order)) for order in (pairs, pairs[::-1])]
    assert answers[0].shape == query.shape
    assert torch.allclose(*answers, atol=1e-4)


def test_a_batch_is_answered_as_its_volumes_are():
    network, plan, images, masks = small(), NextScale(), [], []
    for k in range(3):
        images.append(volume((12, 9, 8), k))
        masks.append(mask((12, 9, 8), k))
    batch, targets = torch.stack(images), torch.stack(masks)
    found = answer_batch(network, batch, batch.roll(1, 0)[:, None], targets.roll(1, 0)[:, None])
    for k in range(3):
        alone = plan(network, images[k], plan.read(network, [Pair(images[k - 1], masks[k - 1])]))
        assert torch.allclose(found[k], alone, atol=1e-6)


def test_volumes_on_disk_are_answered_as_those_in_memory(tmp_path):
    network, plan, shape = small(), NextScale(), (20, 17, 8)
    stored = np.memmap(tmp_path / "a.dat", np.float16, "w+", shape=(1, *shape))
    stored[:] = volume(shape).numpy()
    pair = Pair(torch.from_numpy(stored), torch.from_numpy(stored).round())
    held = Pair(pair.image.clone().float(), pair.target.clone().float())
    answers = [plan(network, p.image, plan.read(network, [p])) for p in (pair, held)]
    assert (answers[0] - answers[1]).abs().max() < 5e-3


def test_windows_that_share_their_context_read_it_once():
    network, plan = Told(), NextScale(retrieval=Foreground())
    image = volume((40, 8, 8))
    plan(network, image, plan.read(network, [Pair(image, mask((40, 8, 8)))]))
    assert network.contexts == 4
    assert network.calls > 8


def test_values_that_are_not_finite_are_refused():
    network, plan = Told(), NextScale()
    network.scale.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        plan(network, volume(WINDOW), plan.read(network, [Pair(volume(WINDOW), mask(WINDOW))]))


@pytest.mark.parametrize("batch", [1, 3])
def test_windows_are_left_out_where_the_coarser_answer_shows_nothing(batch):
    image, truth = volume((40, 36, 32)), torch.zeros(1, 40, 36, 32)
    truth[:, 3:9, 4:10, 5:12] = 1
    painted, calls = [], []
    for focus in (0.0, 0.02):
        network, plan = Told(), NextScale(focus=focus, batch=batch)
        painted.append(plan(network, image, plan.read(network, [Pair(image, truth)])))
        calls.append(network.calls)
    assert calls[1] < calls[0] / 3
    assert torch.equal((painted[1] > 0.5).float(), truth)
    assert torch.allclose(*painted, atol=0.02)


def test_nothing_is_left_out_of_a_single_scale_for_which_there_is_no_coarser_answer():
    network, plan, image = Told(), NextScale(single=True, focus=0.5), volume((20, 20, 20))
    empty = torch.zeros_like(image)
    assert torch.equal(plan(network, image, plan.read(network, [Pair(image, empty)])), empty)
    assert network.calls > 1


@pytest.mark.parametrize(
    ("options", "said"), [({"overlap": 1.0}, "overlap"), ({"batch": 0}, "batch"), ({"focus": 1.0}, "focus")]
)
def test_wrong_arguments_are_named(options, said):
    with pytest.raises(ValueError, match=f"`{said}` must"):
        NextScale(**options)


# ---------------------------------------------------------------- retrieval


def asked(image, low, shape, spacing=None):
    pyramid = Pyramid(image, WINDOW, spacing=spacing)
    return Asked(pyramid.image(len(pyramid.levels) - 1, low), pyramid.levels[-1], low, pyramid.spacing)


def test_the_same_place_is_that_of_the_query():
    shown = Pyramid(volume((32, 16, 8)), WINDOW, mask((32, 16, 8)))
    (crop,) = SamePlace().choose(asked(volume((32, 16, 8), 1), (17, 3, 0), (32, 16, 8)), [shown])
    assert crop == (0, 2, (17, 3, 0))


def test_voxels_of_like_size_are_shown_together():
    shown = Pyramid(volume((32, 32, 32)), WINDOW, mask((32, 32, 32)), spacing=(1, 1, 1))
    query = [asked(volume(WINDOW), (0, 0, 0), WINDOW, (size,) * 3) for size in (0.7, 2.2, 9.0)]
    assert [SamePlace().choose(each, [shown])[0].level for each in query] == [2, 1, 0]


def test_foreground_is_found_wherever_it_lies():
    target = torch.zeros(1, 40, 40, 8)
    target[:, 30:36, 2:6] = 1
    (crop,) = Foreground().choose(asked(volume((40, 40, 8)), (0, 0, 0), (40, 40, 8)), [Pyramid(target, WINDOW, target)])
    assert cut(target, crop.low, WINDOW).sum() == target.sum()


def test_what_looks_alike_is_found_wherever_it_lies():
    scene = volume((32, 32, 8))
    shown = Pyramid(scene, WINDOW, scene)
    (crop,) = Nearest().choose(asked(scene.roll((-12, -4), (1, 2)), (0, 0, 0), (32, 32, 8)), [shown])
    assert crop.low == (12, 4, 0)


def test_several_rules_show_each_window_once():
    shown = Pyramid(volume(WINDOW), WINDOW, mask(WINDOW))
    assert len(Several([SamePlace(), Whole()]).choose(asked(volume(WINDOW), (0, 0, 0), WINDOW), [shown])) == 1


def test_a_limit_ends_before_full_resolution_and_enlarges():
    network, image = Told(), torch.rand(1, 40, 33, 35)
    plan, whole = NextScale(limit=1), NextScale()
    context = plan.read(network, [Pair(image, image)])
    sizes = [scale.level.size for scale in plan.scales(network, image, context)]
    assert sizes == [scale.level.size for scale in whole.scales(network, image, context)][:1]
    assert plan(network, image, context).shape == image.shape
    with pytest.raises(ValueError, match="`limit` must be at least 1"):
        NextScale(limit=0)
