"""Prediction of volumes with networks for volumes: coarse to fine, on the grid of the file."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvg import weights
from mvg.adaptation.methods import describe_adapter, load_adapter
from mvg.data.intensity import Intensity, Percentiles, Window, normalise
from mvg.data.preparation import slicing_axis
from mvg.data.readers import Volume
from mvg.episode import Answer, Spec
from mvg.hub import shipped
from mvg.models.base import InContextModel
from mvg.next_scale import NextScale, Pyramid
from mvg.prediction.answers import Units, units_of
from mvg.prediction.passes import mirror, spread
from mvg.prediction.precision import Precision, find_device, in_precision
from mvg.prediction.rasters import to_units
from mvg.prediction.scales import check_plan
from mvg.prediction.scans import Scan, VolumeSource, holds_volume, scan_of
from mvg.prediction.subjects import split
from mvg.prediction.trained import choose_task, stored_rules
from mvg.prediction.uncertainty import MOST, draw_members, flips_of
from mvg.prediction.volume_answers import Asked, VolumeAnswerer
from mvg.prediction.volume_context import read_pair, warn_if_constant
from mvg.task import Task

log = logging.getLogger(__name__)

_SLAB = 1 << 20
"""Voxels that are painted or decoded at a time."""


@dataclass(frozen=True)
class Shown:
    """A pair of the context.

    Attributes:
        pyramid: The image at all scales.
        target: Class indices, or an image in [0, 1], `(X, Y, Z)`.
        path: The file of the image.
    """

    pyramid: Pyramid
    target: NDArray[Any]
    path: Path


class ScalePredictor(VolumeAnswerer):
    """Answers volumes after the examples of a context, with a network for volumes.

    Volumes are read in RAS+ orientation at their own spacing, as in training, and rolled out from coarse to fine (see
    `mvg.next_scale.NextScale`). Examples and queries may differ in size, spacing and orientation: of an example that
    level is shown whose voxels are nearest in millimetres. The answer lies on the grid of its file.

    Of label maps every class that the context shows is asked for; where the task paints one class at a time, each voxel
    goes to the class painted most clearly.

    Args:
        network: The network.
        task: The task that the context shows.
        device: Where the network runs, "cpu" or "cuda".
        rule: Brings volumes to [0, 1].
        plan: How the network is rolled out.
        seed: Seeds the colours of tasks that draw them.
        adapter: Folder that `mvg adapt` wrote; it changes the network in place.
        target_rule: Brings targets that are images to [0, 1]; by default `rule`.
        members: Further answers with which each answer is compared; see `mvg.prediction.uncertainty`.
        precision: As in `Predictor`.

    Raises:
        ValueError: If the network is not for volumes, the device does not exist here, or the plan does not suit the
            task.
    """

    def __init__(
        self,
        network: InContextModel,
        task: Task,
        device: str = "cpu",
        rule: Intensity | None = None,
        plan: NextScale | None = None,
        seed: int = 0,
        adapter: str | Path | None = None,
        target_rule: Intensity | None = None,
        members: int = 0,
        precision: Precision = "32",
    ) -> None:
        if not 0 <= members <= MOST:
            raise ValueError(f"`members` must be between 0 and {MOST}, got {members}")
        if len(network.image_size) != 3:
            raise ValueError(f"the network was built for pictures of {network.image_size}; take `mvg.VolumePredictor`")
        if plan is not None:
            check_plan(plan, task)
        if adapter is not None:
            load_adapter(network, adapter)
        self.network, self._task = in_precision(network.eval().to(find_device(device)), precision), task
        self.rule, self.plan, self.seed = rule or Percentiles(), plan or NextScale(), seed
        self.target_rule, self.member_count = target_rule, members
        self.units: Units | None = None
        self.context: list[Shown] = []
        self.specs: list[Spec] = []
        self.classes: list[int] = []

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        task: str | Task | None = None,
        adapter: str | Path | None = None,
        **options: Any,
    ) -> ScalePredictor:
        """Loads a trained folder.

        Args:
            folder: `<run>/weights` of a finished fit; by default the 3D weights that the installation ships.
            task: As in `Predictor.from_pretrained`.
            adapter: As in `Predictor.from_pretrained`.
            **options: Arguments of the class; `rule` is by default the one that all sources of the training state, or
                else percentiles of each volume.
        """
        folder = shipped("3d") if folder is None else folder
        facts = {} if adapter is None else describe_adapter(adapter)
        chosen = choose_task(folder, task, adapter)
        rule, target_rule = stored_rules(weights.describe(folder).get("sources", {}), chosen)
        if facts.get("window"):
            rule = target_rule = Window(*facts["window"])
        known = {"rule": rule, "target_rule": target_rule, "adapter": adapter}
        return cls(weights.load(folder), chosen, **{**known, **options})

    @property
    def task(self) -> Task:
        """What the context shows."""
        return self._task

    def set_context(self, images: Sequence[VolumeSource], targets: Sequence[VolumeSource] | None = None) -> None:
        """Reads the context; it stays until the next one is set, also if that fails.

        Args:
            images: Volumes: files, arrays or tensors `(X, Y, Z)`, or images of TorchIO; or subjects of TorchIO, which
                hold the targets, too.
            targets: One for each image; brought onto its grid by the two affines, as in training.

        Raises:
            ValueError: If a file is damaged or no volume, pairs do not fit together, or no class is shown.
        """
        left, right = split(images, targets, self.task.is_label)
        if len(left) != len(right) or not left:
            raise ValueError(f"a context needs a target for each image, got {len(left)} and {len(right)}")
        for source in (*left, *right):
            if not holds_volume(source):
                name = str(source) if isinstance(source, str | Path) else "a picture"
                raise ValueError(f"{name}: a network for volumes needs volumes as examples; show NIfTI, MHA or NRRD")
        read = [self._read_pair(k, *files) for k, files in enumerate(zip(left, right, strict=True))]
        context: list[Shown] = [shown for shown, _ in read]
        classes: list[int] = []
        if self.task.is_label:
            context, classes = self._find_classes(context)
        probe = torch.tensor([classes]) if self.task.is_label else torch.zeros(1, 1)
        specs = self.task.pose([probe], np.random.default_rng(self.seed))
        self._check_answers(specs)
        self.context, self.classes, self.specs = context, classes, specs
        self.units = None
        if not self.task.keeps_units:
            self.units = units_of([units.limits for _, units in read], [units.kind for _, units in read])

    def _check_answers(self, specs: Sequence[Spec]) -> None:
        """Checks that a task answers what a volume can hold, before anything is asked."""
        for spec in specs:
            decoded = self.task.decode(torch.zeros(self.network.out_channels, 1, 1, 1), spec)
            if decoded.boxes is not None:
                raise ValueError(
                    f"{type(self.task).__name__} answers boxes, which networks for volumes do not write; ask for a "
                    "segmentation, or take a 2D network, which answers boxes slice by slice"
                )
            if decoded.labels is None and (decoded.image is None or len(decoded.image) != 1):
                raise ValueError(
                    f"{type(self.task).__name__} answers neither label maps nor grey volumes; use a 2D network"
                )

    def _read_pair(self, number: int, image: VolumeSource, target: VolumeSource) -> tuple[Shown, Units]:
        scans = scan_of(image, f"context image {number}"), scan_of(target, f"context target {number}")
        pair = read_pair(self.task, *scans, self.rule, self.target_rule or self.rule)
        wanted = pair.target.values
        if self.task.is_label:
            stored: NDArray[Any] = wanted.astype(np.uint8 if wanted.max() < 256 else np.uint16)
        else:
            stored = normalise(wanted, pair.target_limits)
        pyramid = self._pyramid(pair.image, pair.limits)
        return Shown(pyramid, stored, pair.image.path), Units(pair.target_limits, pair.kind, True)

    def _pyramid(self, volume: Volume, limits: tuple[float, float], flips: tuple[int, ...] = ()) -> Pyramid:
        image = mirror(torch.from_numpy(normalise(volume.values, limits))[None], flips)
        channels = image.expand(self.network.in_channels, *image.shape[1:])
        return Pyramid(channels, self.network.image_size, spacing=volume.spacing)

    def _find_classes(self, context: list[Shown]) -> tuple[list[Shown], list[int]]:
        """Lists the classes that the context shows; masks that hold no values but 0 and 255 are read as class 1."""
        found = sorted({int(k) for shown in context for k in np.unique(shown.target)} - {0})
        if not found:
            raise ValueError(
                f"the targets of the context show no class (first image: {context[0].path}); mark what is asked for"
            )
        if found != [255]:
            return context, found
        log.info("The targets hold 0 and 255 only: 255 is read as class 1")
        return [replace(shown, target=(shown.target > 0).astype(np.uint8)) for shown in context], [1]

    def describe(self) -> dict[str, Any]:
        """Says what was asked and how, for the description of an answer."""
        units = None if self.units is None else self.units.describe()
        return {"specs": list(self.specs), "units": units}

    def ask(self, scan: Scan) -> Asked:
        """Finds what a volume is asked."""
        if not self.context:
            raise ValueError("no context is set; call `set_context(images, targets)` first")
        warn_if_constant(scan.volume)
        limits = self.rule.limits(scan.volume.values, None)
        axis = slicing_axis(scan.volume, "auto")
        assert axis is not None
        return Asked(limits, axis, self._answers(scan, limits), lambda answer, _: answer)

    def _answers(self, scan: Scan, limits: tuple[float, float]) -> Iterator[NDArray[Any]]:
        """Makes the answer, and those of the members."""
        yield self._answer(scan, limits, self.context)
        for number in range(self.member_count):
            yield self._answer_member(scan, limits, number)

    def _answer_member(self, scan: Scan, limits: tuple[float, float], number: int) -> NDArray[Any]:
        """Asks everything of one volume after half of the examples, or of all mirrored."""
        rng = np.random.default_rng((self.seed, number))
        shows = [{int(k) for k in np.unique(shown.target)} if self.task.is_label else {0} for shown in self.context]
        flips = flips_of(number, len(self.context), 3)
        if len(self.context) > 1 and flips:
            flips = (-3,)  # left and right lie along X
        return self._answer(scan, limits, [self.context[k] for k in draw_members(shows, rng)], flips)

    def _answer(
        self, scan: Scan, limits: tuple[float, float], shown: Sequence[Shown], flips: tuple[int, ...] = ()
    ) -> NDArray[Any]:
        """Asks everything of one volume; returns classes, or values in its units, `(X, Y, Z)`.

        Args:
            scan: The volume.
            limits: The values that become 0 and 1.
            shown: The examples.
            flips: Axes along which the network sees all of it mirrored.
        """
        query = self._pyramid(scan.volume, limits, flips)
        units = self.units_of_answer(limits, scan)
        kind = units.kind
        if self.task.is_label:
            kind = np.dtype(np.uint8 if max(self.classes) < 256 else np.uint16)
        pyramids = [mirrored(each.pyramid, flips) for each in shown]
        answer = np.zeros(scan.volume.values.shape, kind)
        best = np.zeros(answer.shape, np.float16) if len(self.specs) > 1 else None
        for number, spec in enumerate(self.specs):
            # nothing of a question is held in this frame, so that the next one finds its memory
            self._take(answer, best, units, spec, number == 0, self._ask(query, pyramids, shown, spec, flips), scan)
        return answer

    def _ask(
        self, query: Pyramid, pyramids: Sequence[Pyramid], shown: Sequence[Shown], spec: Spec, flips: tuple[int, ...]
    ) -> Tensor:
        """Asks one question; returns what is painted, `(C_out, X, Y, Z)`."""
        context = [
            pyramid.shows(mirror(self._paint(each.target, spec), flips), self.plan.largest)
            for pyramid, each in zip(pyramids, shown, strict=True)
        ]
        return mirror(self.plan(self.network, query, context), flips)

    def _take(
        self,
        answer: NDArray[Any],
        best: NDArray[Any] | None,
        units: Units,
        spec: Spec,
        first: bool,
        painted: Tensor,
        scan: Scan,
    ) -> None:
        """Writes what is painted into the answer: where there are several questions, where it is painted most clearly.

        Args:
            answer: `(X, Y, Z)`, written to.
            best: How clearly each voxel was painted so far, `(X, Y, Z)`, written to; None for one question.
            units: Units of the answer.
            spec: What was asked.
            first: Whether nothing is known yet.
            painted: `(C_out, X, Y, Z)`.
            scan: What was asked.
        """
        for part in _slabs(answer.shape):
            decoded = self.task.decode(painted[:, part], spec)
            new = self._values(decoded, units, answer.dtype, scan.volume.values[part])
            if best is not None:
                claim = self.task.claim(painted[:, part], spec).numpy().astype(np.float16)
                wins = np.ones_like(claim, dtype=bool) if first else claim > best[part]
                new, best[part] = np.where(wins, new, answer[part]), np.where(wins, claim, best[part])
            answer[part] = new

    def _paint(self, target: NDArray[Any], spec: Spec) -> Tensor:
        """Paints a target of the context, `(C_out, X, Y, Z)`, in half precision."""
        painted = torch.empty(self.network.out_channels, *target.shape, dtype=torch.float16)
        for part in _slabs(target.shape):
            values = torch.from_numpy(target[part].astype(np.int64) if self.task.is_label else target[part][None])
            painted[:, part] = spread(self.task.paint(values, spec), self.network.out_channels).half()
        return painted

    def _values(self, decoded: Answer, units: Units, kind: np.dtype[Any], query: NDArray[Any]) -> NDArray[Any]:
        """Turns a decoded part into what is stored."""
        if decoded.labels is not None:
            return decoded.labels.numpy().astype(kind)
        assert decoded.image is not None
        return to_units(decoded.image, units.limits, kind, query[None] if self.units is None else None)


def mirrored(pyramid: Pyramid, flips: Sequence[int]) -> Pyramid:
    """Returns an image mirrored along some axes, at all scales; the targets are left out."""
    if not flips:
        return pyramid
    other = copy.copy(pyramid)
    other.images, other.targets = [mirror(values, flips) for values in pyramid.images], None
    return other


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Cuts an array along its first axis into parts of limited size."""
    step = max(1, _SLAB // int(np.prod(shape[1:])))
    return (slice(first, first + step) for first in range(0, shape[0], step))


def takes_volumes(folder: str | Path) -> bool:
    """Says whether the network in a trained folder was built for volumes."""
    return len(weights.describe(folder)["network"]["init_args"]["image_size"]) == 3
