"""Teacher forcing: windows of a level for training, and a coarser answer as a network might have painted it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mvg.configuration import Configurable
from mvg.data.geometry import Placement, resize
from mvg.data.subject import Subject
from mvg.episode import Pair
from mvg.next_scale.level import Level, levels, nearest_level

_AIR = 0.05


class TeacherForcing(metaclass=Configurable):
    """Cuts training windows out of volumes at the levels of inference, and shows them the truth at the coarser level.

    A batch is either of the first level, whole volumes without a coarser answer, or of the finer ones. There the level
    is drawn evenly. The window of the query lies around a voxel that shows what is asked for, or else is not air; those
    of the context at the same relative place, or around such a voxel of their own.

    The coarser answer is the truth, reduced as from this level to the one before, and then spoilt as predictions are,
    so that the network learns to mend it instead of copying it: it is blurred; masks, if black and white, are
    thresholded again at another value than one half, with soft borders, after smooth noise has moved them; a smooth and
    a fine noise are added. The image at the coarser level is reduced alone. A volume that fits into one window is
    reduced by 2. Everything is drawn from the generator of the episode.

    Args:
        first: Share of training batches at the first level, [0, 1].
        same_place: Share of the episodes whose context windows lie at the same place as the query's, [0, 1].
        blur: Largest standard deviation of the blur, in voxels of the coarser level.
        jitter: Largest distance of the threshold from one half, [0, 0.5).
        noise: Largest standard deviation of each noise, in units of the data range.
        whole: Size to which validation and test bring whole volumes, which are then answered from coarse to fine; null
            scores the first level alone.
        single: Train windows of the finest level alone, without a coarser answer, to compare with.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        first: float = 0.4,
        same_place: float = 0.5,
        blur: float = 1.0,
        jitter: float = 0.2,
        noise: float = 0.05,
        whole: list[int] | None = None,
        single: bool = False,
    ) -> None:
        for name, share in {"first": first, "same_place": same_place}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"`{name}` must be a share in [0, 1], got {share}")
        if not 0 <= jitter < 0.5:
            raise ValueError(f"`jitter` must be in [0, 0.5), got {jitter}")
        if blur < 0 or noise < 0:
            raise ValueError(f"`blur` and `noise` must not be negative, got {blur} and {noise}")
        self.first, self.same_place, self.blur, self.jitter, self.noise = first, same_place, blur, jitter, noise
        self.whole, self.single = None if whole is None else tuple(whole), single

    def place(
        self,
        subjects: Sequence[Subject],
        anchors: Sequence[Tensor | None],
        window: Sequence[int],
        fine: bool,
        rng: np.random.Generator,
    ) -> tuple[list[Placement], tuple[float, ...]]:
        """Draws a level and a window for the query, and fitting windows for the context.

        Args:
            subjects: The query, then the context; of any size.
            anchors: For each of them `(*S)` bool, what is asked for; None for all that is not air.
            window: Size of the network's images.
            fine: Draw a finer level than the first, which is taken whole.
            rng: Draws.

        Returns:
            Where each window lies, and by what the query's level is finer than the one before, along each axis.
        """
        scales = [levels(subject.shape, window) for subject in subjects]
        if not fine:
            return [each[0].placement(each[0].around((0.5,) * len(window))) for each in scales], (1.0,) * len(window)
        shown = [content(subject) if mask is None else mask for subject, mask in zip(subjects, anchors, strict=True)]
        number = int(rng.integers(1, len(scales[0]))) if len(scales[0]) > 1 else 0
        number = len(scales[0]) - 1 if self.single else number
        level, known = scales[0][number], all(subject.spacing for subject in subjects)
        step = (2.0,) * len(window)
        if number:
            step = tuple(a / b for a, b in zip(level.size, scales[0][number - 1].size, strict=True))
        wanted = _spacing(subjects[0], level, known)
        low = level.around(draw_place(level, shown[0], rng))
        same, places = rng.random() < self.same_place, [level.placement(low)]
        for subject, each, anchor in zip(subjects[1:], scales[1:], shown[1:], strict=True):
            base = subject.spacing if known else tuple(1 / side for side in subject.shape)
            other = each[nearest_level(each, base, wanted)]
            centre = level.centre(low) if same else draw_place(other, anchor, rng)
            places.append(other.placement(other.around(centre)))
        return places, step

    def coarse(self, pair: Pair, step: Sequence[float], is_label: bool, rng: np.random.Generator) -> Pair:
        """Returns image and answer of a window at the coarser level, at the window's size.

        Args:
            pair: Image `(C_in, *S)` and target `(C_out, *S)` of the window.
            step: By what the window is finer than the coarser level, along each axis, at least 1.
            is_label: The target is a painted label map.
            rng: Draws the errors.
        """
        assert pair.target is not None
        window = tuple(pair.image.shape[1:])
        size = tuple(max(1, round(side / factor)) for side, factor in zip(window, step, strict=True))
        answer = _blur(resize(pair.target, size), float(rng.uniform(0, self.blur)))
        black_and_white = is_label and bool(((pair.target == 0) | (pair.target == 1)).all())
        if black_and_white:
            answer = answer + _noise(answer, 4, float(rng.uniform(0, 2 * self.noise)), rng)
            threshold, slope = 0.5 + rng.uniform(-self.jitter, self.jitter), rng.uniform(8, 32)
            answer = torch.sigmoid(slope * (answer - threshold))
        for cells in (4, 1):
            answer = answer + _noise(answer, cells, float(rng.uniform(0, self.noise)), rng)
        return Pair(resize(resize(pair.image, size), window), resize(answer.clamp(0, 1), window))


def content(subject: Subject) -> Tensor:
    """Returns the voxels of the first image of a subject that are not air, `(*S)` bool."""
    return next(iter(subject.images.values()))[0] > _AIR


def draw_place(level: Level, anchor: Tensor, rng: np.random.Generator) -> tuple[float, ...]:
    """Draws the relative middle of a window so that the window shows some voxel of a mask.

    Args:
        level: The level of the window.
        anchor: `(*S)` bool, at full resolution; where it is empty, any place is drawn.
        rng: Draws.
    """
    counts = anchor.flatten(1).sum(1).double().numpy()
    if not counts.any():
        return tuple(rng.random(len(level.size)).tolist())
    plane = int(rng.choice(len(counts), p=counts / counts.sum()))
    found = anchor[plane].nonzero()
    voxel = (plane, *found[int(rng.integers(len(found)))].tolist())
    away = rng.uniform(-0.4, 0.4, len(voxel)) * level.window / np.array(level.size)
    return tuple(((np.array(voxel) + 0.5) / np.array(level.shape) + away).clip(0, 1).tolist())


def _spacing(subject: Subject, level: Level, known: bool) -> tuple[float, ...]:
    base = subject.spacing if known else tuple(1 / side for side in subject.shape)
    return tuple(space * scale for space, scale in zip(base, level.scale, strict=True))


def _blur(values: Tensor, deviation: float) -> Tensor:
    """Blurs `(C, *S)` by a Gaussian of at most three voxels to each side; edges are repeated."""
    if deviation < 0.1:
        return values
    kernel = torch.exp(-0.5 * (torch.arange(-3, 4) / deviation) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    for axis in range(1, values.ndim):
        lines = values.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (3, 3), mode="replicate")
        values = F.conv1d(flat, kernel).view(lines.shape).movedim(-1, axis)
    return values


def _noise(values: Tensor, cells: int, deviation: float, rng: np.random.Generator) -> Tensor:
    """Draws noise like `(C, *S)` that is correlated over some voxels."""
    size = [max(1, -(-side // cells)) for side in values.shape[1:]]
    drawn = rng.standard_normal((len(values), *size), dtype=np.float32)
    return deviation * resize(torch.from_numpy(drawn), values.shape[1:])
