"""The protocol of benchmarks: oracles, edge cases, and what must never raise a score."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy.spatial.distance import cdist
from skimage.measure import label, marching_cubes, mesh_surface_area, regionprops
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from benchmarks.protocol import METRICS, Truth, diagonal, score, volume_error
from benchmarks.surfaces import cells_of, distances, hd95, nsd, piece_sizes, surface_scores


def blobs(seed, shape=(9, 12, 10)):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    centres = rng.uniform(2, 7, (2, len(shape)))
    masks = [((grid - c.reshape(-1, *[1] * len(shape))) ** 2).sum(0) < rng.uniform(4, 14) for c in centres]
    return masks[0], masks[1]


def structure(true, spacing=(1.0, 1.0, 1.0), tolerance=1.0):
    return Truth(true, None, None, spacing, "mm", tolerance)


def brute_force(found, true, spacing):
    """Surface voxels by looking at every neighbour, and all pairs of distances."""

    def surface(mask):
        padded = np.pad(mask, 1)
        turns = [np.roll(padded, step, axis) for axis in range(mask.ndim) for step in (-1, 1)]
        inside = np.all(turns, axis=0)[(slice(1, -1),) * mask.ndim]
        return np.argwhere(mask & ~inside) * np.array(spacing)

    table = cdist(surface(found), surface(true))
    return table.min(1), table.min(0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.tuples(*[st.floats(0.3, 4)] * 3), st.floats(0.2, 4))
def test_distances_equal_brute_force_and_monai(seed, spacing, tolerance):
    found, true = blobs(seed)
    scores, failure = score(found, structure(true, spacing, tolerance))
    assert failure == ""
    there, back = brute_force(found, true, spacing)
    assert scores["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-6)
    pair = [torch.from_numpy(mask[None, None]).float() for mask in (found, true)]
    theirs = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=spacing)
    assert scores["hd95"] == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize(("shape", "rel"), [((9, 12, 10), 0.02), ((20, 24), 1e-5)])
@pytest.mark.parametrize("seed", range(4))
def test_area_weighted_surface_distance_equals_monai(shape, rel, seed):
    """Public tables cut some ambiguous cells in 3D into other triangles; in 2D the outlines are the same."""
    spacing, inner = (3.0, 1.0, 2.0)[: len(shape)], tuple(slice(1, -1) for _ in shape)
    pair = [np.pad(mask[inner], 1) for mask in blobs(seed, shape)]
    given = [torch.from_numpy(mask[None, None]) for mask in pair]
    options = {"include_background": True, "spacing": spacing, "use_subvoxels": True}
    theirs = float(compute_surface_dice(*given, [1.5], **options))
    assert nsd(*pair, spacing, 1.5) == pytest.approx(theirs, rel=rel)


@pytest.mark.parametrize("seed", range(4))
def test_pieces_add_up_to_the_surface_of_the_whole_mesh(seed):
    spacing, mask = (2.0, 1.0, 0.5), blobs(seed)[0]
    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(float), 0.5, spacing=spacing, method="lorensen")
    assert piece_sizes(spacing)[cells_of(mask)].sum() == pytest.approx(mesh_surface_area(vertices, faces), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.001, 0.4]))
def test_distances_do_not_depend_on_how_they_are_searched(seed, share):
    rng = np.random.default_rng(seed)
    first, second = (rng.random((14, 16, 18)) < share for _ in range(2))
    first[3, 4, 5] = second[9, 2, 7] = True
    places = [np.argwhere(mask) * (2.0, 1.0, 0.5) for mask in (first, second)]
    assert distances(first, second, (2.0, 1.0, 0.5)) == pytest.approx(cdist(*places).min(1))


def test_area_counts_not_voxels():
    """A plate of thick voxels that is half covered: its rim has many voxels and little area."""
    plate = np.zeros((3, 22, 22), bool)
    plate[1, 1:21, 1:21] = True
    moved = np.roll(plate, 1, 0)
    assert nsd(plate, plate, (5, 1, 1), 0.0) == 1
    assert nsd(plate, moved, (5, 1, 1), 4.0) < nsd(plate, moved, (5, 1, 1), 5.0) == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_overlap_and_volume_equal_counts(seed):
    found, true = blobs(seed)
    scores, _ = score(found, structure(true))
    both, either = np.logical_and(found, true).sum(), np.logical_or(found, true).sum()
    assert scores["dice"] == pytest.approx(2 * both / (found.sum() + true.sum()), abs=1e-12)
    assert scores["iou"] == pytest.approx(both / either, abs=1e-12)
    sizes = sorted([found.sum(), true.sum()])
    assert scores["volume_error"] == pytest.approx((sizes[1] - sizes[0]) / sizes[1], abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 3), st.integers(0, 2))
def test_distances_are_symmetric_scale_with_spacing_and_do_not_mind_flips(seed, scale, axis):
    found, true = blobs(seed)
    here, other = score(found, structure(true))[0], score(true, structure(found))[0]
    assert here == pytest.approx(other)
    assert score(found, structure(true, (scale,) * 3))[0]["hd95"] == pytest.approx(scale * here["hd95"])
    assert score(np.flip(found, axis), structure(np.flip(true, axis)))[0] == pytest.approx(here)


def image_truth(seed, hole=None):
    clean = np.random.default_rng(seed).random((16, 20)).astype(np.float32)
    clean[:, :4] = 0
    return Truth(None, clean, hole, (1.0, 1.0), "px", 2.0)


def test_image_metrics_equal_scikit_image_and_numpy():
    hole = np.zeros((16, 20), bool)
    hole[4:9, 6:12] = True
    truth = image_truth(0, hole)
    painted = np.random.default_rng(1).random((16, 20)).astype(np.float32)
    scores, _ = score(painted, truth)
    _, similarity = structural_similarity(
        truth.image.astype(float), painted.astype(float), data_range=1, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    for ending, mask in (("", truth.image > 0.01), ("_hole", hole)):
        left, right = truth.image[mask].astype(float), painted[mask].astype(float)
        assert scores[f"mae{ending}"] == pytest.approx(np.abs(left - right).mean(), abs=1e-6)
        assert scores[f"psnr{ending}"] == pytest.approx(peak_signal_noise_ratio(left, right, data_range=1), abs=1e-6)
        assert scores[f"ssim{ending}"] == pytest.approx(similarity[mask].mean(), abs=1e-6)


def better(first, second):
    """Whether the first values are nowhere worse than the second."""
    return all(
        first[name] >= second[name] - 1e-12 if METRICS[name].higher else first[name] <= second[name] + 1e-12
        for name in first
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_leaving_an_answer_out_never_raises_a_score(seed, share):
    rng = np.random.default_rng(seed)
    _, true = blobs(seed)
    found = rng.random(true.shape) < share
    gone = [score(answer, structure(true))[0] for answer in (None, np.zeros_like(found), found[1:])]
    assert all(better(score(found, structure(true))[0], missing) for missing in gone)
    truth = image_truth(seed)
    painted = 6 * rng.standard_normal((16, 20))
    assert better(score(painted, truth)[0], score(None, truth)[0])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_deleting_what_was_found_rightly_never_raises_overlap(seed, share):
    found, true = blobs(seed)
    kept = found & ~(true & (np.random.default_rng(seed).random(true.shape) < share))
    before, after = score(found, structure(true))[0], score(kept, structure(true))[0]
    assert before["dice"] >= after["dice"] - 1e-12
    assert before["iou"] >= after["iou"] - 1e-12


def test_edge_cases_follow_the_table():
    empty, dot = np.zeros((4, 5, 6), bool), np.zeros((4, 5, 6), bool)
    dot[0, 0, 0] = True
    far = np.roll(dot, 3, 2)
    spacing = (3.0, 1.0, 1.0)
    assert score(empty, structure(empty)) == ({"false_alarm": 0.0}, "")
    assert score(dot, structure(empty)) == ({"false_alarm": 1.0}, "alarm")
    worst = {"dice": 0, "iou": 0, "nsd": 0, "hd95": diagonal(dot.shape, spacing), "volume_error": 1}
    assert score(empty, structure(dot, spacing)) == (worst, "missed")
    assert score(None, structure(dot, spacing)) == (worst, "unanswered")
    assert score(dot[:2], structure(dot, spacing)) == (worst, "invalid")
    assert score(np.full(dot.shape, np.nan), structure(dot, spacing)) == (worst, "invalid")
    perfect, failure = score(dot, structure(dot, spacing))
    assert (perfect, failure) == ({"dice": 1, "iou": 1, "nsd": 1, "hd95": 0, "volume_error": 0}, "")
    assert score(far, structure(dot, spacing))[0]["hd95"] == 3.0
    assert score(far, structure(dot, spacing, 3.0))[0]["nsd"] == 1.0
    assert volume_error(empty, empty) == 0.0
    assert diagonal((4, 5), (2.0, 1.0)) == pytest.approx(np.hypot(8, 5))


def test_wholly_dark_images_are_scored_on_all_pixels():
    truth = dataclasses.replace(image_truth(0), image=np.zeros((16, 20), np.float32))
    assert score(np.zeros((16, 20)), truth)[0]["mae"] == 0
    assert score(np.ones((16, 20)), truth)[0] == pytest.approx({"psnr": 0, "mae": 1, "ssim": 0}, abs=1e-3)


def test_masks_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        surface_scores(np.zeros((2, 2), bool), np.zeros((2, 3), bool), (1, 1), 1, 1)


def test_surfaces_of_nothing():
    nothing, dot = np.zeros((3, 3), bool), np.eye(3, dtype=bool)
    assert [nsd(a, b, (1, 1), 1) for a, b in ((nothing, nothing), (dot, nothing), (nothing, dot))] == [1, 0, 0]
    assert [hd95(a, b, (1, 1), 9) for a, b in ((nothing, nothing), (dot, nothing), (nothing, dot))] == [0, 9, 9]


def brute_force_boxes(painted, true):
    """Boxes by scikit-image, overlaps by counting pixels, precision at every recall."""
    found = sorted(regionprops(label(painted > 0.5, connectivity=1), painted), key=lambda r: -r.intensity_mean)
    free, points, hits = regionprops(label(true, connectivity=1)), [], 0
    grids = np.zeros((2, *true.shape), bool)
    for rank, region in enumerate(found, 1):
        shares = []
        for other in free:
            grids[:] = False
            grids[0][region.slice], grids[1][other.slice] = True, True
            shares.append((grids[0] & grids[1]).sum() / (grids[0] | grids[1]).sum())
        if shares and max(shares) >= 0.5:
            free.pop(int(np.argmax(shares)))
            hits += 1
        points.append((hits, hits / rank))
    count = hits + len(free)
    area = [max((p for h, p in points if h >= level), default=0) for level in range(1, count + 1)]
    return {"ap50": np.mean(area), "sensitivity": hits / count, "precision": hits / len(found)}


@pytest.mark.parametrize("seed", range(8))
def test_detection_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    painted, true = np.zeros((60, 60), np.float32), np.zeros((60, 60), bool)
    for row in range(2, 60, 12):
        for column in range(2, 60, 12):
            shift, value = rng.integers(0, 4, 2), rng.uniform(0.3, 1)
            true[row : row + 8, column : column + 8] |= rng.random() < 0.6
            painted[row + shift[0] : row + 9, column + shift[1] : column + 9] = value * (rng.random() < 0.7)
    scores, failure = score(painted, dataclasses.replace(structure(true, (1.0, 1.0)), boxes=True))
    assert failure == ""
    expected = brute_force_boxes(painted, true)
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert 0 <= scores["box_iou"] <= 1


def test_edge_cases_of_detection_follow_the_table():
    box, nothing = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    box[2:6, 3:7] = True
    truth = dataclasses.replace(structure(box, (1.0, 1.0)), boxes=True)
    assert score(box.astype(np.uint8), truth) == (
        {name: 1.0 for name in ("ap50", "sensitivity", "precision", "box_iou")},
        "",
    )
    assert score(nothing, truth)[1] == score(box * 0.4, truth)[1] == "missed"
    assert set(score(None, truth)[0].values()) == {0.0}
    assert score(box * 1.0, dataclasses.replace(truth, mask=nothing)) == ({"false_alarm": 1.0}, "alarm")
