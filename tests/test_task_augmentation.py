"""Changes of the task: alike in query and context, off where they are not asked for."""

import numpy as np
import pytest
import torch
from test_episodes import dataset, module, same

from mvg.data import TaskAugmentation
from mvg.data.task_augmentation import TaskChange, change_target, edges
from mvg.episode import Pair

ALWAYS = {"invert": 1.0, "edges": 1.0, "grow": 1.0, "contrast": 1.0}
NEVER = dict.fromkeys(ALWAYS, 0.0)


def square(*size):
    target = torch.zeros(1, *size)
    target[(0, *(slice(4, 9) for _ in size))] = 1
    return target


@pytest.mark.parametrize("name", ALWAYS)
def test_query_and_context_get_the_same_change(name):
    plain, changed = (
        dataset(context_size=3, task_augmentation=used) for used in (None, TaskAugmentation(**NEVER | {name: 1}))
    )
    rng = np.random.default_rng(0)
    plan = plain.plan(0, rng)
    before = plain.build(plan, np.random.default_rng(5))
    after = changed.build(plan, np.random.default_rng(5))
    facts = after.specs[0]["task_augmentation"]
    change, maker = TaskChange(**facts), TaskAugmentation()
    assert change != TaskChange()
    images = [before.image[0], *before.context_images[0]]
    targets = [before.target[0], *before.context_targets[0]]
    found = [after.image[0], *after.context_images[0]], [after.target[0], *after.context_targets[0]]
    assert all(torch.equal(maker.recolour(a, change.contrast), b) for a, b in zip(images, found[0], strict=True))
    assert all(torch.equal(change_target(a, change, True), b) for a, b in zip(targets, found[1], strict=True))


@pytest.mark.parametrize(("split", "used"), [("val", ALWAYS), ("test", ALWAYS), ("train", NEVER)])
def test_evaluation_and_probability_0_change_nothing(split, used):
    pairs = (dataset(split, task_augmentation=each) for each in (None, TaskAugmentation(**used)))
    before, after = (each.build(each.plan(0, np.random.default_rng(0)), np.random.default_rng(1)) for each in pairs)
    assert torch.equal(before.target, after.target)
    assert torch.equal(before.context_images, after.context_images)


def test_a_changed_episode_depends_on_seed_epoch_and_index_alone():
    first, second = (dataset(task_augmentation=TaskAugmentation(**ALWAYS)) for _ in range(2))
    drawn = [second[index] for index in reversed(range(16))][::-1]
    assert all(same(first[index], drawn[index]) for index in range(16))
    assert len({str(episode.specs[0]["task_augmentation"]) for episode in drawn}) > 8


@pytest.mark.parametrize("size", [(12, 13), (12, 13, 14)])
def test_targets_are_inverted_grown_shrunk_and_outlined(size):
    target = square(*size)
    assert torch.equal(change_target(target, TaskChange(invert=True), True), 1 - target)
    assert change_target(target, TaskChange(grow=1), True).sum() == 7 ** len(size)
    assert change_target(target, TaskChange(grow=-1), True).sum() == 3 ** len(size)
    outline = change_target(target, TaskChange(edges=True), True)
    assert outline.unique().tolist() == [0, 1]
    assert outline[(0, *(6 for _ in size))] == outline[(0, *(0 for _ in size))] == 0
    assert edges(torch.ones(1, *size)).max() == 0


@pytest.mark.parametrize("size", [(20, 20), (9, 9, 9)])
def test_contrast_changes_with_the_seed_and_keeps_the_range(size):
    image, maker = torch.rand(2, *size, generator=torch.Generator().manual_seed(0)), TaskAugmentation()
    changed = [maker.recolour(image, seed) for seed in range(8)]
    assert all(each.min() >= 0 and each.max() <= 1 and each.shape == image.shape for each in changed)
    assert sum(not torch.allclose(each, image, atol=0.02) for each in changed) > 4
    assert all((each.mean() - image.mean()).abs() < 0.1 for each in changed)
    assert torch.equal(maker.recolour(torch.zeros(1, *size), 3), torch.zeros(1, *size))


def test_the_data_module_hands_it_to_training_alone():
    data = module(task_augmentation=TaskAugmentation(**ALWAYS))
    assert "task_augmentation" in data.make_dataset("train")[0].specs[0]
    assert "task_augmentation" not in data.make_dataset("val")[0].specs[0]


def test_other_pairs_than_labels_keep_grey_outlines():
    pair = Pair(torch.rand(1, 9, 9), torch.rand(1, 9, 9))
    (changed,) = TaskAugmentation().apply([pair], TaskChange(edges=True), False)
    assert len(changed.target.unique()) > 2


@pytest.mark.parametrize(("options", "words"), [({"invert": 2}, "probability"), ({"radius": 0}, "at least 1")])
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        TaskAugmentation(**options)
