"""What is known of a public data set: where it is, what its licence allows, how it lies on the disk, what it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvg.data.importers.dataset import Dataset
from mvg.data.intensity import Intensity

Reader = Callable[[Path, Path], Dataset]
"""Lists the files of a folder; the second folder takes files that have to be made, such as joined label maps."""


@dataclass(frozen=True)
class Terms:
    """What a licence allows, as the project understands it; the words of the data set decide.

    Attributes:
        licence: Its name.
        commercial: Whether commercial use is allowed; None where that is not stated or not clear.
        weights: What it means for weights trained on the data.
        checked: Whether the licence was read in the data set's own words; else it has to be checked before use.
    """

    licence: str
    commercial: bool | None
    weights: str
    checked: bool = False

    @property
    def permission(self) -> bool | None:
        """Whether commercial use is allowed, as far as it was read: other licences permit nothing."""
        return self.commercial if self.checked or self.commercial is False else None


@dataclass(frozen=True)
class Tree:
    """How the files lie below the downloaded folder.

    Attributes:
        words: The tree, one line for each kind of file; filled in from the patterns where there are some.
        source: What says so, and what of it is inferred.
        sure: Whether file names were read in the data set's own description or in code that reads it.
    """

    words: tuple[str, ...]
    source: str
    sure: bool = True


@dataclass(frozen=True)
class PublicSet:
    """A recipe: everything that makes a training source of a downloaded folder.

    Attributes:
        name: The word after `--dataset`.
        title: Its usual name.
        homepage: Where to get it.
        terms: Its licence.
        modality: Kind of image.
        tree: Layout on the disk.
        read: Lists the files.
        shares: Shares of the patients for train, val and test, where the layout states no such split.
        split: How it is split, in words.
        class_names: Label role to class index to name; empty where the reader finds them.
        intensity: Image role to its rule; percentiles of each volume where none is given.
        slices: How volumes are cut.
        longest: Pictures are reduced to this length of their longer side.
        reference: Role whose grid is taken; the first one by default.
        spacing: What is known of the voxels.
        tasks: Task name to class path and arguments.
        benchmark: Cases for training and test in the table of the MVG paper; None if it is not one of its sets.
        notes: What to know before use.
        checked: What was compared with which page of the data set or of others; empty if nothing was.
        real: Which real files the recipe was run on; empty if on generated trees alone.
    """

    name: str
    title: str
    homepage: str
    terms: Terms
    modality: str
    tree: Tree
    read: Reader
    shares: tuple[float, float, float]
    split: str
    class_names: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    intensity: Mapping[str, Intensity] = field(default_factory=dict)
    slices: str = "axial"
    longest: int | None = None
    reference: str | None = None
    spacing: str = ""
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    benchmark: tuple[int, int] | None = None
    notes: str = ""
    checked: str = ""
    real: str = ""


@dataclass(frozen=True)
class Unread:
    """A data set that has no recipe, and why.

    Attributes:
        name: Its name.
        homepage: Where to ask for it.
        reason: Why there is no recipe, and what to do instead.
    """

    name: str
    homepage: str
    reason: str


def counted(train: int, test: int, val: float = 0.1) -> tuple[float, float, float]:
    """Turns counts of cases for training and test into shares; validation is taken from training.

    >>> counted(21, 9)
    (0.63, 0.07, 0.3)
    """
    kept = train / (train + test)
    return round(kept * (1 - val), 9), round(kept * val, 9), round(1 - kept, 9)


SEGMENTATION: Mapping[str, Mapping[str, Any]] = {"segmentation": {"class_path": "tasks.Segmentation"}}
"""The tasks of most sets with label maps."""
