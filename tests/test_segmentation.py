"""Segmentation: colours, classes, negatives, weights and scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_tasks import TASKS, cases, episode

from mvg.data.source import Index
from mvg.data.subject import Item
from mvg.episode import Pair
from mvg.objective import Objective
from tasks import Detection, Segmentation
from tasks.painting import balanced_weight
from tasks.palette import capacity, fixed_colours, nearest, random_colours


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
