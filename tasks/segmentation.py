"""Segmentation as painting: classes become colours that only the context explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mvg import metrics
from mvg.data.source import Index
from mvg.data.subject import Subject
from mvg.episode import Answer, Pair, Spec
from mvg.task import Task
from tasks.labels import Balance, check_labels, draw_class, key, known_classes, other_class, present
from tasks.painting import as_channels, balanced_weight, check_share, gather, truth
from tasks.palette import check_distance, fixed_colours, nearest, paint, random_colours


class Segmentation(Task):
    """Paints structures.

    Every episode is drawn around one class that the query and all its context images show. Schemes:

    - "binary": that class in white on black, or the union of several.
    - "random": all classes that the context shows, each in a colour drawn for this episode, the same in query and
      context.
    - "predefined": the same classes, each in a colour that never changes. `min_distance: 0.0392156862745098` paints
      class k in the grey value 10 k / 255.

    Black is background; a painted pixel belongs to the nearest colour, black included.

    Args:
        role: Image, or list of images that become the channels of one.
        labels: Label role.
        scheme: How classes become colours.
        channels: 1 paints in grey values, 3 in colours.
        classes: Classes to ask for; all that occur by default. Others are background.
        max_classes: Largest number of classes in one episode; all by default.
        union: Share of training episodes of the scheme "binary" that ask for several classes as one, [0, 1].
        subset: Share of training episodes of the other schemes that ask for a random part of the classes, [0, 1].
        negatives: Share of training episodes whose query need not show the class that its context shows, [0, 1].
        min_distance: Smallest Euclidean distance between two colours, black included, (0, 1].
        offset: Colour number of class 0 in the scheme "predefined": sources with offsets 0 and 15 share no colour
            if the first has at most 15 classes.
        foreground: Least share of the loss weight that the painted pixels get, however few they are; [0, 1).
        balance: "class" asks for all classes equally often, "item" as often as they occur.
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    is_label: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, bool]] = {"dice": True, "iou": True}
    primary: ClassVar[str] = "dice"

    def __init__(
        self,
        role: str | list[str] = "image",
        labels: str = "labels",
        scheme: Literal["binary", "random", "predefined"] = "binary",
        channels: Literal[1, 3] = 1,
        classes: list[int] | None = None,
        max_classes: int | None = None,
        union: float = 0.0,
        subset: float = 0.0,
        negatives: float = 0.0,
        min_distance: float = 0.1,
        offset: int = 0,
        foreground: float = 0.1,
        balance: Balance = "class",
        mim: float = 0.0,
    ) -> None:
        if scheme not in ("binary", "random", "predefined"):
            raise ValueError(f"`scheme` must be binary, random or predefined, got {scheme!r}")
        if max_classes is not None and max_classes < 1:
            raise ValueError(f"`max_classes` must be at least 1, got {max_classes}")
        if not 0 <= foreground < 1:
            raise ValueError(f"`foreground` must be in [0, 1), got {foreground}")
        for name, value in {"union": union, "subset": subset, "negatives": negatives, "mim": mim}.items():
            check_share(name, value)
        check_distance(min_distance)
        self.roles = [role] if isinstance(role, str) else list(role)
        self.labels, self.scheme, self.channels, self.classes = labels, scheme, channels, classes
        self.max_classes, self.union, self.subset, self.negatives = max_classes, union, subset, negatives
        self.min_distance, self.offset, self.foreground = min_distance, offset, foreground
        self.balance, self.mim = balance, mim

    def accepts(self, index: Index) -> bool:
        """Says whether an index offers the images and at least one of the classes."""
        known = known_classes(index, self.labels)
        return index.keys.issuperset(self.roles) and any(self.classes is None or k in self.classes for k in known)

    def draw(self, index: Index, rng: np.random.Generator, training: bool) -> Spec:
        """Draws the class around which the episode is built."""
        asked = draw_class(index, self.roles, self.labels, self.classes, self.balance, rng)
        negative = rng.random() < self.negatives and training
        partly = rng.random() < (self.union if self.scheme == "binary" else self.subset)
        required = [*self.roles, self.labels, key(self.labels, asked)]
        return {
            "query": required[:-1] if negative else required,
            "context": required,
            "inputs": self.roles,
            "classes": [[asked]],
            "colours": [[1.0] * self.channels],
            "highest": known_classes(index, self.labels)[-1],
            "partly": bool(training and partly),
        }

    def complete(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> Spec:
        """Draws which of the classes that the context shows are asked for, and in which colours."""
        if self.scheme == "binary" and not spec["partly"]:
            return spec
        chosen = self._choose(spec, subjects, rng)
        if self.scheme == "binary":
            return {**spec, "classes": [chosen]}
        if self.scheme == "random":
            colours = random_colours(len(chosen), self.channels, self.min_distance, rng)
        else:
            colours = fixed_colours([self.offset + k for k in chosen], self.channels, self.min_distance)
        return {**spec, "classes": [[k] for k in chosen], "colours": colours}

    def _choose(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> list[int]:
        """The drawn class and others that the context shows, ascending."""
        asked = int(spec["classes"][0][0])
        shown = {k for classes in present(subjects[1:], self.labels) for k in classes} - {asked}
        others = sorted(k for k in shown if self.classes is None or k in self.classes)
        count = min(len(others) + 1, self.max_classes or len(others) + 1)
        if spec["partly"] and count > 1:
            count = int(rng.integers(2 if self.scheme == "binary" else 1, count + 1))
        return sorted([asked, *rng.permutation(others)[: count - 1].tolist()])

    def encode(self, subject: Subject, spec: Spec, rng: np.random.Generator) -> Pair:
        """Paints the classes of one subject; the pair has no target where there is no label map."""
        image, labels = gather(subject, spec["inputs"]), subject.labels.get(self.labels)
        if labels is None:
            return Pair(image)
        check_labels(labels, spec["highest"], self.labels, subject.item.case)
        target = paint(labels, spec["classes"], spec["colours"], spec["highest"])
        return Pair(image, target, balanced_weight((target > 0).any(0), self.foreground))

    def decode(self, painted: Tensor, spec: Spec) -> Answer:
        """Reads every pixel as the class of the nearest colour (of a union: its lowest class)."""
        found = nearest(as_channels(painted, len(spec["colours"][0])), spec["colours"])
        numbers = torch.tensor([0, *(classes[0] for classes in spec["classes"])], device=found.device)
        return Answer(labels=numbers[found])

    def pose(self, targets: Sequence[Tensor], rng: np.random.Generator) -> list[Spec]:
        """Asks for every class that the label maps `(*S)` show, whatever `classes` says; binary, one a pass."""
        shown = sorted({k for target in targets for k in np.unique(target.numpy()).tolist()} - {0})
        size = 1 if self.scheme == "binary" else self.max_classes or max(1, len(shown))
        specs: list[Spec] = []
        for chosen in (shown[start : start + size] for start in range(0, len(shown), size)):
            if self.scheme == "binary":
                colours = [[1.0] * self.channels]
            elif self.scheme == "random":
                colours = random_colours(len(chosen), self.channels, self.min_distance, rng)
            else:
                colours = fixed_colours([self.offset + k for k in chosen], self.channels, self.min_distance)
            specs.append({"classes": [[k] for k in chosen], "colours": colours, "highest": shown[-1]})
        return specs

    def paint(self, target: Tensor, spec: Spec) -> Tensor:
        """Paints a label map `(*S)` as `encode` does."""
        return paint(target, spec["classes"], spec["colours"], spec["highest"])

    def claim(self, painted: Tensor, spec: Spec) -> Tensor:
        """How much nearer than black the nearest colour is; `2 v - 1` for a painted value v of the scheme "binary"."""
        values = as_channels(painted, len(spec["colours"][0]))
        colours = values.new_tensor(spec["colours"]).view(-1, len(values), *(1,) * (values.ndim - 1))
        nearest_square = torch.stack([(values - colour).square().sum(0) for colour in colours]).amin(0)
        return values.square().sum(0) - nearest_square

    def score(self, painted: Tensor, pair: Pair, spec: Spec) -> dict[str, float]:
        """Dice and IoU, averaged over the classes that were asked for.

        A class that is neither painted nor there counts 1, a class that is only one of them 0.
        """
        colours: Any = spec["colours"]
        found = nearest(as_channels(painted, len(colours[0])), colours)
        true = nearest(truth(pair, len(colours[0])), colours).to(found.device)
        masks = [(found == number, true == number) for number in range(1, len(colours) + 1)]
        return {
            "dice": float(np.mean([metrics.dice(*both) for both in masks])),
            "iou": float(np.mean([metrics.iou(*both) for both in masks])),
        }

    def swap(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> Spec | None:
        """Asks for another class, or for the same classes in each other's colours; None if colours are fixed."""
        if self.scheme == "predefined":
            return None
        if len(spec["classes"]) > 1:
            return {**spec, "colours": [*spec["colours"][1:], spec["colours"][0]]}
        other = other_class(subjects, self.labels, spec["classes"][0], self.classes, rng)
        if other is None:
            return None
        offered = [*self.roles, self.labels]
        return {**spec, "query": [*offered, key(self.labels, other)], "context": offered, "classes": [[other]]}
