"""Metrics against independent implementations, and their edge table."""

import itertools
import math
import time

import numpy as np
import pytest
import SimpleITK
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchvision.ops import box_iou as reference_box_iou

from mvg import metrics

SHAPES = [(64, 64), (17, 40), (12, 20, 16)]


def images(shape, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.random(shape)
    return np.clip(true + 0.2 * rng.standard_normal(shape), 0, 1), true


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))[None]


def ssim_reference(painted, true, **options):
    return structural_similarity(
        true, painted, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, **options
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_equals_scikit_image(shape):
    painted, true = images(shape)
    expected = peak_signal_noise_ratio(true, painted, data_range=1)
    assert metrics.psnr(tensor(painted), tensor(true)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_equals_scikit_image(shape):
    painted, true = images(shape)
    assert metrics.ssim(tensor(painted), tensor(true)) == pytest.approx(ssim_reference(painted, true), abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_masked_ssim_is_the_mean_of_scikit_images_map(shape):
    painted, true = images(shape)
    mask = true > 0.5
    expected = ssim_reference(painted, true, full=True)[1][mask].mean()
    assert metrics.ssim(tensor(painted), tensor(true), torch.from_numpy(mask)) == pytest.approx(expected, abs=1e-9)


def test_ssim_and_psnr_scale_with_the_data_range():
    painted, true = (tensor(image) for image in images((32, 32)))
    assert metrics.ssim(7 * painted, 7 * true, data_range=7) == pytest.approx(metrics.ssim(painted, true))
    assert metrics.psnr(7 * painted, 7 * true, data_range=7) == pytest.approx(metrics.psnr(painted, true))


@pytest.mark.parametrize("shape", [(3, 40), (1, 1), (2, 30, 30)])
def test_ssim_of_short_axes_is_finite_and_perfect_for_the_truth(shape):
    painted, true = (tensor(image) for image in images(shape))
    assert metrics.ssim(true, true) == pytest.approx(1)
    assert -1 <= metrics.ssim(painted, true) < 1


def test_ssim_averages_channels():
    first, second = images((20, 20)), images((20, 20), seed=1)
    painted, true = (torch.cat([tensor(a), tensor(b)]) for a, b in zip(first, second, strict=True))
    expected = (ssim_reference(*first) + ssim_reference(*second)) / 2
    assert metrics.ssim(painted, true) == pytest.approx(expected, abs=1e-9)


def test_masks_select_pixels():
    painted, true = images((16, 16))
    mask = true > 0.7
    inside = [tensor(painted), tensor(true), torch.from_numpy(mask)]
    assert metrics.mae(*inside) == pytest.approx(np.abs(painted - true)[mask].mean())
    assert metrics.psnr(*inside) == pytest.approx(peak_signal_noise_ratio(true[mask], painted[mask], data_range=1))


def test_identical_images_have_the_bound_and_empty_masks_nan():
    image = tensor(images((16, 16))[1])
    assert metrics.psnr(image, image) == metrics.MAX_PSNR
    nothing = torch.zeros(16, 16, dtype=torch.bool)
    assert all(math.isnan(metric(image, image, nothing)) for metric in (metrics.psnr, metrics.ssim, metrics.mae))


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim, metrics.mae])
def test_broken_images_never_look_good(metric):
    image = tensor(images((16, 16))[1])
    assert math.isnan(metric(torch.full_like(image, math.nan), image))


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim, metrics.mae])
def test_images_of_different_shape_are_refused(metric):
    with pytest.raises(ValueError, match="one shape"):
        metric(torch.zeros(1, 8, 8), torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="`mask`"):
        metric(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8), torch.ones(1, 8, 8))


@pytest.mark.parametrize("shape", SHAPES)
def test_overlap_equals_simpleitk(shape):
    rng = np.random.default_rng(3)
    predicted, true = rng.random(shape) > 0.6, rng.random(shape) > 0.4
    measure = SimpleITK.LabelOverlapMeasuresImageFilter()
    measure.Execute(*(SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (true, predicted)))
    masks = torch.from_numpy(predicted), torch.from_numpy(true)
    assert metrics.dice(*masks) == pytest.approx(measure.GetDiceCoefficient(), abs=1e-9)
    assert metrics.iou(*masks) == pytest.approx(measure.GetJaccardCoefficient(), abs=1e-9)


@pytest.mark.parametrize("metric", [metrics.dice, metrics.iou])
def test_overlap_of_empty_masks(metric):
    empty, full = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    assert [metric(empty, empty), metric(full, empty), metric(empty, full), metric(full, full)] == [1, 0, 0, 1]


def boxes(count, dims, rng):
    low = rng.integers(0, 20, (count, dims))
    return torch.from_numpy(np.concatenate([low, low + rng.integers(1, 15, (count, dims))], 1)).float()


def test_box_iou_equals_torchvision():
    rng = np.random.default_rng(0)
    first, second = boxes(9, 2, rng), boxes(5, 2, rng)
    assert torch.allclose(metrics.box_iou(first, second).float(), reference_box_iou(first, second))


def test_box_iou_in_3d_counts_voxels():
    rng = np.random.default_rng(1)
    first, second = boxes(4, 3, rng), boxes(4, 3, rng)
    for (i, a), (j, b) in itertools.product(enumerate(first.int().tolist()), enumerate(second.int().tolist())):
        grids = torch.zeros(2, 35, 35, 35, dtype=torch.bool)
        grids[0, a[0] : a[3], a[1] : a[4], a[2] : a[5]] = True
        grids[1, b[0] : b[3], b[1] : b[4], b[2] : b[5]] = True
        assert metrics.box_iou(first, second)[i, j] == pytest.approx(metrics.iou(*grids))


def brute_force_precision(found, scores, true, threshold):
    """Area under the interpolated curve, integrated over a fine grid of recalls."""
    order = sorted(range(len(found)), key=lambda i: -scores[i])
    free, points, hits = set(range(len(true))), [], 0
    for rank, i in enumerate(order, start=1):
        overlaps = {j: float(reference_box_iou(found[i : i + 1], true[j : j + 1])) for j in free}
        best = max(overlaps, key=overlaps.get, default=None)
        if best is not None and overlaps[best] >= threshold:
            free.remove(best)
            hits += 1
        points.append((hits / len(true), hits / rank))
    recalls = (np.arange(len(true)) + 0.5) / len(true)
    return np.mean([max((p for r, p in points if r >= recall), default=0) for recall in recalls])


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    true = boxes(6, 2, rng)
    found = torch.cat([true + torch.from_numpy(rng.integers(-2, 3, true.shape)), boxes(8, 2, rng)])
    found[:, 2:] = torch.maximum(found[:, 2:], found[:, :2] + 1)
    scores = torch.from_numpy(rng.permutation(len(found)) / len(found))
    expected = brute_force_precision(found, scores.tolist(), true, 0.5)
    assert metrics.average_precision(found, scores, true) == pytest.approx(expected, abs=1e-9)


def test_average_precision_edge_table():
    none, one, score = torch.zeros(0, 4), torch.tensor([[0.0, 0, 4, 4]]), torch.ones(1)
    assert metrics.average_precision(none, score[:0], none) == 1
    assert metrics.average_precision(one, score, none) == 0
    assert metrics.average_precision(none, score[:0], one) == 0
    assert metrics.average_precision(one, score, one) == 1


def test_a_true_box_is_hit_once():
    one = torch.tensor([[0.0, 0, 4, 4]])
    assert metrics.match_boxes(one.repeat(3, 1), torch.tensor([0.1, 0.9, 0.5]), one).tolist() == [True, False, False]


def test_metrics_are_fast_enough_for_validation():
    painted, true = (tensor(image).float() for image in images((64, 64)))
    mask = true[0] > 0.5
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        metrics.ssim(painted, true, mask)
        metrics.psnr(painted, true, mask)
        metrics.dice(painted[0] > 0.5, mask)
        times.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    assert min(times) < 0.01
