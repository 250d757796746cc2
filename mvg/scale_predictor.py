"""Prediction of volumes with networks for volumes: coarse to fine, on the grid of the file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvg import weights
from mvg.adaptation import adapted_task, load_adapter
from mvg.configuration import to_config
from mvg.data.intensity import Intensity, Percentiles, normalise
from mvg.data.preparation import slicing_axis
from mvg.data.readers import Volume
from mvg.episode import Answer, Spec
from mvg.models.base import InContextModel
from mvg.next_scale import NextScale, Pyramid
from mvg.predictor import find_device, find_task, spread
from mvg.rasters import to_units
from mvg.scans import Scan, cut, is_scan, read_scan, read_scan_values, stored_rule, to_grid
from mvg.task import Task
from mvg.volume_context import read_target
from mvg.volume_predictor import VolumePrediction

log = logging.getLogger(__name__)

_SLAB = 1 << 22
"""Voxels that are painted or decoded at a time."""


@dataclass(frozen=True)
class Shown:
    """A pair of the context.

    Attributes:
        pyramid: The image at all scales.
        target: Class indices, or an image in [0, 1], `(X, Y, Z)`.
    """

    pyramid: Pyramid
    target: NDArray[Any]


class ScalePredictor:
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

    Raises:
        ValueError: If the network is not for volumes, or the device does not exist here.
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
    ) -> None:
        if len(network.image_size) != 3:
            raise ValueError(f"the network was built for pictures of {network.image_size}; take `mvg.VolumePredictor`")
        if adapter is not None:
            load_adapter(network, adapter)
        self.network, self.task = network.eval().to(find_device(device)), task
        self.rule, self.plan, self.seed = rule or Percentiles(), plan or NextScale(), seed
        self.context: list[Shown] = []
        self.specs: list[Spec] = []
        self.classes: list[int] = []

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        task: str | Task | None = None,
        adapter: str | Path | None = None,
        **options: Any,
    ) -> ScalePredictor:
        """Loads a trained folder.

        Args:
            folder: `<run>/weights` of a finished fit.
            task: As in `Predictor.from_pretrained`.
            adapter: As in `Predictor.from_pretrained`.
            **options: Arguments of the class; `rule` is by default the one that all sources of the training state, or
                else percentiles of each volume.
        """
        if task is None and adapter is not None:
            task = adapted_task(adapter)
        chosen = task if isinstance(task, Task) else find_task(weights.load_tasks(folder), task)
        rule = stored_rule(weights.describe(folder).get("sources", {}))
        return cls(weights.load(folder), chosen, **{"rule": rule, "adapter": adapter, **options})

    def set_context(self, images: Sequence[str | Path], targets: Sequence[str | Path]) -> None:
        """Reads the context; it stays until the next one is set.

        Args:
            images: Files of volumes.
            targets: One for each image; brought onto its grid by the two affines, as in training.

        Raises:
            ValueError: If a file is damaged or no volume, pairs do not fit together, or no class is shown.
        """
        left, right = [Path(path) for path in images], [Path(path) for path in targets]
        if len(left) != len(right) or not left:
            raise ValueError(f"a context needs a target for each image, got {len(left)} and {len(right)}")
        for path in (*left, *right):
            if not is_scan(path):
                raise ValueError(f"{path}: a network for volumes needs volumes as examples; show NIfTI, MHA or NRRD")
        self.context = [self._read_pair(*files) for files in zip(left, right, strict=True)]
        self.classes = self._find_classes(right[0]) if self.task.is_label else []
        probe = torch.tensor([self.classes]) if self.task.is_label else torch.zeros(1, 1)
        self.specs = self.task.pose([probe], np.random.default_rng(self.seed))

    def _read_pair(self, image: Path, target: Path) -> Shown:
        volume = read_scan_values(image)
        wanted = read_target(self.task, target, volume).values
        if self.task.is_label:
            stored: NDArray[Any] = wanted.astype(np.uint8 if wanted.max() < 256 else np.uint16)
        else:
            stored = normalise(wanted, self.rule.limits(wanted, None))
        return Shown(self._pyramid(volume, self.rule.limits(volume.values, None)), stored)

    def _pyramid(self, volume: Volume, limits: tuple[float, float]) -> Pyramid:
        image = torch.from_numpy(normalise(volume.values, limits))[None]
        channels = image.expand(self.network.in_channels, *image.shape[1:])
        return Pyramid(channels, self.network.image_size, spacing=volume.spacing)

    def _find_classes(self, first: Path) -> list[int]:
        """Lists the classes that the context shows; masks that hold no values but 0 and 255 are read as class 1."""
        found = sorted({int(k) for shown in self.context for k in np.unique(shown.target)} - {0})
        if not found:
            raise ValueError(f"{first}: the targets of the context show no class; mark what is asked for")
        if found != [255]:
            return found
        log.info("The targets hold 0 and 255 only: 255 is read as class 1")
        self.context = [Shown(shown.pyramid, (shown.target > 0).astype(np.uint8)) for shown in self.context]
        return [1]

    def describe(self) -> dict[str, Any]:
        """Says what was asked and how, for the description of an answer."""
        return {"specs": list(self.specs), "next_scale": to_config(self.plan)}

    def __call__(self, volume: str | Path | Scan) -> VolumePrediction:
        """Answers one volume after the context.

        Args:
            volume: A NIfTI, MetaImage or NRRD file, or what `read_scan` returned.

        Raises:
            ValueError: If no context is set, or the file is damaged or no plain volume.
        """
        if not self.context:
            raise ValueError("no context is set; call `set_context(images, targets)` first")
        scan = volume if isinstance(volume, Scan) else read_scan(Path(volume))
        limits = self.rule.limits(scan.volume.values, None)
        values = self._answer(scan, limits)
        axis = slicing_axis(scan.volume, "auto")
        assert axis is not None
        slices = cut(values, axis)
        voxels = {k: int((values == k).sum()) for k in self.classes}
        answer = to_grid(slices, axis, scan)
        return VolumePrediction(
            labels=answer if self.task.is_label else None,
            image=None if self.task.is_label else answer,
            affine=scan.affine,
            voxels=voxels,
            volumes={k: round(count * scan.voxel, 3) for k, count in voxels.items()},
            limits=limits,
            axis=axis,
            slices=slices,
        )

    def _answer(self, scan: Scan, limits: tuple[float, float]) -> NDArray[Any]:
        """Asks everything of one volume; returns classes, or values in its units, `(X, Y, Z)`."""
        query = self._pyramid(scan.volume, limits)
        kind = scan.kind
        if self.task.is_label:
            kind = np.dtype(np.uint8 if max(self.classes) < 256 else np.uint16)
        answer = np.zeros(scan.volume.values.shape, kind)
        best = np.zeros(answer.shape, np.float16) if len(self.specs) > 1 else None
        for number, spec in enumerate(self.specs):
            context = [each.pyramid.shows(self._paint(each.target, spec), self.plan.largest) for each in self.context]
            painted = self.plan(self.network, query, context)
            for part in _slabs(answer.shape):
                decoded = self.task.decode(painted[:, part], spec)
                new = self._values(decoded, limits, kind)
                if best is not None:
                    claim = self.task.claim(painted[:, part], spec).numpy().astype(np.float16)
                    wins = claim > best[part] if number else np.ones_like(claim, dtype=bool)
                    new, best[part] = np.where(wins, new, answer[part]), np.where(wins, claim, best[part])
                answer[part] = new
        return answer

    def _paint(self, target: NDArray[Any], spec: Spec) -> Tensor:
        """Paints a target of the context, `(C_out, X, Y, Z)`, in half precision."""
        painted = torch.empty(self.network.out_channels, *target.shape, dtype=torch.float16)
        for part in _slabs(target.shape):
            values = torch.from_numpy(target[part].astype(np.int64) if self.task.is_label else target[part][None])
            painted[:, part] = spread(self.task.paint(values, spec), self.network.out_channels).half()
        return painted

    def _values(self, decoded: Answer, limits: tuple[float, float], kind: np.dtype[Any]) -> NDArray[Any]:
        """Turns a decoded part into what is stored."""
        if decoded.labels is not None:
            return decoded.labels.numpy().astype(kind)
        if decoded.image is None or len(decoded.image) != 1:
            raise ValueError(
                f"{type(self.task).__name__} answers neither label maps nor grey volumes; use a 2D network"
            )
        return to_units(decoded.image, limits, kind)


def _slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Cuts an array along its first axis into parts of limited size."""
    step = max(1, _SLAB // int(np.prod(shape[1:])))
    return (slice(first, first + step) for first in range(0, shape[0], step))


def takes_volumes(folder: str | Path) -> bool:
    """Says whether the network in a trained folder was built for volumes."""
    return len(weights.describe(folder)["network"]["init_args"]["image_size"]) == 3
