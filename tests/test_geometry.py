"""Geometry and augmentation: sizes, boxes, slices and random changes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvg.data import (
    Augmentation,
    Item,
    Subject,
    augmentation,
    fit,
    from_slices,
    place,
    place_crop,
    restore,
    to_slices,
)
from mvg.data.augmentation import Look, Place, change_look, change_place
from mvg.data.geometry import majority_labels, resize, resize_labels


def subject(shape, seed=0):
    torch.manual_seed(seed)
    return Subject(
        {"image": torch.rand(1, *shape)}, {"labels": torch.randint(0, 3, shape)}, Item("a", "a", frozenset())
    )


sizes = st.tuples(st.integers(5, 40), st.integers(5, 40))


@settings(max_examples=30, deadline=None)
@given(shape=sizes, target=sizes, aspect=st.sampled_from(["stretch", "pad", "crop"]))
def test_restore_undoes_fit(shape, target, aspect):
    placement = place(shape, target, aspect)
    smooth = torch.linspace(0.2, 0.8, shape[0])[:, None] + 0.1 * torch.linspace(-1, 1, shape[1])
    fitted = fit(Subject({"image": smooth[None]}, {}, Item("a", "a", frozenset())), placement)
    assert fitted.shape == target
    back = restore(fitted.images["image"], placement)[0]
    window = tuple(slice(low, low + box) for low, box in zip(placement.low, placement.box, strict=True))
    assert back.shape == shape
    coarsest = max(1 / inner for inner in placement.inner)
    assert (back - smooth)[window].abs().max() < coarsest + 0.02


def test_fit_of_equal_size_is_the_identity():
    same = fit(subject((8, 9)), place((8, 9), (8, 9)))
    assert torch.equal(same.images["image"], subject((8, 9)).images["image"])


def test_resize_matches_the_library_in_2d_and_separates_in_3d():
    image = torch.rand(2, 12, 10, 8)
    expected = torch.stack([resize(image[:, k], (5, 6)) for k in range(12)], 1)
    assert torch.allclose(resize(image, (12, 5, 6)), expected, atol=1e-6)
    assert torch.allclose(resize(torch.full((1, 7, 7, 7), 0.3), (3, 9, 5)), torch.full((1, 3, 9, 5), 0.3))


def filtered(image, size):
    """Resizes axis by axis by a triangle as wide as a new pixel, at least two old ones: the oracle of `resize`."""
    for axis, new in enumerate(size, 1):
        old = image.shape[axis]
        scale, centres = max(old / new, 1), (torch.arange(new) + 0.5) * old / new
        weights = (1 - (torch.arange(old) + 0.5 - centres[:, None]).abs() / scale).clamp(min=0)
        image = torch.tensordot(image, weights / weights.sum(1, keepdim=True), ([axis], [1])).movedim(-1, axis)
    return image


extents = st.sampled_from([1, 1, 2, 5, 9])


@settings(max_examples=80, deadline=None)
@given(pairs=st.lists(st.tuples(extents, extents), min_size=1, max_size=3), channels=st.integers(1, 3))
def test_resize_is_a_filter_along_each_axis_also_of_one_pixel(pairs, channels):
    old, new = zip(*pairs, strict=True)
    torch.manual_seed(0)
    image = torch.rand(channels, *old)
    assert torch.allclose(resize(image, new), filtered(image, new), atol=1e-5)
    assert torch.allclose(resize(torch.full_like(image, 0.3), new), torch.tensor(0.3))


@pytest.mark.parametrize("shape", [(1, 7, 9), (7, 9, 1), (1, 1, 5), (1, 6)])
def test_axes_of_one_voxel_survive_and_keep_their_extent(shape):
    given_subject = Subject(
        {"image": torch.rand(1, *shape)}, {"l": torch.ones(shape)}, Item("a", "a", frozenset()), (2.0,) * len(shape)
    )
    placement = place(shape, tuple(2 * n for n in shape))
    fitted = fit(given_subject, placement, "majority")
    extent = [space * n for space, n in zip(fitted.spacing, fitted.shape, strict=True)]
    assert extent == pytest.approx([2.0 * n for n in shape])
    assert restore(fitted.images["image"], placement).shape == (1, *shape)
    assert (fitted.labels["l"] == 1).all()


def test_labels_are_never_mixed():
    label = torch.zeros(20, 20, dtype=torch.int64)
    label[:, 10:] = 7
    for resized in (resize_labels(label, (9, 9)), majority_labels(label, (9, 9))):
        assert set(resized.unique().tolist()) == {0, 7}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), row=st.integers(0, 19), column=st.integers(0, 29))
def test_random_box_lies_inside_and_holds_the_anchor(seed, row, column):
    anchor = torch.zeros(20, 30, dtype=torch.bool)
    anchor[row, column] = True
    box = place_crop((20, 30), (16, 16), np.random.default_rng(seed), anchor, (0.3, 0.9))
    for low, size, whole, pixel in zip(box.low, box.box, (20, 30), (row, column), strict=True):
        assert 0 <= low <= pixel < low + size <= whole


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_can_be_put_back(axis):
    volume = torch.rand(4, 5, 6)
    assert torch.equal(from_slices(to_slices(volume, axis), axis), volume)


def test_slices_are_upright():
    head, front, right = torch.zeros(3, 3, 4, 5)
    head[:, :, -1] = front[:, -1, :] = right[-1, :, :] = 1
    assert to_slices(head, 1)[:, 0].all()
    assert to_slices(head, 0)[:, 0].all()
    assert to_slices(front, 2)[:, 0].all()
    assert to_slices(front, 0)[:, :, 0].all()
    assert to_slices(right, 2)[:, :, 0].all()
    assert to_slices(right, 1)[:, :, 0].all()


@pytest.mark.parametrize("shape", [(24, 20), (12, 10, 8)])
def test_change_of_place_moves_image_and_label_alike(shape):
    label = torch.zeros(shape, dtype=torch.int64)
    label[tuple(slice(n // 4, n // 2) for n in shape)] = 1
    given_subject = Subject({"image": label[None].float()}, {"labels": label}, Item("a", "a", frozenset()))
    place_ = Augmentation(place=1.0).draw_place(np.random.default_rng(1), len(shape))
    moved = change_place(given_subject, Place((0,), place_.matrix, place_.bend))
    agreement = ((moved.images["image"][0] > 0.5) == (moved.labels["labels"] == 1)).float().mean()
    assert agreement > 0.97
    assert not torch.equal(moved.labels["labels"], label)


def test_rotation_by_a_right_angle_equals_rot90():
    image = torch.rand(1, 9, 9)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    grid = augmentation.sampling_grid((9, 9), turn, None)
    turned = augmentation.sample(image, grid, "bilinear")
    assert min((turned - torch.rot90(image, k, (1, 2))).abs().max() for k in (1, 3)) < 1e-5


def test_rotation_keeps_angles_on_oblong_images():
    grid = augmentation.sampling_grid((10, 20), torch.tensor([[0.0, -1.0], [1.0, 0.0]]), None)
    pixels = (grid[0] + 1) * torch.tensor([20.0, 10.0]) / 2
    assert torch.allclose((pixels[1, 0] - pixels[0, 0]).norm(), torch.tensor(1.0), atol=1e-5)
    assert torch.allclose((pixels[0, 1] - pixels[0, 0]).norm(), torch.tensor(1.0), atol=1e-5)


def test_augmentation_depends_on_its_generator_alone():
    results = [
        Augmentation()([subject((16, 16)), subject((16, 16), 1)], np.random.default_rng(5), True) for _ in range(2)
    ]
    for first, second in zip(*results, strict=True):
        assert torch.equal(first.images["image"], second.images["image"])
        assert first.images["image"].min() >= 0
        assert first.images["image"].max() <= 1


def test_image_tasks_share_one_look_without_noise():
    changed = Augmentation(place=0.0, look=1.0, flip=0.0, noise=0.5)(
        [subject((16, 16)), subject((16, 16))], np.random.default_rng(0), False
    )
    assert torch.equal(changed[0].images["image"], changed[1].images["image"])
    order = subject((16, 16)).images["image"].flatten().argsort()
    assert (changed[0].images["image"].flatten()[order].diff() >= 0).all()


def test_neutral_look_changes_nothing_and_blur_keeps_the_mean():
    neutral = change_look(subject((8, 8)), {"image": Look()})
    assert torch.equal(neutral.images["image"], subject((8, 8)).images["image"])
    assert torch.allclose(augmentation.blur(torch.full((1, 8, 8), 0.4), 1.5), torch.full((1, 8, 8), 0.4))
