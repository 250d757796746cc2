"""Synthesis, denoising and inpainting: what is drawn, degraded and scored."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_tasks import ROLES, SHAPES, TASKS, cases, episode

from mvg.data.geometry import resize
from mvg.data.source import Index
from mvg.data.subject import Item, Subject
from mvg.episode import Pair
from tasks import Denoising, Inpainting, Synthesis
from tasks.inpainting import cover_hole, cut_hole
from tasks.painting import marked
from tasks.synthesis import image_roles


@pytest.mark.parametrize("task", [Synthesis(), Denoising(), Inpainting()])
def test_targets_beyond_the_range_are_cut(task):
    spec, (query, *_), _ = episode(task)
    wide = replace(query, images={role: 3 * image - 1 for role, image in query.images.items()})
    pair = task.encode(wide, spec, np.random.default_rng(0))
    assert torch.equal(pair.target, pair.target.clamp(0, 1))
    assert task.score(pair.target, pair, spec)[task.primary] == 100


@pytest.mark.parametrize(
    ("kind", "level", "deviation", "mean"),
    [
        ("gaussian", 0.1, 0.1, 0.5),
        ("rician", 0.05, 0.05, math.hypot(0.5, 0.05) - 0.05**2 / 4 / 0.5 * 2 + 0.05**2 / 2),
        ("poisson", 200.0, math.sqrt(0.5 / 200), 0.5),
        ("speckle", 0.3, 0.5 * 0.3, 0.5),
    ],
)
def test_noise_has_its_physical_strength(kind, level, deviation, mean):
    task = Denoising(kinds=[kind], **{kind: (level, level)})
    spec = task.draw(cases()[0], np.random.default_rng(0), True)
    flat = Subject({"image": torch.full((1, 300, 300), 0.5)}, {}, cases()[0].items[0])
    noisy = task.encode(flat, spec, np.random.default_rng(0)).image
    assert spec["level"] == pytest.approx(level)
    assert float(noisy.std()) == pytest.approx(deviation, rel=0.02)
    assert float(noisy.mean()) == pytest.approx(mean, abs=0.003)


def test_rician_background_is_rayleigh():
    task = Denoising(kinds=["rician"], rician=(0.1, 0.1))
    spec = task.draw(cases()[0], np.random.default_rng(0), True)
    dark = Subject({"image": torch.zeros(1, 300, 300)}, {}, cases()[0].items[0])
    noisy = task.encode(dark, spec, np.random.default_rng(0)).image
    assert float(noisy.mean()) == pytest.approx(0.1 * math.sqrt(math.pi / 2), rel=0.01)


def test_noise_differs_between_images_at_one_level_and_is_not_clipped():
    spec, subjects, pairs = episode(Denoising(gaussian=(0.15, 0.15)))
    noise = [pair.image - pair.target for pair in pairs]
    assert not torch.equal(noise[0], noise[1])
    assert [float(n.std()) for n in noise] == pytest.approx([spec["level"]] * 3, rel=0.1)
    assert float(pairs[0].image.min()) < 0
    assert torch.equal(pairs[0].target, subjects[0].images["image"])


def test_noise_levels_fill_their_range_evenly_on_a_logarithmic_scale():
    task, rng = Denoising(kinds=["poisson"], poisson=(10, 1000)), np.random.default_rng(0)
    levels = np.log10([task.draw(cases()[0], rng, True)["level"] for _ in range(2000)])
    assert np.histogram(levels, 4, (1, 3))[0] == pytest.approx(500, abs=75)


@pytest.mark.parametrize(("task", "role"), [(Denoising(), "noisy"), (Inpainting(), "voided")])
def test_images_that_are_degraded_already_are_shown_as_they_are(task, role):
    spec, (query, *_), _ = episode(task)
    real = replace(query, images={"image": query.images["image"], role: query.images["t1"]})
    pair = task.encode(real, spec, np.random.default_rng(0))
    assert torch.equal(pair.image, query.images["t1"])
    assert torch.equal(pair.target, query.images["image"])


@pytest.mark.parametrize("shape", [(64, 64), (40, 96), (12, 40, 48)])
@pytest.mark.parametrize("kind", ["boxes", "blobs", "strokes"])
def test_holes_have_their_size(kind, shape):
    rng = np.random.default_rng(0)
    for share in (0.03, 0.1, 0.2):
        holes = torch.stack([cut_hole(torch.ones(1, *shape), kind, share, rng) for _ in range(10)])
        shares = holes.flatten(1).float().mean(1)
        assert float(shares.min()) > 0.85 * share
        assert float(shares.max()) < 1.15 * share
        assert len(torch.unique(holes, dim=0)) == 10


def test_the_hole_is_filled_visible_and_known_to_the_score():
    for seed in range(6):
        _, subjects, pairs = episode(Inpainting(fill=0.9, soft=0.0), seed=seed)
        for subject, pair in zip(subjects, pairs, strict=True):
            hole = marked(pair)
            assert 0.02 < float(hole.float().mean()) < 0.25
            assert bool((pair.image[0, hole] == 0.9).all())
            assert torch.equal(pair.image[0, ~hole], subject.images["image"][0, ~hole])


@pytest.mark.parametrize("shape", [(24, 30), (12, 16, 20)])
@pytest.mark.parametrize("kind", ["boxes", "blobs", "strokes", "slabs"])
def test_soft_holes_are_those_of_a_finer_image_brought_to_size(kind, shape):
    fine, image = 2, torch.ones(1, *shape)
    cover = cover_hole(image, kind, 0.15, np.random.default_rng(3), fine)
    hole = cut_hole(image, kind, 0.15, np.random.default_rng(3), fine)
    assert hole.shape == tuple(fine * size for size in shape)
    assert torch.allclose(1 - cover, resize(torch.where(hole, 0.0, torch.ones(1, *hole.shape)), shape)[0], atol=1e-5)
    assert float(cover.mean()) == pytest.approx(0.15, rel=0.2)
    assert ((cover > 0) & (cover < 1)).any()


def test_some_holes_of_training_and_no_others_are_soft():
    def soft(training):
        specs = [
            Inpainting().draw(cases()[0], np.random.default_rng(seed), training)["fine"] > 1 for seed in range(200)
        ]
        return sum(specs) / len(specs)

    assert 0.4 < soft(True) < 0.6
    assert soft(False) == 0
    _, subjects, pairs = episode(Inpainting(kinds=["boxes"], soft=1.0))
    for subject, pair in zip(subjects, pairs, strict=True):
        image, seen = subject.images["image"], ~marked(pair)
        assert (image - pair.image)[0, seen].abs().max() < 0.06
        assert torch.equal(pair.target, image)


def test_hole_scores_see_only_the_hole():
    spec, _, (pair, *_) = episode(TASKS["given hole"])
    hole = torch.zeros(SHAPES[2], dtype=torch.bool)
    hole[12:20, 12:25] = True
    assert torch.equal(marked(pair), hole)
    outside = TASKS["given hole"].score(torch.where(hole, pair.target, 0.5), pair, spec)
    inside = TASKS["given hole"].score(torch.where(hole, pair.target - 0.1, pair.target), pair, spec)
    assert (outside["psnr_hole"], outside["mae_hole"]) == (100, 0)
    assert inside["mae_hole"] == pytest.approx(0.1, rel=1e-4)
    assert inside["psnr_hole"] == pytest.approx(20, rel=1e-4)
    assert outside["psnr"] < 100 > inside["psnr"]


@pytest.mark.parametrize("size", [1, 10, 19])
def test_holes_of_any_size_are_found_again(size):
    mask = torch.zeros(20, 20, dtype=torch.int64)
    mask[:, :size] = 1
    subject = Subject({"image": torch.ones(1, 20, 20)}, {"mask": mask}, cases()[0].items[0])
    pair = TASKS["given hole"].encode(subject, {"kind": "given"}, np.random.default_rng(0))
    assert torch.equal(marked(pair), mask > 0)


def test_without_a_hole_its_scores_are_undefined():
    image = torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(0))
    scores = Inpainting().score(image, Pair(image, image, torch.ones(1, 20, 20)), {"channels": 1})
    assert {name for name, value in scores.items() if math.isnan(value)} == {"psnr_hole", "ssim_hole", "mae_hole"}


def test_synthesis_draws_every_direction_and_never_labels():
    index, _ = cases()
    rng = np.random.default_rng(0)
    drawn = {tuple(Synthesis().draw(index, rng, True)["query"]) for _ in range(200)}
    assert drawn == {(a, b) for a in ROLES for b in ROLES if a != b}


@pytest.mark.parametrize("role", ["labels", "labels_lesions"])
def test_a_label_map_without_any_class_is_no_image(role):
    index = Index([Item(str(number), str(number), frozenset(["image", "t1", role])) for number in range(2)])
    assert image_roles(index) == ["image", "t1"]
    assert not Synthesis().accepts(Index([Item("a", "a", frozenset(["image", role]))]))


def test_joint_sources_are_channels_in_their_order():
    _, subjects, pairs = episode(TASKS["joint synthesis"])
    assert torch.equal(pairs[0].image, torch.cat([subjects[0].images["image"], subjects[0].images["t1"]]))


def test_colour_images_keep_their_channels():
    index, subjects = cases()
    colour = [replace(s, images={"image": torch.cat([s.images[role] for role in ROLES])}) for s in subjects[:2]]
    for task in (Denoising(), Inpainting()):
        rng = np.random.default_rng(0)
        spec = task.complete(task.draw(index, rng, True), colour, rng)
        pair = task.encode(colour[0], spec, rng)
        assert task.decode(pair.target, spec).image.shape[0] == spec["channels"] == 3
        with pytest.raises(ValueError, match="out_channels: 3"):
            task.decode(pair.target[:1], spec)
