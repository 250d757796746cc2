"""Detection as painting: boxes painted over objects, read back as connected components."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from mvg import metrics
from mvg.data.source import Index
from mvg.data.subject import Subject
from mvg.episode import Answer, Pair, Spec
from mvg.task import Task
from tasks.labels import Balance, check_labels, draw_class, key, known_classes, other_class
from tasks.painting import as_channels, balanced_weight, check_share, gather, truth


class Detection(Task):
    """Paints the bounding boxes of objects in white on black.

    Objects are the connected components of the class that was drawn (diagonal neighbours connect), or the instances
    that the data set numbers. A painted answer is cut at `threshold`; each connected component (diagonal neighbours
    do not connect) is a box, and its mean painted value the box's score. Painted boxes that touch are one box: the
    truth is read from its painting in the same way.

    Args:
        role: Image, or list of images that become the channels of one.
        labels: Label role, of classes or of instances.
        instances: Whether `labels` numbers the objects instead of naming their class.
        style: "filled" boxes, or their "outline" of two pixels inside the box.
        classes: Classes to ask for; all that occur by default. Not for instances.
        negatives: Share of training episodes whose query need not show the class that its context shows, [0, 1].
        threshold: Painted value above which a pixel belongs to a box, (0, 1).
        min_size: Smallest number of pixels of an object, and of a component of the answer.
        foreground: Least share of the loss weight that painted pixels get, however few they are; [0, 1).
        balance: "class" asks for all classes equally often, "item" as often as they occur.
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    is_label: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, bool]] = {"ap50": True, "iou": True, "sensitivity": True, "false_positives": False}
    primary: ClassVar[str] = "ap50"

    def __init__(
        self,
        role: str | list[str] = "image",
        labels: str = "labels",
        instances: bool = False,
        style: Literal["filled", "outline"] = "filled",
        classes: list[int] | None = None,
        negatives: float = 0.0,
        threshold: float = 0.5,
        min_size: int = 1,
        foreground: float = 0.1,
        balance: Balance = "class",
        mim: float = 0.9,
    ) -> None:
        if style not in ("filled", "outline"):
            raise ValueError(f"`style` must be filled or outline, got {style!r}")
        if instances and classes is not None:
            raise ValueError("`classes` cannot be chosen where `labels` numbers instances")
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` must be in (0, 1), got {threshold}")
        if not 0 <= foreground < 1:
            raise ValueError(f"`foreground` must be in [0, 1), got {foreground}")
        check_share("negatives", negatives)
        check_share("mim", mim)
        self.roles = [role] if isinstance(role, str) else list(role)
        self.labels, self.instances, self.style, self.classes = labels, instances, style, classes
        self.negatives, self.threshold, self.min_size = negatives, threshold, min_size
        self.foreground, self.balance, self.mim = foreground, balance, mim

    def accepts(self, index: Index) -> bool:
        """Says whether an index offers the images and at least one of the classes, or instances."""
        known = known_classes(index, self.labels)
        offered = self.labels in index.keys if self.instances else bool(known)
        return (
            offered and index.keys.issuperset(self.roles) and (self.classes is None or bool({*self.classes} & {*known}))
        )

    def draw(self, index: Index, rng: np.random.Generator, training: bool) -> Spec:
        """Draws the class whose objects are asked for."""
        required = [*self.roles, self.labels]
        spec = {"query": required, "context": required, "inputs": self.roles, "class": None}
        if self.instances:
            return spec
        asked = draw_class(index, self.roles, self.labels, self.classes, self.balance, rng)
        negative = rng.random() < self.negatives and training
        shown = [*required, key(self.labels, asked)]
        highest = known_classes(index, self.labels)[-1]
        return {**spec, "query": required if negative else shown, "context": shown, "class": asked, "highest": highest}

    def encode(self, subject: Subject, spec: Spec, rng: np.random.Generator) -> Pair:
        """Paints the boxes of one subject; the pair has no target where there is no label map."""
        image, labels = gather(subject, spec["inputs"]), subject.labels.get(self.labels)
        if labels is None:
            return Pair(image)
        if self.instances:
            objects = labels.numpy()
        else:
            check_labels(labels, spec["highest"], self.labels, subject.item.case)
            objects = _components((labels == spec["class"]).numpy(), diagonal=True)
        boxes = [box for number, box in _boxes(objects) if (objects[box] == number).sum() >= self.min_size]
        target = paint_boxes(tuple(labels.shape), boxes, self.style)[None]
        return Pair(image, target, balanced_weight(target[0] > 0, self.foreground))

    def decode(self, painted: Tensor, spec: Spec) -> Answer:
        """Reads boxes and their scores, in the order of the first pixel of each."""
        boxes, scores = self._read(painted)
        return Answer(boxes=boxes, scores=scores)

    def _read(self, painted: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes `(n, 2 * dims)` and scores `(n,)` of a painted image `(C_out, *S)`."""
        values = as_channels(painted, 1)[0].detach().float().cpu().clamp(0, 1).numpy()
        components = _components(values > self.threshold, diagonal=False)
        boxes, scores = [], []
        for number, box in _boxes(components):
            inside = components[box] == number
            if inside.sum() >= self.min_size:
                boxes.append([*(side.start for side in box), *(side.stop for side in box)])
                scores.append(float(values[box][inside].mean()))
        found = torch.tensor(boxes, dtype=torch.float32).reshape(len(boxes), 2 * values.ndim)
        return found, torch.tensor(scores, dtype=torch.float32)

    def score(self, painted: Tensor, pair: Pair, spec: Spec) -> dict[str, float]:
        """Average precision and sensitivity at an overlap of one half, mean best overlap, and false boxes.

        `iou` is the mean over true boxes of the highest overlap with any answered one. Where there are no true boxes,
        `ap50` and `iou` are 1 if none was answered, else 0, and `sensitivity` is NaN. `false_positives` is a number of
        boxes.
        """
        boxes, scores = self._read(painted)
        true, _ = self._read(truth(pair, 1))
        hits = int(metrics.match_boxes(boxes, scores, true).sum())
        if len(true):
            overlap = float(metrics.box_iou(boxes, true).amax(0).mean()) if len(boxes) else 0.0
        else:
            overlap = 0.0 if len(boxes) else 1.0
        return {
            "ap50": metrics.average_precision(boxes, scores, true),
            "iou": overlap,
            "sensitivity": hits / len(true) if len(true) else float("nan"),
            "false_positives": float(len(boxes) - hits),
        }

    def swap(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> Spec | None:
        """Asks for the objects of another class; None for instances."""
        if self.instances:
            return None
        other = other_class(subjects, self.labels, [spec["class"]], self.classes, rng)
        if other is None:
            return None
        offered = [*self.roles, self.labels]
        return {**spec, "query": [*offered, key(self.labels, other)], "context": offered, "class": other}


def paint_boxes(
    shape: tuple[int, ...], boxes: Sequence[tuple[slice, ...]], style: Literal["filled", "outline"], width: int = 2
) -> Tensor:
    """Paints boxes in white on black.

    Args:
        shape: Shape S of the image.
        boxes: A slice for each axis.
        style: "filled" or "outline".
        width: Pixels of an outline, inside the box.

    Returns:
        `(*S)`, float32.
    """
    painted = torch.zeros(shape)
    for box in boxes:
        if style == "filled":
            painted[box] = 1
            continue
        for axis, side in itertools.product(range(len(shape)), ("low", "high")):
            edge = list(box)
            low, high = box[axis].start, box[axis].stop
            edge[axis] = slice(low, min(low + width, high)) if side == "low" else slice(max(high - width, low), high)
            painted[tuple(edge)] = 1
    return painted


def _components(mask: np.ndarray, diagonal: bool) -> np.ndarray:
    """Numbers the connected components of a mask `(*S)` from 1."""
    structure = ndimage.generate_binary_structure(mask.ndim, mask.ndim if diagonal else 1)
    components: np.ndarray = ndimage.label(mask, structure)[0]
    return components


def _boxes(objects: np.ndarray) -> list[tuple[int, tuple[slice, ...]]]:
    """Numbers of objects with their bounding boxes."""
    return [(number, box) for number, box in enumerate(ndimage.find_objects(objects), start=1) if box is not None]
