"""Prediction of volumes with networks for 2D images: slice by slice, in batches, on the grid of the file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mvg import weights
from mvg.configuration import to_config
from mvg.data.intensity import Intensity, Percentiles, Window, normalise
from mvg.data.preparation import SLICES, slicing_axis
from mvg.predictor import Pass, Predictor
from mvg.rasters import Raster, to_units
from mvg.scans import Scan, cut, is_scan, read_scan, stored_rule, to_grid
from mvg.slices import Slice, bin_of, choose_slices
from mvg.volume_context import group_classes, read_picture_slices, read_volume_slices

log = logging.getLogger(__name__)

ContextChoice = Literal["spread", "same-position"]


@dataclass(frozen=True)
class VolumePrediction:
    """The answer to one volume; a task fills what it answers.

    Attributes:
        labels: Class indices of the context (0 is background), uint8 or uint16, in the shape of the file; boxes are
            filled with 1.
        image: In the shape of the file and in its units; of its type if that is a whole number of at most 16 bits.
        affine: Voxel indices of the file to millimetres, `(4, 4)`.
        voxels: Number of voxels of each class that the context shows.
        volumes: Volume of each of these classes in mm^3.
        limits: The values of the file that became 0 and 1.
        axis: Slicing axis: 0 for sagittal, 1 for coronal, 2 for axial slices.
        slices: The answer as upright slices `(n, H, W)` along that axis, ascending.
    """

    labels: NDArray[Any] | None
    image: NDArray[Any] | None
    affine: NDArray[np.float64]
    voxels: Mapping[int, int]
    volumes: Mapping[int, float]
    limits: tuple[float, float]
    axis: int
    slices: NDArray[Any]


class VolumePredictor:
    """Answers volumes after the examples of a context, with a network for 2D images.

    Volumes are cut into upright slices as in training. Slices are answered in batches, so that never more than one
    batch of one class is held as painted. The context is read once; each pass of the network sees the slices that
    show what it asks for. Pictures in a context follow the range of their pixel type.

    Args:
        predictor: Answers slices; its context, and its window, are set here.
        slices: How volumes are cut: "axial", "coronal", "sagittal", or "auto", across the largest spacing. "auto"
            takes one axis for all: that of the volumes of the context, or of each query where the context is slices.
        rule: Brings volumes to [0, 1].
        examples: Largest number of slices that a pass sees.
        choice: Which slices of the context are shown: "spread" over all positions, the same for every query, or those
            of the "same-position" along the slicing axis, for which one memory is kept for each bin of positions.
        bins: Number of bins of positions.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        predictor: Predictor,
        slices: str = "auto",
        rule: Intensity | None = None,
        examples: int = 8,
        choice: ContextChoice = "spread",
        bins: int = 8,
    ) -> None:
        if slices not in SLICES:
            raise ValueError(f"`slices` must be one of {', '.join(SLICES)}, got {slices!r}")
        if choice not in ("spread", "same-position"):
            raise ValueError(f"`choice` must be spread or same-position, got {choice!r}")
        if examples < 1 or bins < 1:
            raise ValueError(f"`examples` and `bins` must be at least 1, got {examples} and {bins}")
        predictor.window = None
        self.predictor, self.slices, self.rule = predictor, slices, rule or Percentiles()
        self.examples, self.choice, self.bins = examples, choice, bins
        self.axis: int | None = None
        self.classes: list[int] = []
        self.contexts: list[list[Pass]] = []

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        task: str | None = None,
        window: tuple[float, float] | None = None,
        slices: str = "auto",
        examples: int = 8,
        choice: ContextChoice = "spread",
        **options: Any,
    ) -> VolumePredictor:
        """Loads a trained folder.

        Args:
            folder: `<run>/weights` of a finished fit.
            task: As in `Predictor.from_pretrained`.
            window: Values of the volumes that become 0 and 1; by default by the rule that all sources of the training
                state, or else by percentiles of each volume.
            slices: As in the class.
            examples: As in the class.
            choice: As in the class.
            **options: Arguments of `Predictor`.
        """
        predictor = Predictor.from_pretrained(folder, task, **options)
        return cls(predictor, slices, rule_for(folder, window), examples, choice)

    def set_context(self, images: Sequence[str | Path], targets: Sequence[str | Path]) -> None:
        """Reads the context once; it stays until the next one is set.

        Args:
            images: Files of volumes, or of pictures that are slices.
            targets: One for each image.

        Raises:
            ValueError: If a file is damaged, pairs do not fit together, or no class is shown.
        """
        left, right = [Path(path) for path in images], [Path(path) for path in targets]
        kinds = {is_scan(path) for path in (*left, *right)}
        if len(left) != len(right) or len(kinds) != 1:
            raise ValueError(
                f"a context is pairs of volumes or pairs of pictures, got {len(left)} images and {len(right)} targets; "
                "give both files of a pair one kind"
            )
        if kinds == {True}:
            found, self.axis = read_volume_slices(self.predictor, left, right, self.slices, self.rule)
        else:
            found, self.axis = read_picture_slices(self.predictor, left, right), None
            if self.choice == "same-position":
                raise ValueError(f"{left[0]}: a picture has no position in a volume; show volumes, or choose `spread`")
        found, groups = group_classes(self.predictor, found, right[0])
        positions = [None] if self.choice == "spread" else [(k + 0.5) / self.bins for k in range(self.bins)]
        self.contexts = [
            [each for group in groups for each in self._learn(found, group, position)] for position in positions
        ]
        self.classes = sorted(k for group in groups for k in group) if self.predictor.task.is_label else []

    def _learn(self, found: Sequence[Slice], group: Sequence[int], position: float | None) -> list[Pass]:
        """Shows the network the slices chosen for the classes that one pass asks for."""
        chosen = [entry.example for entry in choose_slices(found, group, self.examples, position)]
        targets = [example.target for example in chosen]
        if self.predictor.task.is_label:
            targets = [torch.where(torch.isin(target, torch.tensor(group)), target, 0) for target in targets]
        self.predictor.show([example.image for example in chosen], targets)
        return self.predictor.passes

    def describe(self) -> dict[str, Any]:
        """Says what was asked and how, for the description of an answer."""
        return {"specs": [each.spec for each in self.contexts[0]], "context_choice": self.choice}

    def __call__(self, volume: str | Path | Scan) -> VolumePrediction:
        """Answers one volume after the context.

        Args:
            volume: A NIfTI, MetaImage or NRRD file, or what `read_scan` returned.

        Raises:
            ValueError: If no context is set, or the file is damaged or no plain volume.
        """
        if not self.contexts:
            raise ValueError("no context is set; call `set_context(images, targets)` first")
        scan = volume if isinstance(volume, Scan) else read_scan(Path(volume))
        axis = slicing_axis(scan.volume, self.slices) if self.axis is None else self.axis
        assert axis is not None
        limits = self.rule.limits(scan.volume.values, None)
        planes, counts = cut(scan.volume.values, axis), Counter[int]()
        kind = scan.kind
        if self.predictor.task.is_label:
            kind = np.dtype(np.uint8 if max(self.classes) < 256 else np.uint16)
        slices = np.zeros(planes.shape, kind)
        for numbers in self._batches(len(planes)):
            rasters = [Raster(normalise(planes[k], limits)[None], f"{scan.volume.path}, slice {k}") for k in numbers]
            for number, answer in zip(numbers, self.predictor.predict(rasters), strict=True):
                if answer.labels is not None:
                    slices[number] = answer.labels
                else:
                    assert answer.image is not None
                    slices[number] = to_units(torch.from_numpy(answer.image)[None], limits, kind)
                counts.update(answer.areas)
        values, voxels = to_grid(slices, axis, scan), dict(sorted(counts.items()))
        is_label = self.predictor.task.is_label
        return VolumePrediction(
            labels=values if is_label else None,
            image=None if is_label else values,
            affine=scan.affine,
            voxels=voxels,
            volumes={k: round(count * scan.voxel, 3) for k, count in voxels.items()},
            limits=limits,
            axis=axis,
            slices=slices,
        )

    def _batches(self, count: int) -> Iterator[list[int]]:
        """Lists the slices of a volume in batches of one memory, and lets the predictor ask that memory."""
        bins = len(self.contexts)
        places = [bin_of(k / (count - 1) if count > 1 else 0.5, bins) for k in range(count)]
        self.predictor.classes = self.classes
        for number, passes in enumerate(self.contexts):
            held = [k for k, place in enumerate(places) if place == number]
            self.predictor.passes = passes
            for start in range(0, len(held), self.predictor.batch):
                yield held[start : start + self.predictor.batch]


def rule_for(folder: str | Path, window: Sequence[float] | None) -> Intensity:
    """Returns the rule that brings volumes to [0, 1]: the window, or what the weights in a folder say of training."""
    rule = Window(*window) if window else stored_rule(weights.describe(folder).get("sources", {}))
    log.info("Volumes are brought to [0, 1] by %s", to_config(rule))
    return rule
