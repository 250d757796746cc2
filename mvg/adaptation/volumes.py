"""A few labelled volumes for networks for volumes: cases that stay whole, and windows of all scales cut out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mvg.data.geometry import Placement, fit, place
from mvg.data.intensity import normalise
from mvg.data.subject import Subject
from mvg.next_scale import TeacherForcing
from mvg.prediction.context import Example
from mvg.prediction.scale_predictor import ScalePredictor
from mvg.prediction.scans import scan_of
from mvg.prediction.slices import Slice
from mvg.prediction.volume_context import read_pair

NEGATIVES = 0.2
"""Share of training windows that lie anywhere in the body, not around what is asked for."""
_WHOLE = 1.5
"""Largest side of a volume in validation, in windows; larger ones are reduced."""


@dataclass(frozen=True)
class Windows:
    """How windows are cut out of whole volumes.

    Attributes:
        size: Size of the network's images, three numbers.
        teacher: Draws levels, places and coarser answers.
    """

    size: tuple[int, ...]
    teacher: TeacherForcing = field(default_factory=TeacherForcing)

    def cut(
        self, subjects: Sequence[Subject], fine: bool, rng: np.random.Generator
    ) -> tuple[list[Subject], tuple[float, ...]]:
        """Cuts a window out of each volume: of the first level, or of a finer one around what is asked for.

        Args:
            subjects: The query, then the context, whole; labels show what is asked for alone.
            fine: Cut windows of a finer level than the first.
            rng: Draws.

        Returns:
            The windows, and by what the query's level is finer than the one before, along each axis.
        """
        anchors = [subject.labels["target"] > 0 if subject.labels else None for subject in subjects]
        if rng.random() < NEGATIVES:
            anchors[0] = None
        places, step = self.teacher.place(subjects, anchors, self.size, fine, rng)
        return [_fit(subject, where) for subject, where in zip(subjects, places, strict=True)], step

    def whole(self, subjects: Sequence[Subject]) -> list[Subject]:
        """Brings whole volumes to the size of the first one, reduced where it is large, for validation."""
        size = [min(held, round(_WHOLE * side)) for held, side in zip(subjects[0].shape, self.size, strict=True)]
        return [_fit(subject, place(subject.shape, size)) for subject in subjects]


def _fit(subject: Subject, where: Placement) -> Subject:
    """Cuts a box out of a volume whose labels are stored in 32 bits."""
    fitted = fit(subject, where)
    return replace(fitted, labels={role: label.long() for role, label in fitted.labels.items()})


def read_whole_volumes(predictor: ScalePredictor, images: Sequence[Path], targets: Sequence[Path]) -> list[Slice]:
    """Reads pairs of volumes as `mvg predict` reads a context, at their own size.

    Args:
        predictor: Whose network, task and rules they are for.
        images: Files of volumes.
        targets: One for each image.

    Raises:
        ValueError: If a file is damaged or no volume, or a pair does not overlap.
    """
    found = []
    for source, other in zip(images, targets, strict=True):
        pair = read_pair(
            predictor.task, scan_of(source), scan_of(other), predictor.rule, predictor.target_rule or predictor.rule
        )
        wanted = pair.target.values
        image = torch.from_numpy(normalise(pair.image.values, pair.limits))[None]
        image = image.expand(predictor.network.in_channels, *image.shape[1:])
        if predictor.task.is_label:
            target: Tensor = torch.from_numpy(wanted.astype(np.int32))
            pixels = dict(zip(*(part.tolist() for part in target.unique(return_counts=True)), strict=True))
            pixels.pop(0, None)
        else:
            target, pixels = torch.from_numpy(normalise(wanted, pair.target_limits))[None], {0: 1}
        found.append(Slice(Example(image, target), 0.5, pixels, pair.image.spacing))
    return found


def with_spacing(subject: Subject, entry: Slice) -> Subject:
    """Gives a subject the spacing of its volume."""
    return replace(subject, spacing=tuple(entry.spacing))
