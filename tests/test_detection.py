"""Detection: boxes, objects and average precision."""

import math

import numpy as np
import pytest
import torch
from test_tasks import cases, episode, every_dims

from mvg.data.subject import Subject
from mvg.episode import Pair
from tasks import Detection


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
