"""What every task keeps, and what each of them promises by itself."""

import json
import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from mvg.configuration import from_config, to_config
from mvg.data.source import Index, Source
from mvg.data.subject import Item, Subject
from mvg.episode import Pair
from mvg.objective import Objective
from tasks import Denoising, Detection, Inpainting, Segmentation, Synthesis
from tasks.inpainting import cut_hole, hole_of
from tasks.painting import balanced_weight
from tasks.palette import capacity, fixed_colours, nearest, random_colours

ROLES = ("image", "t1", "t2")
SHAPES = {2: (40, 48), 3: (10, 40, 48)}


class Phantoms(Source):
    """Three contrasts of an ellipsoid with three structures that never touch, one case a patient."""

    def __init__(self, dims=2):
        self.dims, self.name = dims, f"phantoms{dims}"
        self.class_names = {"labels": {1: "left", 2: "right", 3: "small"}, "mask": {1: "hole"}}

    def items(self, split, cohort=0):
        keys = frozenset([*ROLES, "labels", "mask", "mask=1", *(f"labels={k}" for k in (1, 2, 3))])
        return [Item(f"case{number}", f"patient{number}", keys) for number in range(6)]

    def read(self, item):
        rng, shape = np.random.default_rng(int(item.case[4:])), SHAPES[self.dims]
        labels = torch.zeros(shape, dtype=torch.int64)
        depth = [slice(2, 8)] * (self.dims - 2)
        for k, (row, column, size) in {1: (8, 8, 10), 2: (20, 30, 9), 3: (30, 10, 3)}.items():
            top, left = row + int(rng.integers(3)), column + int(rng.integers(3))
            labels[(*depth, slice(top, top + size), slice(left, left + size))] = k
        body = torch.zeros(shape)
        body[..., 2:-2, 2:-2] = 0.2
        texture = torch.from_numpy(rng.random(shape, dtype=np.float32)) / 10
        values = {role: torch.tensor(rng.uniform(0.3, 0.65, 3)).float() for role in ROLES}
        skin = (body + texture) * (body > 0)
        images = {role: (torch.cat([torch.zeros(1), v])[labels] + skin)[None] for role, v in values.items()}
        mask = torch.zeros(shape, dtype=torch.int64)
        mask[..., 12:20, 12:25] = 1
        return Subject(images, {"labels": labels, "mask": mask}, item, (1.0,) * self.dims)


TASKS = {
    "binary": Segmentation(),
    "binary colour": Segmentation(channels=3, negatives=0.5),
    "union": Segmentation(union=1.0),
    "random": Segmentation(scheme="random"),
    "random colour": Segmentation(scheme="random", channels=3, min_distance=0.3, subset=0.5),
    "predefined": Segmentation(scheme="predefined", min_distance=10 / 255),
    "stacked": Segmentation(role=["t1", "t2"], foreground=0.0),
    "synthesis": Synthesis(),
    "joint synthesis": Synthesis(sources=["image", "t1"], targets=["t2"], joint=True),
    "gaussian": Denoising(),
    "all noise": Denoising(kinds=["gaussian", "rician", "poisson", "speckle"]),
    "inpainting": Inpainting(),
    "given hole": Inpainting(kinds=["given"]),
    "detection": Detection(),
    "outlines": Detection(style="outline"),
    "instances": Detection(instances=True),
}


@lru_cache
def cases(dims=2):
    source = Phantoms(dims)
    items = source.items("train")
    return Index(items), [source.read(item) for item in items]


def episode(task, dims=2, seed=0, training=True, size=3):
    """A completed spec, its subjects (query first) and their pairs."""
    index, subjects = cases(dims)
    rng = np.random.default_rng(seed)
    spec = task.complete(task.draw(index, rng, training), subjects[:size], rng)
    return spec, subjects[:size], [task.encode(subject, spec, rng) for subject in subjects[:size]]


def same(first, second):
    pairs = [zip(vars(a).values(), vars(b).values(), strict=True) for a, b in zip(first, second, strict=True)]
    return all(one is two is None or torch.equal(one, two) for pair in pairs for one, two in pair)


FIXED = [TASKS[name] for name in ("joint synthesis", "given hole", "instances", "predefined")]
"""Tasks that may show the same in every episode."""

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
every_dims = pytest.mark.parametrize("dims", [2, 3])


@every_task
@every_dims
def test_pairs_keep_the_contract(task, dims):
    for seed in range(4):
        for pair in episode(task, dims, seed)[2]:
            assert pair.image.shape[1:] == pair.target.shape[1:] == SHAPES[dims]
            assert pair.image.dtype == pair.target.dtype == torch.float32
            assert bool(pair.image.isfinite().all())
            assert 0 <= float(pair.target.min()) < float(pair.target.max()) <= 1
            if pair.weight is not None:
                assert pair.weight.shape == (1, *SHAPES[dims])
                assert pair.weight.dtype == torch.float32
                assert float(pair.weight.min()) >= 0 < float(pair.weight.sum())


@every_task
@every_dims
def test_a_perfect_painting_gets_the_perfect_score(task, dims):
    best = {"psnr": 100, "psnr_hole": 100, "mae": 0, "mae_hole": 0, "false_positives": 0}
    for seed in range(4):
        spec, _, pairs = episode(task, dims, seed)
        for painted in (pairs[0].target, pairs[0].target.repeat(3, *[1] * dims)[:3]):
            scores = task.score(painted, pairs[0], spec)
            assert scores.keys() == task.metrics.keys()
            assert scores == pytest.approx({name: best.get(name, 1) for name in task.metrics}, abs=1e-6)


@every_task
def test_a_worse_painting_gets_a_worse_score(task):
    spec, _, pairs = episode(task)
    good, bad = (task.score(p, pairs[0], spec) for p in (pairs[0].target, pairs[0].target.flip(-1).roll(5, -2)))
    assert task.primary in task.metrics
    for name, higher in task.metrics.items():
        assert bad[name] <= good[name] if higher else bad[name] >= good[name]
    assert bad[task.primary] != good[task.primary]


@every_task
def test_decoded_answers_are_the_targets(task):
    spec, subjects, pairs = episode(task)
    answer = task.decode(pairs[0].target, spec)
    if answer.labels is not None:
        asked = [k for classes in spec["classes"] for k in classes]
        true = subjects[0].labels["labels"]
        assert torch.equal(answer.labels > 0, torch.isin(true, torch.tensor(asked)))
        shown = answer.labels > 0
        assert len(spec["classes"]) < len(asked) or torch.equal(answer.labels[shown], true[shown])
    elif answer.image is not None:
        assert torch.equal(answer.image, pairs[0].target)
    else:
        assert answer.boxes.shape == (len(answer.scores), 4)
        assert answer.scores.tolist() == [1.0] * len(answer.boxes) != []


@every_task
def test_specs_are_json_and_replay_the_episode(task):
    index, subjects = cases()
    spec, _, _ = episode(task)
    stored = json.loads(json.dumps(spec, allow_nan=False))
    first, second = ([task.encode(s, v, np.random.default_rng(1)) for s in subjects] for v in (spec, stored))
    assert same(first, second)
    assert {*stored["query"], *stored["context"]} <= index.keys
    assert stored["query"]
    assert stored["context"]


@every_task
def test_everything_random_comes_from_the_generator(task):
    (spec, _, first), (again, _, second) = episode(task), episode(task)
    assert spec == again
    assert same(first, second)
    assert len({json.dumps(episode(task, seed=seed)[0]) for seed in range(8)}) > 1 or task in FIXED


@every_task
def test_subjects_are_not_modified(task):
    _, subjects = cases()
    tensors = [tensor for s in subjects for tensor in (*s.images.values(), *s.labels.values())]
    before = [tensor.clone() for tensor in tensors]
    spec, _, (pair, *_) = episode(task)
    task.score(pair.target, pair, spec)
    task.swap(spec, subjects, np.random.default_rng(0))
    assert all(map(torch.equal, tensors, before))


@every_task
def test_a_query_without_truth_has_no_target(task):
    spec, (query, *_), _ = episode(task, training=False)
    asked = Subject({role: query.images["image"] for role in spec["inputs"]}, {}, query.item)
    pair = task.encode(asked, spec, np.random.default_rng(0))
    assert pair.target is None
    assert torch.equal(pair.image[:1], query.images["image"])
    with pytest.raises(ValueError, match="cannot be scored"):
        task.score(torch.zeros(3, *SHAPES[2]), pair, spec)


UNAMBIGUOUS = ("predefined", "joint synthesis", "instances", "gaussian", "all noise", "inpainting", "given hole")


@pytest.mark.parametrize("name", TASKS)
def test_swap_shows_the_same_images_with_other_targets(name):
    task = TASKS[name]
    for seed in range(4):
        spec, subjects, pairs = episode(task, seed=seed, training=False)
        swapped = task.swap(spec, subjects, np.random.default_rng(0))
        if name in UNAMBIGUOUS:
            assert swapped is None
            continue
        others = [task.encode(subject, swapped, np.random.default_rng(0)) for subject in subjects]
        assert all(torch.equal(a.image, b.image) for a, b in zip(pairs, others, strict=True))
        assert not any(torch.equal(a.target, b.target) for a, b in zip(pairs, others, strict=True))
        own, other = task.score(pairs[0].target, pairs[0], spec), task.score(others[0].target, pairs[0], spec)
        assert other[task.primary] < 0.9 * own[task.primary]
        assert task.score(others[0].target, others[0], swapped) == pytest.approx(own)


def test_a_union_of_everything_has_no_swap():
    swaps = []
    for seed in range(10):
        spec, subjects, _ = episode(TASKS["union"], seed=seed)
        swaps.append((len(spec["classes"][0]), TASKS["union"].swap(spec, subjects, np.random.default_rng(0)) is None))
    assert set(swaps) == {(2, False), (3, True)}


@every_task
def test_tasks_survive_configuration(task):
    rebuilt = from_config(json.loads(json.dumps(to_config(task))))
    assert to_config(rebuilt) == to_config(task)
    assert same(episode(task)[2], episode(rebuilt)[2])


@every_task
def test_an_index_without_the_roles_is_not_accepted(task):
    assert task.accepts(cases()[0])
    assert not task.accepts(Index([Item("a", "a", frozenset(["other"]))]))
    assert not task.accepts(Index([]))


def test_drawing_fails_by_name_where_nothing_is_offered():
    index = Index([Item("a", "a", frozenset(["image", "labels", "labels=2"]))])
    rng = np.random.default_rng(0)
    cut = TASKS["given hole"]
    for task, text in [(Segmentation(classes=[1]), r"classes \[1\]"), (Synthesis(), "a source"), (cut, "the hole")]:
        assert not task.accepts(index)
        with pytest.raises(ValueError, match=text):
            task.draw(index, rng, True)


@every_task
def test_a_missing_image_is_named(task):
    spec, (query, *_), _ = episode(task)
    with pytest.raises(ValueError, match="case 'case0' holds no image"):
        task.encode(Subject({"ct": query.images["image"]}, query.labels, query.item), spec, np.random.default_rng(0))


# Segmentation


def test_random_colours_change_between_episodes_and_not_inside_one():
    task = TASKS["random"]
    palettes = [tuple(map(tuple, episode(task, seed=seed)[0]["colours"])) for seed in range(20)]
    assert len(set(palettes)) == 20
    for seed in range(5):
        spec, subjects, pairs = episode(task, seed=seed)
        for subject, pair in zip(subjects, pairs, strict=True):
            for (k,), colour in zip(spec["classes"], spec["colours"], strict=True):
                assert pair.target[:, subject.labels["labels"] == k].unique().tolist() == pytest.approx(colour)


@pytest.mark.parametrize(("channels", "distance"), [(1, 0.1), (1, 1 / 3), (3, 0.2), (3, 0.5), (3, 1.0)])
def test_random_colours_keep_their_distance_up_to_capacity(channels, distance):
    for count in {1, 3, min(40, capacity(channels, distance))}:
        drawn = random_colours(count, channels, distance, np.random.default_rng(count))
        colours = torch.tensor([[0.0] * channels, *drawn])
        gaps = torch.cdist(colours.double(), colours.double()) + 9 * torch.eye(count + 1)
        assert float(gaps.min()) >= distance - 1e-6
        assert 0 <= float(colours.min()) <= float(colours.max()) <= 1


def test_too_many_colours_are_an_error_with_the_number_that_fits():
    with pytest.raises(ValueError, match="only 10 do"):
        random_colours(11, 1, 0.1, np.random.default_rng(0))


def test_random_colours_use_the_whole_range():
    rng = np.random.default_rng(0)
    values = np.array([random_colours(3, 1, 0.1, rng) for _ in range(300)]).ravel()
    assert values.min() < 0.12
    assert values.max() > 0.98


@pytest.mark.parametrize("channels", [1, 3])
def test_nearest_colour_is_exact_under_noise_below_half_the_distance(channels):
    colours = random_colours(6, channels, 0.15, np.random.default_rng(0))
    numbers = torch.randint(0, 7, (30, 30), generator=torch.Generator().manual_seed(0))
    noise = torch.randn(channels, 30, 30, generator=torch.Generator().manual_seed(1))
    noise = 0.0749 * noise / noise.square().sum(0).sqrt()
    painted = torch.tensor([[0.0] * channels, *colours])[numbers].movedim(-1, 0) + noise
    assert torch.equal(nearest(painted, colours), numbers)


def test_predefined_colours_are_the_released_grey_and_offsets_separate_sources():
    assert fixed_colours([1, 15, 25], 1, 10 / 255) == [[pytest.approx(10 * k / 255)] for k in (1, 15, 25)]
    first, second = (Segmentation(scheme="predefined", min_distance=10 / 255, offset=offset) for offset in (0, 3))
    palettes = [{tuple(colour) for colour in episode(task)[0]["colours"]} for task in (first, second)]
    assert [len(palette) for palette in palettes] == [3, 3]
    assert not palettes[0] & palettes[1]
    with pytest.raises(ValueError, match="only 25 do"):
        fixed_colours([255], 1, 10 / 255)


def test_only_classes_that_the_context_shows_are_asked_for():
    index, subjects = cases()
    without = [replace(s, labels={"labels": s.labels["labels"] * (s.labels["labels"] != 3)}) for s in subjects[1:3]]
    task, rng = Segmentation(scheme="random", classes=[2, 3]), np.random.default_rng(0)
    spec = {**task.draw(index, rng, True), "classes": [[2]]}
    assert task.complete(spec, [subjects[0], *without], rng)["classes"] == [[2]]
    assert task.complete(spec, subjects, rng)["classes"] == [[2], [3]]


def test_options_limit_classes():
    for seed in range(10):
        limited = Segmentation(scheme="random", max_classes=2)
        assert len(episode(limited, seed=seed)[0]["classes"]) == 2
        assert len(episode(TASKS["union"], seed=seed)[0]["classes"][0]) in (2, 3)
        assert episode(TASKS["union"], seed=seed, training=False)[0]["partly"] is False
        assert episode(Segmentation(classes=[2]), seed=seed)[0]["classes"] == [[2]]
    sizes = {len(episode(Segmentation(scheme="random", subset=1.0), seed=seed)[0]["classes"]) for seed in range(20)}
    assert sizes == {1, 2, 3}


def test_negatives_free_only_the_query():
    index, _ = cases()
    for share, expected in [(0.0, 0), (0.3, 300), (1.0, 1000)]:
        rng, task = np.random.default_rng(0), Segmentation(negatives=share)
        specs = [task.draw(index, rng, True) for _ in range(1000)]
        assert sum(len(spec["query"]) < 3 for spec in specs) == pytest.approx(expected, abs=50)
        assert all(spec["context"][-1] == f"labels={spec['classes'][0][0]}" for spec in specs)


def test_classes_are_balanced_by_class_or_by_item():
    keys = [frozenset(["image", "labels", f"labels={1 if number < 90 else 2}"]) for number in range(100)]
    items = [Item(str(number), str(number), offered) for number, offered in enumerate(keys)]
    shares = {}
    for balance in ("class", "item"):
        rng, task = np.random.default_rng(0), Segmentation(balance=balance)
        shares[balance] = np.mean([task.draw(Index(items), rng, True)["classes"] == [[1]] for _ in range(500)])
    assert shares == {"class": pytest.approx(0.5, abs=0.07), "item": pytest.approx(0.9, abs=0.05)}


def test_classes_of_one_patient_are_drawn_only_if_there_is_no_other():
    rare = [Item(f"{n}", "same", frozenset(["image", "labels", "labels=1"])) for n in range(3)]
    common = [Item(f"c{n}", f"{n}", frozenset(["image", "labels", "labels=2"])) for n in range(3)]
    rng = np.random.default_rng(0)
    assert {Segmentation().draw(Index(rare + common), rng, True)["classes"][0][0] for _ in range(30)} == {2}
    assert Segmentation().draw(Index(rare), rng, True)["classes"] == [[1]]


def test_a_mask_of_255_is_refused():
    spec, (query, *_), _ = episode(Segmentation())
    for factor, value in [(255, 765), (-1, -3)]:
        broken = replace(query, labels={"labels": query.labels["labels"] * factor})
        for task in (Segmentation(), Detection()):
            with pytest.raises(ValueError, match=rf"value {value}, .* classes 0 to 3; .* 0/255"):
                task.encode(broken, {**spec, "class": 1}, np.random.default_rng(0))


def test_a_small_organ_gets_its_share_of_the_gradient():
    target = torch.zeros(1, 1, 64, 64)
    target[..., 10:15, 20:30] = 1
    weight = balanced_weight(target[0, 0] > 0, 0.1)
    painted = torch.full_like(target, 0.5, requires_grad=True)
    Objective()(painted, target, weight[None], torch.tensor([True])).sum().backward()
    gradient = painted.grad.abs()
    assert float(gradient[target > 0].sum() / gradient.sum()) == pytest.approx(0.1, abs=1e-4)
    assert float(weight.mean()) == pytest.approx(1)


def test_weights_are_a_floor():
    mask = torch.zeros(10, 10, dtype=torch.bool)
    assert balanced_weight(mask, 0.5) is None
    mask[:6] = True
    assert balanced_weight(mask, 0.5) is None
    assert balanced_weight(~mask, 0.5)[0, ~mask].sum() == pytest.approx(50)


def test_edge_table_of_segmentation():
    spec = {"classes": [[1], [2]], "colours": [[0.5], [1.0]]}
    blank, both = torch.zeros(1, 4, 4), torch.tensor([0.5, 1.0]).view(1, 1, 2).repeat(1, 4, 2)
    scores = [Segmentation().score(p, Pair(t, t), spec) for p, t in [(blank, blank), (both, blank), (blank, both)]]
    assert scores == [{"dice": 1, "iou": 1}, {"dice": 0, "iou": 0}, {"dice": 0, "iou": 0}]
    assert Segmentation().score(both.clamp(max=0.5), Pair(both, both), spec)["dice"] == pytest.approx(1 / 3)


# Image tasks


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
        _, subjects, pairs = episode(Inpainting(fill=0.9), seed=seed)
        for subject, pair in zip(subjects, pairs, strict=True):
            hole = hole_of(pair)
            assert 0.02 < float(hole.float().mean()) < 0.25
            assert bool((pair.image[0, hole] == 0.9).all())
            assert torch.equal(pair.image[0, ~hole], subject.images["image"][0, ~hole])


def test_hole_scores_see_only_the_hole():
    spec, _, (pair, *_) = episode(TASKS["given hole"])
    hole = torch.zeros(SHAPES[2], dtype=torch.bool)
    hole[12:20, 12:25] = True
    assert torch.equal(hole_of(pair), hole)
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
    assert torch.equal(hole_of(pair), mask > 0)


def test_without_a_hole_its_scores_are_undefined():
    image = torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(0))
    scores = Inpainting().score(image, Pair(image, image, torch.ones(1, 20, 20)), {"channels": 1})
    assert {name for name, value in scores.items() if math.isnan(value)} == {"psnr_hole", "ssim_hole", "mae_hole"}


def test_synthesis_draws_every_direction_and_never_labels():
    index, _ = cases()
    rng = np.random.default_rng(0)
    drawn = {tuple(Synthesis().draw(index, rng, True)["query"]) for _ in range(200)}
    assert drawn == {(a, b) for a in ROLES for b in ROLES if a != b}


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


# Detection


@pytest.mark.parametrize("style", ["filled", "outline"])
@every_dims
def test_boxes_bound_their_objects(style, dims):
    task = Detection(style=style)
    for seed in range(5):
        spec, subjects, pairs = episode(task, dims, seed)
        places = (subjects[0].labels["labels"] == spec["class"]).nonzero()
        corners = torch.cat([places.amin(0), places.amax(0) + 1]).float()
        assert torch.equal(task.decode(pairs[0].target, spec).boxes, corners[None])


def test_every_instance_and_every_component_is_an_object():
    labels = torch.zeros(20, 20, dtype=torch.int64)
    labels[2:6, 2:6], labels[10:12, 10:18], labels[15, 2], labels[16, 3] = 1, 2, 2, 2
    subject = Subject({"image": torch.ones(1, 20, 20)}, {"labels": labels}, cases()[0].items[0])
    counts = []
    for task in (Detection(), Detection(min_size=3), Detection(instances=True)):
        spec = {"inputs": ["image"], "class": 2, "highest": 3}
        counts.append(len(task.decode(task.encode(subject, spec, np.random.default_rng(0)).target, spec).boxes))
    assert counts == [2, 1, 2]


def test_detection_scores_follow_the_painted_value():
    target, painted = torch.zeros(1, 30, 30), torch.zeros(1, 30, 30)
    target[:, 2:10, 2:10], target[:, 15:25, 15:25] = 1, 1
    painted[:, 2:10, 2:10], painted[:, 2:6, 20:24], painted[:, 15:25, 15:25] = 0.9, 0.8, 0.7
    scores = Detection().score(painted, Pair(target, target), {})
    assert Detection().decode(painted, {}).scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert scores == pytest.approx({"ap50": (1 + 2 / 3) / 2, "iou": 1, "sensitivity": 1, "false_positives": 1})


def test_edge_table_of_detection():
    blank, box = torch.zeros(1, 9, 9), torch.zeros(1, 9, 9)
    box[:, 2:5, 2:5] = 1
    task = Detection()
    nothing, false, missed = (task.score(p, Pair(t, t), {}) for p, t in [(blank, blank), (box, blank), (blank, box)])
    assert (nothing["ap50"], nothing["iou"], nothing["false_positives"]) == (1, 1, 0)
    assert (false["ap50"], false["iou"], false["false_positives"]) == (0, 0, 1)
    assert (missed["ap50"], missed["iou"], missed["sensitivity"]) == (0, 0, 0)
    assert math.isnan(nothing["sensitivity"])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Segmentation(scheme="grey"), "`scheme`"),
        (lambda: Segmentation(negatives=2.0), "`negatives`"),
        (lambda: Segmentation(min_distance=0.0), "`min_distance`"),
        (lambda: Segmentation(foreground=1.0), "`foreground`"),
        (lambda: Segmentation(max_classes=0), "`max_classes`"),
        (lambda: Synthesis(joint=True), "`joint`"),
        (lambda: Denoising(kinds=["blur"]), "`kinds`"),
        (lambda: Denoising(gaussian=(0.2, 0.1)), "`gaussian`"),
        (lambda: Inpainting(kinds=[]), "`kinds`"),
        (lambda: Inpainting(share=(0.1, 1.0)), "`share`"),
        (lambda: Detection(style="round"), "`style`"),
        (lambda: Detection(instances=True, classes=[1]), "`classes`"),
    ],
)
def test_wrong_arguments_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()
