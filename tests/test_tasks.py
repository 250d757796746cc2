"""What every task keeps."""

import json
from functools import lru_cache

import numpy as np
import pytest
import torch

from mvg.configuration import from_config, to_config
from mvg.data.source import Index, Source
from mvg.data.subject import Item, Subject
from tasks import (
    ArtefactRemoval,
    BiasCorrection,
    Deblurring,
    Denoising,
    Detection,
    Inpainting,
    LowDoseCT,
    Registration,
    Segmentation,
    SkullStripping,
    SuperResolution,
    Synthesis,
    Undersampling,
)

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
    "all noise": Denoising(kinds=["gaussian", "rician", "poisson", "speckle", "salt_pepper"]),
    "low dose CT": LowDoseCT(),
    "bias field": BiasCorrection(),
    "artefacts": ArtefactRemoval(kinds=["motion", "ghosts", "spikes"]),
    "undersampling": Undersampling(foreground=0.9),
    "super-resolution": SuperResolution(),
    "deblurring": Deblurring(unit="mm"),
    "registration": Registration(),
    "registration of contrasts": Registration(fixed="t1", curve=False),
    "skull": SkullStripping(mask="labels", classes=[1, 2]),
    "inpainting": Inpainting(),
    "slabs": Inpainting(kinds=["slabs"]),
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


FIXED = [TASKS[name] for name in ("joint synthesis", "given hole", "instances", "predefined", "skull")]
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
    best = {"psnr": 100, "mae": 0, "false": 0}
    for seed in range(4):
        spec, _, pairs = episode(task, dims, seed)
        for painted in (pairs[0].target, pairs[0].target.repeat(3, *[1] * dims)[:3]):
            scores = task.score(painted, pairs[0], spec)
            assert scores.keys() == task.metrics.keys()
            assert scores == pytest.approx({name: best.get(name.split("_")[0], 1) for name in task.metrics}, abs=1e-6)


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


AMBIGUOUS = (
    "binary",
    "binary colour",
    "union",
    "random",
    "random colour",
    "stacked",
    "synthesis",
    "detection",
    "outlines",
)


@pytest.mark.parametrize("name", TASKS)
def test_swap_shows_the_same_images_with_other_targets(name):
    task = TASKS[name]
    for seed in range(4):
        spec, subjects, pairs = episode(task, seed=seed, training=False)
        swapped = task.swap(spec, subjects, np.random.default_rng(0))
        if name not in AMBIGUOUS:
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
