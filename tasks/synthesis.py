"""Synthesis: one contrast painted from others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from mvg.data.manifest import is_label
from mvg.data.source import Index
from mvg.data.subject import Subject
from mvg.episode import Pair, Spec
from tasks.painting import channels_of, clean_image, gather
from tasks.restoration import ImageTask


class Synthesis(ImageTask):
    """Paints another contrast or modality of the same anatomy.

    Scores are taken in the foreground of the true image (values above 0.01), with the data range 1.

    Args:
        sources: Images to start from, one of them drawn for each episode; any image role by default. Name them where
            an index holds label roles in which no class ever occurs and whose names do not begin with "labels": those
            cannot be told from images.
        targets: Images to paint, one of them drawn for each episode; any image role by default.
        joint: Whether all `sources` together are the channels of one input, instead of one of them.
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    keeps_units: ClassVar[bool] = False

    def __init__(
        self,
        sources: list[str] | None = None,
        targets: list[str] | None = None,
        joint: bool = False,
        mim: float = 0.9,
    ) -> None:
        if joint and not sources:
            raise ValueError("`joint` needs the list of `sources`, whose order is that of the channels")
        super().__init__({}, 0.0, mim)
        self.sources, self.targets, self.joint = sources, targets, joint

    def accepts(self, index: Index) -> bool:
        """Says whether at least one item offers a source and a target."""
        return bool(self._directions(index))

    def _directions(self, index: Index) -> list[tuple[list[str], str]]:
        """All pairs of input roles and target role that an item offers."""
        roles = image_roles(index)
        inputs = [self.sources] if self.joint and self.sources else [[role] for role in self.sources or roles]
        pairs = [(given, target) for given in inputs for target in self.targets or roles if target not in given]
        return [(given, target) for given, target in pairs if len(index.find((*given, target)))]

    def draw(self, index: Index, rng: np.random.Generator, training: bool) -> Spec:
        """Draws from which image to which, evenly from all directions that the index offers.

        Raises:
            ValueError: If it offers none.
        """
        directions = self._directions(index)
        if not directions:
            raise ValueError(
                f"no item offers a source and a target of synthesis (sources {self.sources}, targets {self.targets}); "
                f"the roles are {', '.join(image_roles(index))}"
            )
        given, target = directions[int(rng.integers(len(directions)))]
        required = [*given, target]
        return {"query": required, "context": required, "inputs": given, "target": target, "channels": 1}

    def complete(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> Spec:
        """Notes the number of channels of the target."""
        return {**spec, "channels": channels_of(subjects, spec["target"])}

    def encode(self, subject: Subject, spec: Spec, rng: np.random.Generator) -> Pair:
        """Takes input and target from their roles; the pair has no target where that role is missing."""
        return Pair(gather(subject, spec["inputs"]), clean_image(subject, spec["target"]))

    def swap(self, spec: Spec, subjects: Sequence[Subject], rng: np.random.Generator) -> Spec | None:
        """Asks for another of the targets that the query and all context images hold."""
        held = set.intersection(*(set(subject.images) for subject in subjects))
        others = sorted(held - {*spec["inputs"], spec["target"]})
        others = [role for role in others if self.targets is None or role in self.targets]
        if not others:
            return None
        target = others[int(rng.integers(len(others)))]
        required = [*spec["inputs"], target]
        channels = channels_of(subjects, target)
        return {**spec, "query": required, "context": required, "target": target, "channels": channels}


def image_roles(index: Index) -> list[str]:
    """Roles of an index that hold images: those for which no class is offered and whose name is not `labels...`."""
    labels = {name.partition("=")[0] for name in index.keys if "=" in name}
    return sorted(name for name in index.keys if "=" not in name and name not in labels and not is_label(name))
