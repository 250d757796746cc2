"""Degradations against physics that is known otherwise, and what every restoration keeps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.transform import radon
from test_tasks import SHAPES, cases, episode, every_dims, same

import tasks
from benchmarks.task_sheet import ROWS, SyntheticHead, draw_sheet
from mvg.controls import trivial_answers
from mvg.data.subject import Item, Subject
from mvg.data.synthetic import SyntheticAnatomy, prototype
from mvg.episode import Episode
from tasks import (
    ArtefactRemoval,
    BiasCorrection,
    Deblurring,
    Denoising,
    Inpainting,
    LowDoseCT,
    Registration,
    SkullStripping,
    SuperResolution,
    Undersampling,
)
from tasks.artefacts import acquire, add_waves, ghost, move, rigid
from tasks.bias_field import draw_field
from tasks.deblurring import blur
from tasks.inpainting import cut_hole
from tasks.kspace import to_lines
from tasks.painting import marked
from tasks.registration import draw_displacement, stitch, warp
from tasks.super_resolution import sample_centres
from tasks.tomography import bins, project, reconstruct
from tasks.undersampling import draw_lines, undersample

RESTORATIONS = {
    "salt and pepper": Denoising(kinds=["salt_pepper"]),
    "low dose CT": LowDoseCT(),
    "bias field": BiasCorrection(),
    "motion": ArtefactRemoval(),
    "ghosts": ArtefactRemoval(kinds=["ghosts"]),
    "spikes": ArtefactRemoval(kinds=["spikes"]),
    "undersampling": Undersampling(),
    "equispaced": Undersampling(kinds=["equispaced"]),
    "slices": SuperResolution(kinds=["through_plane"]),
    "large voxels": SuperResolution(kinds=["isotropic"], profile="box"),
    "fourier": SuperResolution(profile="fourier"),
    "deblurring": Deblurring(kinds=["gaussian", "box"]),
    "registration": Registration(),
    "stitched": Registration(layout="stitched"),
    "skull": SkullStripping(mask="labels", classes=[1, 2]),
    "slabs": Inpainting(kinds=["slabs"]),
}
DETERMINISTIC = ("ghosts", "fourier", "skull")
"""Tasks without a realisation of their own."""
every_restoration = pytest.mark.parametrize("name", RESTORATIONS)


def flat(value, shape=(48, 48), **fields):
    return Subject({"image": torch.full((1, *shape), value)}, {}, Item("flat", "flat", frozenset(["image"])), **fields)


def encode(task, subject, seed=0, **changes):
    rng = np.random.default_rng(seed)
    spec = {**task.complete(task.draw(cases()[0], rng, True), [subject], rng), **changes}
    return task.encode(subject, spec, rng)


def disc(size, radius):
    row, column = np.indices((size, size)) - (size - 1) / 2
    return (np.hypot(row, column) < radius).astype(np.float32)


@every_restoration
@every_dims
def test_the_same_seed_gives_the_same_episode(name, dims):
    (spec, _, first), (again, _, second) = (episode(RESTORATIONS[name], dims, 3) for _ in range(2))
    assert spec == again
    assert same(first, second)


@every_restoration
def test_context_and_query_share_the_strength_but_not_the_realisation(name):
    task = RESTORATIONS[name]
    index, (subject, *_) = cases()
    rng = np.random.default_rng(1)
    spec = task.complete(task.draw(index, rng, True), [subject], rng)
    first, second = (task.encode(subject, spec, rng).image for _ in range(2))
    assert torch.equal(first, second) == (name in DETERMINISTIC)
    assert len({str(task.draw(index, rng, True)) for _ in range(5)}) > 1 or name == "skull"
    for limit, (low, high) in getattr(task, "ranges", {}).items():
        assert limit not in spec or low <= spec[limit] * (1 + 1e-12) <= high * (1 + 1e-9)


@every_restoration
@every_dims
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_images_stay_finite(name, dims, value):
    shape = SHAPES[dims]
    labels = {"labels": torch.ones(shape, dtype=torch.int64)}
    subject = replace(flat(value, shape), labels=labels, spacing=(1.0,) * dims)
    pair = encode(RESTORATIONS[name], subject)
    assert bool(pair.image.isfinite().all())
    scores = RESTORATIONS[name].score(pair.target, pair, {"channels": 1})
    assert scores.keys() == RESTORATIONS[name].metrics.keys()


@every_restoration
def test_values_that_are_no_numbers_are_refused_by_name(name):
    broken = flat(0.5)
    broken.images["image"][0, 3, 4] = math.nan
    with pytest.raises(ValueError, match="case 'flat' holds 1 values that are NaN"):
        encode(RESTORATIONS[name], replace(broken, labels={"labels": torch.ones(48, 48, dtype=torch.int64)}))


def test_salt_and_pepper_replace_their_share():
    image = encode(Denoising(kinds=["salt_pepper"], salt_pepper=(0.1, 0.1)), flat(0.5, (300, 300))).image
    shares = [float((image == value).float().mean()) for value in (0.0, 1.0, 0.5)]
    assert shares == pytest.approx([0.05, 0.05, 0.9], abs=0.003)


# ---------------------------------------------------------------- computed tomography


def test_projections_agree_with_scikit_image():
    image = disc(61, 14) + np.roll(disc(61, 6), (9, -15), (0, 1))
    ours = project(image.reshape(-1, 1), (61, 61), 24)[..., 0]
    theirs = radon(image[::-1], theta=np.arange(24) * 180 / 24, circle=True).T
    middle = slice((bins((61, 61)) - 61) // 2, (bins((61, 61)) - 61) // 2 + 61)
    assert np.abs(ours[:, middle] - theirs).mean() < 0.01 * theirs.max()


def test_reconstruction_inverts_projection():
    image = disc(64, 20)
    back = reconstruct(project(image.reshape(-1, 1), (64, 64), 100), (64, 64)).reshape(64, 64)
    assert back[disc(64, 17) > 0].mean() == pytest.approx(1, abs=0.01)
    assert np.abs(back - image)[disc(64, 17) > 0].max() < 0.1
    assert abs(back[disc(64, 26) == 0]).max() < 0.12


def test_blocks_of_the_projection_do_not_change_it(monkeypatch):
    image = np.random.default_rng(0).random((20 * 26, 3), dtype=np.float32)
    whole = project(image, (20, 26), 9)
    monkeypatch.setattr("tasks.tomography.ENTRIES", 4 * 20 * 26)
    assert np.allclose(project(image, (20, 26), 9), whole, atol=1e-5)
    assert np.allclose(reconstruct(whole, (20, 26)).sum(), reconstruct(project(image, (20, 26), 9), (20, 26)).sum())


def test_noise_variance_is_inverse_to_the_dose():
    water = Subject(
        {"image": torch.from_numpy(0.5 * disc(64, 24))[None]}, {}, Item("a", "a", frozenset()), (3.0, 3.0), {}
    )
    inside, variances = torch.from_numpy(disc(64, 16) > 0), []
    for photons in (1e5, 2e5, 8e5):
        task = LowDoseCT(photons=(photons, photons), electronic=0.0)
        noise = [pair.image - pair.target for pair in (encode(task, water, seed) for seed in range(6))]
        variances.append(float(torch.stack([n[0, inside] for n in noise]).var()))
    assert variances[0] / variances[1] == pytest.approx(2, rel=0.15)
    assert variances[0] / variances[2] == pytest.approx(8, rel=0.15)


def test_noise_of_air_follows_the_formula_of_filtered_back_projection():
    task = LowDoseCT(photons=(1e6, 1e6), electronic=0.0, extent=64.0, views=100)
    noise = encode(task, flat(0.0, (64, 64))).image[0, 16:48, 16:48]
    ramp = 1 / 12  # integral of the squared ramp filter up to the Nyquist frequency of 1 mm bins
    linear = 2 / 3  # share of the variance that linear interpolation between bins leaves of white noise
    high = math.pi**2 / 100 * ramp / 1e6
    hounsfield = float(noise.std()) * 2000 / 1000 * 0.0193
    assert math.sqrt(high * linear) * 0.6 < hounsfield < math.sqrt(high) * 1.1


def test_electronic_noise_and_units_count():
    quiet, loud = (encode(LowDoseCT(photons=(500, 500), electronic=e), flat(0.4)) for e in (0.0, 30.0))
    assert float((loud.image - loud.target).std()) > 1.5 * float((quiet.image - quiet.target).std())
    narrow = encode(LowDoseCT(), flat(0.5, ranges={"image": (-100.0, 100.0)}), photons=1e5)
    wide = encode(LowDoseCT(), flat(0.5, ranges={"image": (-1000.0, 1000.0)}), photons=1e5)
    assert torch.allclose(narrow.image - 0.5, 10 * (wide.image - 0.5), atol=1e-4)


def test_volumes_are_degraded_slice_by_slice():
    _, subjects = cases(3)
    pair = encode(LowDoseCT(axis=0, photons=(1e3, 1e3)), subjects[0])
    noise = pair.image - pair.target
    assert noise.shape == (1, *SHAPES[3])
    together = torch.corrcoef(noise[0].flatten(1))
    assert float((together - torch.eye(len(together))).abs().max()) < 0.3


# ---------------------------------------------------------------- magnetic resonance


def test_undersampling_keeps_measured_lines_exactly_and_drops_the_others():
    image, rng = torch.rand(2, 48, 40, generator=torch.Generator().manual_seed(0)), np.random.default_rng(0)
    for axis, size in enumerate((48, 40)):
        measured = draw_lines(size, 4, 0.1, "random", rng)
        before, after = (to_lines(x, axis).movedim(axis + 1, 0) for x in (image, undersample(image, measured, axis)))
        assert torch.allclose(after[measured], before[measured], atol=1e-5)
        assert float(after[~measured].abs().max()) < 1e-5
        numpy = np.fft.fftshift(np.fft.fft(image, axis=axis + 1, norm="ortho"), axes=axis + 1)
        assert np.allclose(to_lines(image, axis), numpy, atol=1e-5)


@pytest.mark.parametrize("pattern", ["random", "equispaced"])
@pytest.mark.parametrize("size", [10, 64, 101, 256])
def test_masks_have_their_acceleration_and_their_centre(pattern, size):
    for acceleration in (2.0, 4.0, 6.0):
        measured = draw_lines(size, acceleration, 0.1, pattern, np.random.default_rng(size))
        centre = max(1, round(0.1 * size))
        start = size // 2 - centre // 2
        assert bool(measured[start : start + centre].all())
        assert int(measured.sum()) == max(centre, round(size / acceleration))


def test_without_acceleration_nothing_is_lost():
    pair = encode(Undersampling(acceleration=(1, 1)), cases()[1][0])
    assert torch.allclose(pair.image, pair.target, atol=1e-5)


@every_dims
def test_rigid_motion_agrees_with_shifts_and_with_turned_ellipsoids(dims):
    image = torch.rand(1, *(16,) * dims, generator=torch.Generator().manual_seed(0))
    still, offset = np.zeros(dims * (dims - 1) // 2), np.arange(1.0, dims + 1)
    axes = tuple(range(1, dims + 1))
    assert torch.allclose(rigid(image, offset, still), image.roll(axes, axes), atol=1e-5)
    place, turn = np.indices((32,) * dims) - 15.5, still.copy()
    turn[0] = math.radians(20)
    first = math.cos(turn[0]) * place[0] + math.sin(turn[0]) * place[1]
    second = math.cos(turn[0]) * place[1] - math.sin(turn[0]) * place[0]
    rest = (place[2:] ** 2).sum(0) / 18
    before, after = (np.exp(-(a**2) / 50 - b**2 / 12 - rest) for a, b in ((place[0], place[1]), (first, second)))
    turned = rigid(torch.from_numpy(before.astype(np.float32))[None], 0 * offset, turn)
    assert np.allclose(turned[0], after, atol=0.01)


def test_a_scan_without_moves_shows_no_motion_and_the_image_stays_in_place():
    _, (subject, *_) = cases()
    image = subject.images["image"]
    assert torch.allclose(move(image, 0, (3, 3), 5, 0, np.random.default_rng(0)), image, atol=1e-5)
    moved = sum(move(image, 3, (3, 3), 5, 0, np.random.default_rng(seed)) for seed in range(10)) / 10
    shifts = [float((image.roll((a, b), (1, 2)) * moved).sum()) for a in (-3, 0, 3) for b in (-3, 0, 3)]
    assert max(shifts) == shifts[4]
    assert float((moved - image).abs().mean()) > 0.005


def test_poses_replace_the_lines_acquired_in_them_and_no_others():
    image, rng = torch.zeros(1, 32, 32), np.random.default_rng(0)
    image[0, 10:20, 8:22] = 1
    start = int(np.random.default_rng(0).integers(1, 32, 1)[0])
    kept = slice(start, None) if start <= 16 else slice(0, start)
    changed = slice(0, start) if start <= 16 else slice(start, None)
    lines, mixed = (to_lines(x, 0)[0] for x in (image, acquire(image, 1, (2.0, 2.0), 0.0, 0, rng)))
    assert torch.allclose(mixed[kept], lines[kept], atol=1e-5)
    assert torch.allclose(mixed[changed].abs().square().sum(1), lines[changed].abs().square().sum(1), rtol=0.01)
    assert float((mixed[changed] - lines[changed]).abs().mean()) > 0.01


@pytest.mark.parametrize("period", [2, 4])
def test_ghosts_appear_at_their_distance(period):
    image = torch.zeros(1, 64, 8)
    image[0, 20, 3] = 1
    shown = ghost(image, period, 1.0, 0)[0, :, 3]
    places = [(20 + number * 64 // period) % 64 for number in range(period)]
    assert set(shown.topk(period).indices.tolist()) == set(places)
    assert torch.allclose(ghost(image, period, 0.0, 0), image, atol=1e-6)


def test_a_spike_is_one_frequency_of_its_amplitude():
    wave = add_waves(torch.zeros(1, 32, 48), 1, 0.1, np.random.default_rng(0))
    power = torch.fft.rfft2(wave[0]).abs()
    assert int((power > 1e-3 * power.max()).sum()) <= 2
    assert float(wave.square().mean().sqrt()) == pytest.approx(0.1 / math.sqrt(2), rel=0.01)


@pytest.mark.parametrize("shape", [(48, 40), (12, 20, 16)])
def test_bias_fields_are_positive_smooth_and_bounded(shape):
    for seed in range(5):
        field = draw_field(shape, 0.5, 2, np.random.default_rng(seed))
        log = field.log()
        assert float(field.min()) > 0
        assert float(log.abs().max()) == pytest.approx(0.5, abs=1e-4)
        assert float(log.mean()) == pytest.approx(0, abs=1e-4)
        for axis, size in enumerate(shape):
            assert float(log.diff(dim=axis).abs().max()) < 8 * 0.5 / size


# ---------------------------------------------------------------- resolution


def wave(cycles, shape=(96, 64)):
    return (0.5 + 0.3 * torch.sin(2 * math.pi * cycles * (torch.arange(shape[0]) + 0.5) / shape[0]))[
        None, :, None
    ].expand(1, *shape)


def test_band_limited_images_pass_truncation_unchanged():
    task = SuperResolution(kinds=["through_plane"], factor=(4, 4), profile="fourier", axis=0)
    inside, outside = (encode(task, replace(flat(0.5), images={"image": wave(cycles)})) for cycles in (10, 20))
    assert torch.allclose(inside.image, inside.target, atol=1e-5)
    assert torch.allclose(outside.image, torch.full_like(outside.image, 0.5), atol=1e-5)


def test_slice_profiles_damp_waves_as_their_transfer_function_says():
    for profile, transfer in (
        ("gaussian", lambda f: math.exp(-((math.pi * f) ** 2) / (4 * math.log(2)))),
        ("box", lambda f: math.sin(math.pi * f) / (math.pi * f)),
    ):
        width, cycles = 5.0, 6
        blurred = blur(wave(cycles), (width, 1e-3 if profile == "box" else 0.1), profile)
        middle = (blurred - 0.5)[0, 16:-16, 20]
        expected = 0.3 * transfer(width * cycles / 96)
        assert float(middle.abs().max()) == pytest.approx(expected, rel=0.03)


def test_slow_waves_survive_thick_slices_and_fast_ones_do_not():
    task = SuperResolution(kinds=["through_plane"], factor=(4, 4), axis=0)
    slow, fast = (encode(task, replace(flat(0.5), images={"image": wave(cycles)})) for cycles in (2, 24))
    assert float((slow.image - slow.target).abs()[:, 8:-8].max()) < 0.03
    assert float((fast.image - 0.5).abs()[:, 8:-8].max()) < 0.05


def test_only_the_coarse_axis_is_coarse():
    image = torch.rand(1, 40, 48, generator=torch.Generator().manual_seed(0))
    image = image[:, :1].expand_as(image).contiguous()
    pair = encode(SuperResolution(kinds=["through_plane"], axis=0), replace(flat(0.0), images={"image": image}))
    assert torch.allclose(pair.image, image, atol=1e-5)
    pair = encode(SuperResolution(kinds=["isotropic"]), replace(flat(0.0), images={"image": image}))
    assert float(pair.image.std()) < 0.8 * float(image.std())


@pytest.mark.parametrize(("size", "step", "count"), [(48, 4.0, 12), (10, 2.5, 4), (3, 6.0, 1), (2, 9.0, 1)])
def test_coarse_samples_lie_inside(size, step, count):
    for start in (0.0, 0.3, 0.99):
        centres = sample_centres(size, step, start)
        assert len(centres) == count
        assert -0.5 <= centres.min() <= centres.max() < size


def test_lengths_in_mm_need_a_spacing_and_follow_it():
    image = torch.rand(1, 48, 48, generator=torch.Generator().manual_seed(0))
    task = Deblurring(fwhm=(3, 3), noise=(1e-9, 1e-9), unit="mm")
    subject = replace(flat(0.0), images={"image": image})
    with pytest.raises(ValueError, match="case 'flat' does not say its pixel size"):
        encode(task, subject)
    shown = encode(task, replace(subject, spacing=(1.0, 0.5))).image
    assert torch.allclose(shown, blur(image, (3.0, 6.0), "gaussian"), atol=1e-6)


# ---------------------------------------------------------------- registration, masks


@every_dims
def test_warping_the_moving_image_by_the_true_field_gives_the_fixed_one(dims):
    _, (subject, *_) = cases(dims)
    pair = Registration(curve=False).encode(
        subject, {"displacement": 0.06, "cells": 2, "knots": None}, np.random.default_rng(5)
    )
    field = draw_displacement(SHAPES[dims], 0.06, 2, np.random.default_rng(5))
    moving, fixed = pair.image
    assert torch.equal(moving, subject.images["image"][0])
    assert torch.equal(warp(moving[None], field), fixed[None])
    assert torch.equal(pair.target, fixed[None])
    assert float((moving - fixed).abs().mean()) > 0.01


@pytest.mark.parametrize("shape", [(40, 56), (12, 20, 24)])
def test_displacements_do_not_fold(shape):
    for seed in range(5):
        field = draw_displacement(shape, 0.3, 4, np.random.default_rng(seed)).numpy()
        gradient = np.stack([np.gradient(u) for u in field]).reshape(len(shape), len(shape), -1)
        assert np.linalg.det(gradient.T + np.eye(len(shape))).min() > 0
    small = draw_displacement((100, 50), 0.01, 1, np.random.default_rng(0)).abs().flatten(1).amax(1)
    assert small.tolist() == pytest.approx([1.0, 0.5], rel=1e-4)


def test_a_shift_moves_an_image_as_rolling_does():
    image = torch.rand(1, 20, 24, generator=torch.Generator().manual_seed(0))
    field = torch.tensor([2.0, -3.0])[:, None, None].expand(2, 20, 24)
    assert torch.allclose(warp(image, field)[:, :-3, 4:], image.roll((-2, 3), (1, 2))[:, :-3, 4:], atol=1e-4)


def test_the_curve_hides_the_answer_and_is_shared():
    spec, _, pairs = episode(Registration(), seed=4)
    assert len(spec["knots"]) == 6
    assert any(float((pair.image[1:] - pair.target).abs().mean()) > 0.02 for pair in pairs)


def test_the_identity_of_registration_is_its_moving_image():
    spec, _, (query, *context) = episode(Registration())
    one = torch.ones(1, 1, *SHAPES[2])
    images, targets = (torch.stack([getattr(p, what) for p in context])[None] for what in ("image", "target"))
    false = torch.tensor([False])
    seed = torch.tensor([0])
    made = Episode(
        query.image[None], query.target[None], one, images, targets, one[None], false, false, seed, specs=(spec,)
    )
    assert torch.equal(trivial_answers(made)["query itself"], query.image[None, :1])


def test_stitched_pairs_score_and_weigh_the_moved_half_alone():
    spec, _, (pair, *_) = episode(Registration(layout="stitched"))
    half = SHAPES[2][1] // 2
    assert pair.image.shape == pair.target.shape == (1, *SHAPES[2])
    assert torch.equal(pair.image[..., half:], pair.target[..., half:])
    assert pair.weight[..., :half].unique().tolist() == [1]
    assert pair.weight[..., half:].unique().tolist() == [0]
    wrong = torch.cat([pair.target[..., :half], 0 * pair.target[..., half:]], -1)
    assert Registration(layout="stitched").score(wrong, pair, spec)["mae"] == 0


def test_stitching_squeezes():
    left, right = torch.full((1, 4, 6, 8), 0.2), torch.full((1, 4, 6, 8), 0.7)
    both = stitch(left, right)
    assert both.shape == left.shape
    assert torch.allclose(both[..., :4], left[..., :4])
    assert torch.allclose(both[..., 4:], right[..., :4])


def test_skull_stripping_scores_inside_and_outside():
    task = SkullStripping(mask="labels", classes=[1, 2])
    spec, (subject, *_), (pair, *_) = episode(task)
    inside = (subject.labels["labels"] == 1) | (subject.labels["labels"] == 2)
    assert torch.equal(marked(pair), inside)
    assert torch.equal(pair.target, subject.images["image"] * inside)
    left = task.score(torch.where(inside, pair.target, 0.25), pair, spec)
    assert (left["psnr_brain"], left["mae_brain"], left["mae_outside"]) == (100, 0, 0.25)
    assert left["dice"] < 0.5
    lost = task.score(pair.target - 0.1 * inside, pair, spec)
    assert (lost["mae_outside"], lost["mae_brain"]) == (0, pytest.approx(0.1, rel=1e-4))


def test_a_stripped_image_is_the_target_where_there_is_one():
    _, (subject, *_) = cases()
    given = replace(subject, images={**subject.images, "stripped": subject.images["t1"]}, labels={})
    pair = SkullStripping().encode(given, {"channels": 1}, np.random.default_rng(0))
    assert torch.equal(pair.target, subject.images["t1"])


@pytest.mark.parametrize("shape", [(64, 48), (20, 24, 16)])
def test_slabs_are_whole_planes_of_one_axis(shape):
    for seed in range(6):
        hole = cut_hole(torch.ones(1, *shape), "slabs", 0.2, np.random.default_rng(seed))
        lengths = [
            int(hole.any(dim=tuple(a for a in range(len(shape)) if a != axis)).sum()) for axis in range(len(shape))
        ]
        cut = [axis for axis, length in enumerate(lengths) if length < shape[axis]]
        assert len(cut) == 1
        assert abs(lengths[cut[0]] - 0.2 * shape[cut[0]]) <= 1.5
        assert int(hole.sum()) * shape[cut[0]] == lengths[cut[0]] * hole.numel()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Undersampling(acceleration=(2, 20)), "`acceleration`"),
        (lambda: Undersampling(phase=-1), "`phase`"),
        (lambda: SuperResolution(factor=(0.5, 2)), "`factor`"),
        (lambda: SuperResolution(profile="sinc"), "`profile`"),
        (lambda: Deblurring(unit="cm"), "`unit`"),
        (lambda: ArtefactRemoval(moves=(1, 2.5)), "`moves` must be whole"),
        (lambda: ArtefactRemoval(ghosts=(1, 2)), "`ghosts`"),
        (lambda: ArtefactRemoval(kinds=["blur"]), "`kinds`"),
        (lambda: BiasCorrection(foreground=1.0), "`foreground`"),
        (lambda: LowDoseCT(window=(1, 0)), "`window`"),
        (lambda: LowDoseCT(views=0), "`views`"),
        (lambda: Registration(degraded=["moving"]), "`degraded`"),
        (lambda: SkullStripping(classes=[0]), "`classes`"),
        (lambda: SkullStripping(brain=1.0), "`brain`"),
        (lambda: encode(Undersampling(axis=2), flat(0.5)), "`axis` must be one of the 2"),
    ],
)
def test_wrong_arguments_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_the_mask_of_synthetic_heads_encloses_their_brain():
    source = SyntheticHead((48, 48), seed=10)
    for item in source.items("val")[:3]:
        subject, plain = source.read(item), SyntheticAnatomy.read(source, item)
        assert torch.equal(subject.images["image"], plain.images["image"])
        names = prototype(source.plan, 1, 0).names
        brain, labels = subject.labels["brain"] > 0, subject.labels["labels"]
        for number, name in enumerate(names, start=1):
            shown = labels == number
            inside = name not in ("skin", "fat", "skull", "diploe", "fluid", "marrow")
            share = float(brain[shown].float().mean()) if shown.any() else float(inside)
            assert share == pytest.approx(float(inside), abs=0.02)


def test_the_sheet_shows_every_task(tmp_path):
    assert {type(row.task) for row in ROWS} == {getattr(tasks, name) for name in tasks.__all__}
    draw_sheet(ROWS[:4], 24, 24, seed=0).save(tmp_path / "sheet.png")
    assert np.asarray(Image.open(tmp_path / "sheet.png")).std() > 20
