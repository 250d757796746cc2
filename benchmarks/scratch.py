"""An entrant that has seen nothing before: a U-Net trained from scratch on the examples that it is shown."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.entrant import Entrant, Shown, digest, first_of
from benchmarks.suite import Question
from benchmarks.unet import Sample, Specialist, Specialty, train_on
from mvg.data.augmentation import Augmentation
from mvg.data.geometry import from_slices, resize, resize_labels, to_slices
from mvg.data.location import Location, read_grid
from mvg.data.preparation import slicing_axis
from mvg.data.readers import Volume
from mvg.data.subject import Item, Subject

_STEPS = 10**9


class FromScratch(Entrant):
    """A U-Net in 2D for one structure, trained for the minutes that a user would wait; volumes are cut into slices.

    Half of the training slices show the structure, the others are any; they are moved, bent and changed in grey values
    at random.

    Args:
        minutes: Training time for each context.
        size: Length of the square that slices are stretched to, in pixels; a multiple of 8.
        batch_size: Slices a step.
        name: Its name in tables.
    """

    def __init__(self, minutes: float = 3.0, size: int = 128, batch_size: int = 16, name: str = "U-Net") -> None:
        if not minutes > 0:
            raise ValueError(f"`minutes` must be greater than 0, got {minutes}")
        if size < 16 or size % 8:
            raise ValueError(f"`size` must be a multiple of 8 of at least 16, got {size}")
        self.minutes, self.size, self.batch_size, self.name = minutes, size, batch_size, name
        self.digest = digest("from scratch", minutes, size, batch_size)
        self.question: Question | None = None
        self.seed = 0
        self.network: Specialist | None = None

    def ask(self, question: Question, dims: int, shot: int, draw: int) -> None:
        """Notes the structure.

        Raises:
            ValueError: If none is asked for.
        """
        if question.label is None:
            raise ValueError(f"{question.name} asks for no structure; a U-Net from scratch is trained for one")
        self.question, self.seed = question, zlib.crc32(f"{question.name} {shot} {draw}".encode())

    def set_context(self, images: Sequence[Shown], targets: Sequence[Path]) -> None:
        """Trains on the examples."""
        assert self.question is not None
        samples = ExampleSlices(self._subjects([first_of(image) for image in images], targets), self.seed)
        pl.seed_everything(self.seed, verbose=False)
        network = Specialist(Specialty("examples", self.question.name, self.question.asked, 2), 1, self.minutes)
        train_on(network, DataLoader(samples, self.batch_size))
        self.network = network

    def __call__(self, image: Shown) -> NDArray[Any]:
        """Answers one image, slice by slice."""
        assert self.network is not None
        assert self.question is not None
        slices, axis = read_slices(first_of(image), self.question.slices)
        found = []
        with torch.inference_mode(), torch.autocast(self.network.device.type, torch.bfloat16):
            for part in self._fit(slices).split(self.batch_size):
                scores = self.network(part.to(self.network.device)).float().cpu().softmax(1)[:, 1]
                found.append(resize(scores, slices.shape[1:]) > 0.5)
        masks = torch.cat(found)
        whole = masks[0] if axis is None else from_slices(masks, axis)
        answer: NDArray[Any] = whole.numpy().astype(np.uint8)
        return answer

    def _subjects(self, images: Sequence[Path], targets: Sequence[Path]) -> list[Subject]:
        assert self.question is not None
        made, cut = [], self.question.slices
        for image, target in zip(images, targets, strict=True):
            pictures = self._fit(read_slices(image, cut)[0])
            masks = (read_slices(target, cut)[0] > 0.5).long()
            for picture, mask in zip(pictures, masks, strict=True):
                labels = {"labels": resize_labels(mask, (self.size, self.size))}
                made.append(Subject({"image": picture}, labels, Item(image.name, image.name, frozenset())))
        return made

    def _fit(self, slices: Tensor) -> Tensor:
        """Stretches slices `(n, H, W)` to `(n, 1, size, size)`."""
        return resize(slices, (self.size, self.size))[:, None]


def read_slices(path: Path, slices: str) -> tuple[Tensor, int | None]:
    """Reads a picture as one slice, or cuts a volume; `(n, H, W)` and the axis."""
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))[None], None
    found = read_grid(Location(path), labels=True)
    assert isinstance(found, Volume)
    axis = slicing_axis(found, slices)
    assert axis is not None
    values = torch.from_numpy(np.ascontiguousarray(found.values, dtype=np.float32))
    return to_slices(values, axis).contiguous(), axis


class ExampleSlices(Dataset[Sample]):
    """Endless training slices, every other one of those that show the structure.

    Args:
        subjects: The slices, `image` `(1, H, W)` and `labels` `(H, W)`.
        seed: Seed of everything.
    """

    def __init__(self, subjects: Sequence[Subject], seed: int) -> None:
        self.subjects, self.seed, self.augmentation = list(subjects), seed, Augmentation()
        self.shown = [subject for subject in self.subjects if subject.labels["labels"].any()]

    def __len__(self) -> int:
        return _STEPS

    def __getitem__(self, number: int) -> Sample:
        rng = np.random.default_rng([self.seed, number])
        offered = self.shown if self.shown and number % 2 else self.subjects
        subject = replace(offered[int(rng.integers(len(offered)))])
        changed = self.augmentation([subject], rng, True)[0]
        labels = changed.labels["labels"][None]
        return changed.images["image"], labels, torch.ones_like(labels, dtype=torch.float32)
