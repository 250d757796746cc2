"""Artefacts of MRI that arise in k-space: motion during the scan, ghosts, spikes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mvg.data.subject import Subject
from mvg.episode import Spec
from tasks.kspace import along, central, from_lines, to_lines
from tasks.restoration import Restoration, Unit, check_choice, check_kinds, choose, draw_axis, pixels

Artefact = Literal["motion", "ghosts", "spikes"]
PARAMETERS = {"motion": ("shift", "rotation", "moves"), "ghosts": ("ghosting", "ghosts"), "spikes": ("spike", "spikes")}
"""Ranges that each kind of artefact draws from."""


class ArtefactRemoval(Restoration):
    """Paints the clean image from one with an artefact of MRI.

    *Motion*: phase-encoding lines are acquired one after the other, in order of frequency, while the object moves
    `moves` times at random moments. With the poses T_j and the masks M_j of the lines acquired in each, the image is
    `|F^-1 sum_j M_j F (T_j x)|` (Shaw et al. 2019, "MRI k-space motion artefact augmentation"). The pose at frequency
    0 is that of the target, so that the target lies where the image lies. Each further pose is turned by `rotation`
    about the centre and moved by `shift`, both in random directions; turns take pixels to be square.
    *Ghosts*: every `ghosts`-th line outside of the central 5 % is weakened by the factor `1 - ghosting`, as by
    periodic motion; as many copies of the object appear along the axis.
    *Spikes*: `spikes` samples of k-space away from the centre are spoiled, each adding a wave
    `spike * cos(2 pi k x + phase)` to the image.

    Strengths and axis are shared by an episode; moments, directions, frequencies and phases differ between images.

    Args:
        role: The clean image, the target.
        degraded: Role of an image that has the artefact already; see `Restoration`.
        kinds: Kinds of artefact, one of them drawn for each episode.
        shift: Range of the length of the displacement of a pose, in `unit`.
        rotation: Range of the angle of a pose in degrees.
        moves: Range of the number of moves.
        ghosting: Range of the share of a line's signal that is lost, (0, 1].
        ghosts: Range of the number of ghosts; every so many lines one is weakened, at least 2.
        spike: Range of the amplitude of a wave, in units of the data range.
        spikes: Range of the number of waves.
        unit: "pixel", or "mm" where every subject says its spacing.
        axis: Phase-encoding axis; drawn for each episode by default.
        foreground: Least share of the loss weight that the foreground gets, [0, 1).
        mim: Share of training episodes trained by masked image modelling, [0, 1].
    """

    whole: ClassVar[frozenset[str]] = frozenset({"moves", "ghosts", "spikes"})

    def __init__(
        self,
        role: str = "image",
        degraded: str = "artefact",
        kinds: Sequence[Artefact] = ("motion",),
        shift: tuple[float, float] = (1.0, 4.0),
        rotation: tuple[float, float] = (1.0, 6.0),
        moves: tuple[int, int] = (1, 4),
        ghosting: tuple[float, float] = (0.2, 0.8),
        ghosts: tuple[int, int] = (2, 6),
        spike: tuple[float, float] = (0.03, 0.15),
        spikes: tuple[int, int] = (1, 3),
        unit: Unit = "pixel",
        axis: int | None = None,
        foreground: float = 0.0,
        mim: float = 0.9,
    ) -> None:
        ranges = {"shift": shift, "rotation": rotation, "moves": moves, "ghosting": ghosting, "ghosts": ghosts}
        super().__init__(role, degraded, {**ranges, "spike": spike, "spikes": spikes}, foreground, mim)
        check_kinds(kinds, list(PARAMETERS))
        check_choice("unit", unit, ("pixel", "mm"))
        if ghosting[1] > 1 or ghosts[0] < 2:
            raise ValueError(f"`ghosting` must be at most 1 and `ghosts` at least 2, got {ghosting} and {ghosts}")
        self.kinds, self.unit, self.axis = list(kinds), unit, axis

    def strengths(self, rng: np.random.Generator) -> Spec:
        """Draws the kind of artefact and its strengths."""
        kind = choose(self.kinds, rng)
        return {"kind": kind, **{name: self.strength(name, rng) for name in PARAMETERS[kind]}}

    def orient(self, dims: int, rng: np.random.Generator) -> Spec:
        """Draws the phase-encoding axis."""
        return {"axis": draw_axis(self.axis, dims, rng)}

    def degrade(self, clean: Tensor, subject: Subject, spec: Spec, rng: np.random.Generator) -> Tensor:
        """Adds the artefact."""
        if spec["kind"] == "ghosts":
            return ghost(clean, spec["ghosts"], spec["ghosting"], spec["axis"])
        if spec["kind"] == "spikes":
            return add_waves(clean, spec["spikes"], spec["spike"], rng)
        lengths = tuple(spec["shift"] * factor for factor in pixels(self.unit, subject))
        return move(clean, spec["moves"], lengths, spec["rotation"], spec["axis"], rng)


def move(
    image: Tensor, moves: int, shift: Sequence[float], rotation: float, axis: int, rng: np.random.Generator
) -> Tensor:
    """Magnitude of an image whose object moves during the scan; see `acquire`."""
    return acquire(image, moves, shift, rotation, axis, rng).abs()


def acquire(
    image: Tensor, moves: int, shift: Sequence[float], rotation: float, axis: int, rng: np.random.Generator
) -> Tensor:
    """Acquires lines of k-space while the object moves; complex.

    Args:
        image: `(C, *S)`, not negative.
        moves: Number of moves.
        shift: Length of a displacement in pixels of each axis of S.
        rotation: Angle of a pose in degrees.
        axis: Phase-encoding axis of S.
        rng: Draws moments and directions.
    """
    size, dims = image.shape[axis + 1], image.ndim - 1
    starts = np.sort(rng.integers(1, max(2, size), moves))
    pose_of_line = np.searchsorted(starts, np.arange(size), side="right")
    lines = to_lines(image, axis)
    for number in range(moves + 1):
        direction = rng.standard_normal(dims)
        offset = direction / np.linalg.norm(direction) * shift
        turns = math.radians(rotation) * _directions(dims * (dims - 1) // 2, rng)
        acquired = pose_of_line == number
        if number != pose_of_line[size // 2] and acquired.any():
            moved = to_lines(rigid(image, offset, turns), axis)
            lines = torch.where(along(torch.from_numpy(acquired), axis, dims), moved, lines)
    return from_lines(lines, axis)


def _directions(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a unit vector: one sign in 2D, shares of the angle in the three planes in 3D."""
    vector: np.ndarray = rng.standard_normal(count)
    vector /= np.linalg.norm(vector)
    return vector


def rigid(image: Tensor, offset: np.ndarray, turns: np.ndarray) -> Tensor:
    """Turns an image about its centre, then moves it.

    Turns are made of three shears (Unser et al. 1995), and shears and shifts are phases in Fourier space: no detail is
    lost, as it would be by interpolation, and what leaves the image on one side comes back on the other.

    Args:
        image: `(C, *S)`.
        offset: `(dims,)`, in pixels along the axes of S.
        turns: `(1,)` or `(3,)`, radians in the planes (0, 1), (0, 2), (1, 2).
    """
    dims = image.ndim - 1
    planes = [(first, second) for first in range(dims) for second in range(first + 1, dims)]
    for (first, second), angle in zip(planes, turns, strict=True):
        outer, inner = -math.tan(angle / 2), math.sin(angle)
        for axis, other, slope in ((first, second, outer), (second, first, inner), (first, second, outer)):
            size = image.shape[other + 1]
            image = slide(image, axis, along(slope * (torch.arange(size) - (size - 1) / 2), other, dims))
    for axis in range(dims):
        image = slide(image, axis, torch.tensor(offset[axis], dtype=torch.float32))
    return image


def slide(image: Tensor, axis: int, distance: Tensor) -> Tensor:
    """Moves lines of `(C, *S)` along one axis of S, each by its distance in pixels, which broadcasts to S."""
    size, dims = image.shape[axis + 1], image.ndim - 1
    phase = -2 * math.pi * along(torch.fft.fftfreq(size), axis, dims) * distance
    moved = torch.fft.fft(image, dim=axis + 1) * torch.polar(torch.ones_like(phase), phase)
    shown: Tensor = torch.fft.ifft(moved, dim=axis + 1).real
    return shown


def ghost(image: Tensor, period: int, loss: float, axis: int) -> Tensor:
    """Weakens every `period`-th line of k-space but the central 5 % by the factor `1 - loss`; the magnitude."""
    size = image.shape[axis + 1]
    gain = torch.ones(size)
    gain[size // 2 % period :: period] = 1 - loss
    gain[central(size, max(1, round(0.05 * size)))] = 1
    return from_lines(to_lines(image, axis) * along(gain, axis, image.ndim - 1), axis).abs()


def add_waves(image: Tensor, count: int, amplitude: float, rng: np.random.Generator) -> Tensor:
    """Adds plane waves of random frequency, from an eighth of the highest one on, and random phase."""
    shape = image.shape[1:]
    for _ in range(count):
        highest = np.array(shape) // 2
        frequency = rng.integers(-highest, highest + 1)
        axis = int(rng.choice(np.flatnonzero(highest)))
        frequency[axis] = rng.integers(max(1, highest[axis] // 4), highest[axis] + 1)
        phase = torch.full(tuple(shape), float(rng.uniform(0, 2 * math.pi)))
        for place, size in enumerate(shape):
            turn = 2 * math.pi * int(frequency[place]) / size * torch.arange(size)
            phase = phase + along(turn, place, len(shape))
        image = image + amplitude * phase.cos()
    return image
