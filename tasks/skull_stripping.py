"""Skull stripping: the image inside the brain, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mvg import metrics
from mvg.data.source import Index
from mvg.data.subject import Subject
from mvg.episode import Pair, Spec
from tasks.painting import (
    FOREGROUND,
    channels_of,
    clamped,
    clamped_image,
    clean_image,
    foreground,
    mark,
    marked,
    truth,
)
from tasks.restoration import ImageTask


class SkullStripping(ImageTask):
    """Paints an image as it is inside a mask, and 0 outside: `x 1[mask]`.

    Made for the brain, and as good for any organ that is to be cut out of its surroundings (a breast, a prostate
    gland, a mouse). Pixels of the mask weigh at least twice as much in the loss as the others: that is also how scores
    know the mask. Scores inside the mask end in `_brain`; `mae_outside` is taken in all other pixels (what of the skull
    was left), and `dice` compares the painted pixels above 0.01 with those of the truth.

    Args:
        role: The whole image.
        mask: Label role of the mask.
        classes: Classes of the label role that make up the mask; all but 0 by default. A list such as grey matter,
            white matter and ventricles of a label map of tissues will do, if it covers the brain.
        stripped: Role of an image that is stripped already. Where a subject offers it, it is the target.
        brain: Least share of the loss weight that the mask gets, [0, 1).
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    metrics: ClassVar[Mapping[str, bool]] = {
        "psnr_brain": True,
        "ssim_brain": True,
        "mae_brain": False,
        "mae_outside": False,
        "dice": True,
    }
    primary: ClassVar[str] = "dice"

    def __init__(
        self,
        role: str = "image",
        mask: str = "brain",
        classes: list[int] | None = None,
        stripped: str = "stripped",
        brain: float = 0.5,
        mim: float = 0.9,
    ) -> None:
        if classes is not None and (not classes or min(classes) < 1):
            raise ValueError(f"`classes` must be numbers from 1 on, or null for all, got {classes}")
        if not 0 <= brain < 1:
            raise ValueError(f"`brain` must be in [0, 1), got {brain}")
        super().__init__({}, 0.0, mim)
        self.role, self.mask, self.classes, self.stripped = role, mask, classes, stripped
        self.brain = brain

    def accepts(self, index: Index) -> bool:
        """Says whether at least one item offers the image, and its mask or stripped image."""
        return self._offered(index) is not None

    def _offered(self, index: Index) -> str | None:
        """The role that targets are made from."""
        return next((name for name in (self.mask, self.stripped) if len(index.find((self.role, name)))), None)

    def draw(self, index: Index, rng: np.random.Generator, training: bool) -> Spec:
        """Notes which role the target comes from.

        Raises:
            ValueError: If no item offers one.
        """
        offered = self._offered(index)
        if offered is None:
            raise ValueError(f"no item offers {self.role!r} with the mask {self.mask!r} or the image {self.stripped!r}")
        required = [self.role, offered]
        return {"query": required, "context": required, "inputs": [self.role], "channels": 1}

    def complete(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> Spec:
        """Notes the number of channels of the image."""
        return {**spec, "channels": channels_of(subjects, self.role)}

    def encode(self, subject: Subject, spec: Spec, rng: np.random.Generator) -> Pair:
        """Cuts the mask out of one image; the pair has no target where the subject offers neither mask nor target."""
        image = clamped_image(subject, self.role)
        target, labels = clean_image(subject, self.stripped), subject.labels.get(self.mask)
        if labels is not None:
            inside = labels > 0 if self.classes is None else torch.isin(labels, torch.tensor(self.classes))
            target = torch.where(inside, image, 0.0) if target is None else target
        elif target is not None:
            inside = (target > 0).any(0)
        else:
            return Pair(image)
        return Pair(image, target, mark(inside, self.brain))

    def masks(self, pair: Pair, target: Tensor) -> Mapping[str, Tensor]:
        """Scores inside and outside of the mask."""
        inside = marked(pair)
        return {"_brain": inside, "_outside": ~inside}

    def score(self, painted: Tensor, pair: Pair, spec: Spec) -> dict[str, float]:
        """Scores of the image inside the mask, the error outside, and the overlap of what is not empty."""
        scores = super().score(painted, pair, spec)
        found = (clamped(painted, spec["channels"]) > FOREGROUND).any(0).cpu()
        scores["dice"] = metrics.dice(found, foreground(truth(pair, spec["channels"])).cpu())
        return {name: scores[name] for name in self.metrics}
