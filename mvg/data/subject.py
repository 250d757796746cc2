"""Subjects and the items that describe them before a pixel is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Item:
    """What is known of a subject before it is read.

    Attributes:
        case: Name of the scan, unique in its source.
        group: The patient: items of one group never meet as query and context.
        keys: What the subject offers: roles (`image`, `labels`, `t1`, ...) and, for each class that occurs in a
            label role, `role=class` (`labels=3`).
        position: Relative position of a slice in its volume along the slicing axis, [0, 1]; 0.5 for whole images.
        slice: Index of the slice in its volume; None for whole images.
    """

    case: str
    group: str
    keys: frozenset[str]
    position: float = 0.5
    slice: int | None = None


@dataclass(frozen=True)
class Subject:
    """One case as tensors; light enough to be made a thousand times a second.

    Attributes:
        images: Role to `(C, *S)` float32, normalised by the source to about [0, 1].
        labels: Role to `(*S)` int64 class indices, 0 for background.
        item: Where it comes from.
        spacing: Pixel size in mm along each axis of S.
        ranges: Role to the pair of values, in the file's own units, that became 0 and 1.
    """

    images: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    item: Item
    spacing: tuple[float, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape S, common to all images and labels."""
        for image in self.images.values():
            return tuple(image.shape[1:])
        raise ValueError(f"case {self.item.case!r} holds no image")
