"""Prediction of volumes with networks for 2D images: slice by slice, in batches, on the grid of the file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mvg import weights
from mvg.adaptation.methods import describe_adapter
from mvg.data.intensity import Intensity, Percentiles, Window, normalise
from mvg.data.preparation import SLICES
from mvg.data.readers import FloatArray
from mvg.episode import Answer
from mvg.hub import shipped
from mvg.prediction.answers import Units, fill_boxes
from mvg.prediction.passes import Pass
from mvg.prediction.predictor import Predictor
from mvg.prediction.rasters import Raster, to_units
from mvg.prediction.retrieval import Features, Look, features_of
from mvg.prediction.scans import Scan, cut, holds_volume, uncut
from mvg.prediction.slices import Looks, Pick, Slice, beside, bin_of, choose_slices, drawn, spread_out
from mvg.prediction.subjects import split
from mvg.prediction.trained import stored_cut, stored_rules
from mvg.prediction.uncertainty import flips_of
from mvg.prediction.volume_answers import Asked, VolumeAnswerer
from mvg.prediction.volume_context import (
    Way,
    group_classes,
    read_picture_slices,
    read_volume_slices,
    warn_if_constant,
)
from mvg.task import Task

log = logging.getLogger(__name__)

SliceChoice = Literal["spread", "same-position", "nearest", "diverse"]


class VolumePredictor(VolumeAnswerer):
    """Answers volumes after the examples of a context, with a network for 2D images.

    Volumes are cut into upright slices as in training. Slices are answered in batches, one class after the other: held
    are the batch, and for each voxel the class that claims it most and its claim, whatever the number of classes. The
    context is read once; each pass of the network sees the slices that show what it asks for. Pictures in a context
    follow the range of their pixel type.

    Args:
        predictor: Answers slices; its context, and its window, are set here.
        slices: How volumes are cut: "axial", "coronal", "sagittal", or "auto", across the largest spacing. "auto"
            takes one axis for all: that of the volumes of the context, or of each query where the context is slices.
        rule: Brings volumes to [0, 1].
        examples: Largest number of slices that a pass sees.
        choice: Which slices of the context are shown: "spread" over all positions or "diverse" (as unlike as
            possible), both the same for every query; those of the "same-position" along the slicing axis, or the
            "nearest" in looks, for which each bin of the positions of a query has a context of its own.
        bins: Number of bins of positions.
        target_rule: Brings targets that are images to [0, 1]; by default `rule`.
        trim: Cut volumes to the box outside of which they are air; outside of it the answer is 0 or the lowest value.
        looks: What tells which slices look alike, the "image" or the "network".

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        predictor: Predictor,
        slices: str = "auto",
        rule: Intensity | None = None,
        examples: int = 8,
        choice: SliceChoice = "spread",
        bins: int = 8,
        target_rule: Intensity | None = None,
        trim: bool = False,
        looks: Look = "image",
    ) -> None:
        if slices not in SLICES:
            raise ValueError(f"`slices` must be one of {', '.join(SLICES)}, got {slices!r}")
        if choice not in get_args(SliceChoice):
            raise ValueError(f"`choice` must be one of {', '.join(get_args(SliceChoice))}, got {choice!r}")
        if examples < 1 or bins < 1:
            raise ValueError(f"`examples` and `bins` must be at least 1, got {examples} and {bins}")
        predictor.window = None
        self.predictor, self.slices, self.rule, self.target_rule = predictor, slices, rule or Percentiles(), target_rule
        self.examples, self.choice, self.bins, self.trim = examples, choice, bins, trim
        features = features_of(looks, predictor.network)
        self.describe_image: Features = lambda image: features(predictor.to_size(image.float()).images["image"])
        self.axis: int | None = None
        self.classes: list[int] = []
        self.units: Units | None = None
        self.contexts: list[list[Pass]] = []
        self.members: list[list[list[Pass]]] = []
        self._found: list[Slice] = []
        self._groups: list[list[int]] = []
        self._looks = Looks(self.describe_image)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        task: str | None = None,
        window: tuple[float, float] | None = None,
        slices: str | None = None,
        examples: int = 8,
        choice: SliceChoice = "spread",
        **options: Any,
    ) -> VolumePredictor:
        """Loads a trained folder.

        Args:
            folder: `<run>/weights` of a finished fit; by default the 2D weights that the installation ships.
            task: As in `Predictor.from_pretrained`.
            window: Values of the volumes that become 0 and 1; by default those of the adapter, if it was given some,
                else by the rule that all sources of the training state, or else by percentiles of each volume.
            slices: As in the class; by default as in training, if all sources were cut along one axis.
            examples: As in the class.
            choice: As in the class.
            **options: Arguments of `Predictor`.
        """
        folder = shipped("2d") if folder is None else folder
        predictor = Predictor.from_pretrained(folder, task, **options)
        adapted = describe_adapter(options["adapter"]) if options.get("adapter") else {}
        rule, target_rule = rules_for(folder, predictor.task, window or adapted.get("window"))
        axis, trim = stored_cut(weights.describe(folder).get("sources", {}))
        return cls(
            predictor,
            slices or adapted.get("slices") or axis,
            rule,
            examples,
            choice,
            target_rule=target_rule,
            trim=trim,
        )

    @property
    def task(self) -> Task:
        """What the context shows."""
        return self.predictor.task

    @property
    def way(self) -> Way:
        """How volumes become slices."""
        return Way(self.slices, self.rule, self.target_rule or self.rule, self.trim)

    @property
    def passes_of_query(self) -> list[Pass]:
        """What each slice is asked, if queries have contexts of their own after examples that are spread out."""
        return self.contexts[0] if self.contexts else self._pose(self._found, self._groups, spread_out)

    def set_context(self, images: Sequence[Any], targets: Sequence[Any] | None = None) -> None:
        """Reads the context once; it stays until the next one is set, also if that fails.

        Args:
            images: Volumes: files, arrays or tensors `(X, Y, Z)`, or images of TorchIO. Or pictures that are slices.
                Or subjects of TorchIO, which hold the targets, too.
            targets: One for each image.

        Raises:
            ValueError: If a file is damaged, pairs do not fit together, or no class is shown.
        """
        left, right = split(images, targets, self.predictor.task.is_label)
        kinds = {holds_volume(source) for source in (*left, *right)}
        if len(left) != len(right) or len(kinds) != 1:
            raise ValueError(
                f"a context is pairs of volumes or pairs of pictures, got {len(left)} images and {len(right)} targets; "
                "give both files of a pair one kind"
            )
        if kinds == {True}:
            read = read_volume_slices(self.predictor, left, right, self.way)
        else:
            read = read_picture_slices(self.predictor, left, right)
            if self.choice == "same-position":
                raise ValueError(f"{left[0]}: a picture has no position in a volume; show volumes, or choose `spread`")
        found, groups = group_classes(self.predictor, read.slices, _name(right[0]))
        looks = Looks(self.describe_image)
        contexts = [self._pose(found, groups, pick) for pick in self._picks(looks)]
        members = [self._pose_member(found, groups, number) for number in range(self.predictor.member_count)]
        self.axis, self._found, self._groups, self._looks = read.axis, found, groups, looks
        self.contexts, self.members = contexts, members
        self.predictor.channels, self.predictor.passes = read.channels, contexts[0] if contexts else []
        self.units = None if self.predictor.task.keeps_units else read.units
        self.classes = sorted(k for group in groups for k in group) if self.predictor.task.is_label else []

    def _picks(self, looks: Looks) -> list[Pick]:
        """How the slices of each context are picked that all queries share; none where each has its own."""
        if self.choice == "nearest":
            return []
        if self.choice == "same-position":
            return [beside((k + 0.5) / self.bins) for k in range(self.bins)]
        return [spread_out if self.choice == "spread" else looks.apart]

    def _pose(
        self, found: Sequence[Slice], groups: Sequence[Sequence[int]], pick: Pick, flips: tuple[int, ...] = ()
    ) -> list[Pass]:
        """Makes the passes that ask for all classes, each after the slices chosen for what it asks."""
        passes = []
        for group in groups:
            chosen = [entry.example for entry in choose_slices(found, group, self.examples, pick)]
            classes = group if self.predictor.task.is_label else None
            images, targets = [example.image for example in chosen], [example.target for example in chosen]
            passes += self.predictor.pose(images, targets, flips, classes)
        return passes

    def _pose_member(self, found: Sequence[Slice], groups: Sequence[Sequence[int]], number: int) -> list[list[Pass]]:
        """Asks the same after other slices, every second time of mirrored images."""
        rng = np.random.default_rng((self.predictor.seed, number))
        return [self._pose(found, groups, drawn(rng), flips_of(number, len(found), 2))]

    def describe(self) -> dict[str, Any]:
        """Says what was asked and how, for the description of an answer."""
        specs = [each.spec for each in self.predictor.passes]
        units = None if self.units is None else self.units.describe()
        return {"specs": specs, "context_slices": self.choice, "trim": self.trim, "units": units}

    def ask(self, scan: Scan) -> Asked:
        """Cuts a volume into slices, and finds what they are asked."""
        if not self._found:
            raise ValueError("no context is set; call `set_context(images, targets)` first")
        warn_if_constant(scan.volume)
        box = self.way.box(scan.volume)
        inner = replace(scan.volume, values=scan.volume.values[box])
        axis = self.way.axis(inner) if self.axis is None else self.axis
        limits = self.rule.limits(inner.values, None)
        planes = cut(inner.values, axis)
        contexts = self.contexts or self._contexts_like(planes, limits, str(scan.volume.path))
        answers = (self._answer(planes, limits, each, scan) for each in (contexts, *self.members))
        return Asked(limits, axis, answers, partial(_in_place, box=box, axis=axis, shape=scan.volume.values.shape))

    def _answer(
        self, planes: FloatArray, limits: tuple[float, float], contexts: Sequence[Sequence[Pass]], scan: Scan
    ) -> NDArray[Any]:
        """Asks everything of the slices `(n, H, W)` of one volume; each voxel goes to the pass that claims it most."""
        units = self.units_of_answer(limits, scan)
        is_label = self.predictor.task.is_label
        kind = units.kind if not is_label else np.dtype(np.uint8 if max(self.classes) < 256 else np.uint16)
        answer = np.zeros(planes.shape, kind)
        claims = np.zeros(planes.shape, np.float16) if max(map(len, contexts)) > 1 else None
        for each, number, held in self._batches(len(planes), contexts):
            rasters = [Raster(normalise(planes[k], limits)[None], f"{scan.volume.path}, slice {k}") for k in held]
            painted = self.predictor.answer_batch(self.predictor.read_batch(rasters), each)
            for k, (found, claim) in zip(held, painted, strict=True):
                new = self._values(found, units, kind, planes[k])
                if claims is not None:
                    claimed = claim.numpy().astype(np.float16)
                    wins = claimed > claims[k] if number else np.ones_like(claimed, dtype=bool)
                    new, claims[k] = np.where(wins, new, answer[k]), np.where(wins, claimed, claims[k])
                answer[k] = new
        return answer

    def _values(self, found: Answer, units: Units, kind: np.dtype[Any], plane: FloatArray) -> NDArray[Any]:
        """Turns what was decoded of a slice `(H, W)` into what is stored."""
        if found.boxes is not None:
            return fill_boxes(plane.shape, found.boxes).numpy().astype(kind)
        if found.labels is not None:
            return found.labels.numpy().astype(kind)
        assert found.image is not None
        if len(found.image) != 1:
            raise ValueError(f"{type(self.predictor.task).__name__} paints colours, but volumes hold grey values")
        return to_units(found.image, units.limits, kind, plane[None] if self.units is None else None)

    def _batches(self, count: int, contexts: Sequence[Sequence[Pass]]) -> Iterator[tuple[Pass, int, list[int]]]:
        """Lists passes, their number among those of their context, and the slices of each batch that they are asked."""
        bins = _bins(count, len(contexts))
        for passes, held in zip(contexts, bins, strict=True):
            for number, each in enumerate(passes if held else []):
                for start in range(0, len(held), self.predictor.batch):
                    yield each, number, held[start : start + self.predictor.batch]

    def _contexts_like(self, planes: FloatArray, limits: tuple[float, float], name: str) -> list[list[Pass]]:
        """Makes a context for each bin of positions: the slices that look most like those of the query there."""
        contexts = []
        for held in _bins(len(planes), self.bins):
            rasters = [Raster(normalise(planes[k], limits)[None], name) for k in held]
            if not rasters:
                contexts.append(list[Pass]())
                continue
            seen = torch.stack([self.describe_image(image) for image in self.predictor.fit_batch(rasters)])
            contexts.append(self._pose(self._found, self._groups, self._looks.like(seen.mean(0))))
        self.predictor.passes = next(passes for passes in contexts if passes)
        return contexts


def _in_place(
    slices: NDArray[Any], outside: float | NDArray[Any], box: tuple[slice, ...], axis: int, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Puts the slices of a part of a volume back where they were, `(X, Y, Z)`."""
    whole = np.full(shape, outside, dtype=slices.dtype)
    whole[box] = uncut(slices, axis)
    return whole


def _bins(count: int, bins: int) -> list[list[int]]:
    """Divides slices, in their order, by their relative position."""
    places = [bin_of(k / (count - 1) if count > 1 else 0.5, bins) for k in range(count)]
    return [[k for k, place in enumerate(places) if place == number] for number in range(bins)]


def _name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "context target 0"


def rules_for(
    folder: str | Path, task: Task, window: Sequence[float] | None, target_window: Sequence[float] | None = None
) -> tuple[Intensity, Intensity]:
    """Returns the rules that bring volumes, and targets that are images, to [0, 1].

    Args:
        folder: A trained folder.
        task: What is asked.
        window: The values of the images that become 0 and 1; by default what the weights say of training.
        target_window: Those of targets that are images; by default `window`, or else what the weights say.
    """
    rule, target_rule = stored_rules(weights.describe(folder).get("sources", {}), task)
    rule = Window(*window) if window else rule
    target_rule = Window(*target_window) if target_window else rule if window else target_rule
    log.info("Volumes are brought to [0, 1] by %s", rule)
    return rule, target_rule
