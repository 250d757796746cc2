"""What the answers to volumes have in common: agreement, counting, and the grid of the file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvg.prediction.answers import Units
from mvg.prediction.scans import Scan, VolumeSource, cut, scan_of, to_grid
from mvg.prediction.uncertainty import Agreement
from mvg.task import Task


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
        uncertainty: In the shape of the file, float32, if it was asked for; see `mvg.prediction.uncertainty.Agreement`.
        agreement: How far further answers agree with this one, if that was asked for.
        units: Units of an image that are not those of the file.
        doubts: The uncertainty as such slices.
    """

    labels: NDArray[Any] | None
    image: NDArray[Any] | None
    affine: NDArray[np.float64]
    voxels: Mapping[int, int]
    volumes: Mapping[int, float]
    limits: tuple[float, float]
    axis: int
    slices: NDArray[Any]
    uncertainty: NDArray[np.float32] | None = None
    agreement: Mapping[str, Any] | None = None
    units: Units | None = None
    doubts: NDArray[np.float32] | None = None

    @property
    def painted(self) -> NDArray[Any]:
        """The label map, or else the image."""
        values = self.image if self.labels is None else self.labels
        assert values is not None
        return values


@dataclass(frozen=True)
class Asked:
    """A volume that is about to be answered.

    Attributes:
        limits: The values of the file that become 0 and 1.
        axis: Axis along which the answer is shown.
        answers: The answer, then those that it is compared with, each made when it is its turn.
        in_place: Puts an answer into the volume, `(X, Y, Z)`; with it comes the value, or `(X, Y, Z)` values, of what
            lies outside of it.
    """

    limits: tuple[float, float]
    axis: int
    answers: Iterator[NDArray[Any]]
    in_place: Callable[[NDArray[Any], float | NDArray[Any]], NDArray[Any]]


class VolumeAnswerer(ABC):
    """Answers volumes after a context.

    Attributes:
        classes: Classes that are asked for, ascending.
        units: Units of answers that are not those of the query.
    """

    classes: list[int]
    units: Units | None

    @property
    @abstractmethod
    def task(self) -> Task:
        """What the context shows."""

    @abstractmethod
    def ask(self, scan: Scan) -> Asked:
        """Prepares the answers to a volume.

        Raises:
            ValueError: If no context is set.
        """

    def units_of_answer(self, limits: tuple[float, float], scan: Scan) -> Units:
        """Returns the units of an answer: those of the targets, or else of the query."""
        return self.units or Units(limits, scan.kind, True)

    def _outside(self, asked: Asked, scan: Scan) -> float | NDArray[Any]:
        """What lies where nothing was asked: no class, the query itself where it is restored, else the lowest value."""
        if self.task.is_label:
            return 0
        return scan.volume.values if self.units is None else self.units.limits[0]

    def __call__(self, volume: VolumeSource) -> VolumePrediction:
        """Answers one volume after the context.

        Args:
            volume: A file, an array or a tensor `(X, Y, Z)`, an image of TorchIO, or what `read_scan` returned.

        Raises:
            ValueError: If no context is set, or the file is damaged or no plain volume.
        """
        scan = scan_of(volume)
        asked = self.ask(scan)
        answer = next(asked.answers)
        agreement: Agreement | None = None
        for member in asked.answers:
            agreement = agreement or Agreement(answer, self.classes)
            agreement.add(member)
        is_label = self.task.is_label
        whole = asked.in_place(answer, self._outside(asked, scan))
        voxels = {k: int((whole == k).sum()) for k in self.classes} if is_label else {}
        values = to_grid(whole, scan)
        doubt = None if agreement is None else asked.in_place(agreement.map(), 0)
        return VolumePrediction(
            labels=values if is_label else None,
            image=None if is_label else values,
            affine=scan.affine,
            voxels=voxels,
            volumes={k: round(count * scan.voxel, 3) for k, count in voxels.items()},
            limits=asked.limits,
            axis=asked.axis,
            slices=cut(whole, asked.axis),
            uncertainty=None if doubt is None else to_grid(doubt, scan),
            agreement=None if agreement is None else agreement.describe(),
            units=self.units,
            doubts=None if doubt is None else cut(doubt, asked.axis),
        )
