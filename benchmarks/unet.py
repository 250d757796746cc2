"""Plain U-Nets in 2D or 3D, one for each task of each source: what specialists reach on the same patients.

Segmentation is one network a source and label role, with all classes at once (softmax, Dice and cross-entropy).
Denoising and inpainting are one network a source that paints the difference from its input, at first none; synthesis is
one a direction (L1). A specialist sees no examples, so that its augmentation leaves out what only examples explain:
mirror images where classes have a side, and changes of grey values that differ between input and target.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from monai.losses.dice import DiceCELoss
from monai.networks.nets.dynunet import DynUNet
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from benchmarks.evaluation import Entrant, Protocol, episodes
from benchmarks.questions import Question, narrow, questions
from mvg.data import EpisodeDataModule
from mvg.data.episodes import EpisodeDataset, Plan, repeat_channels
from mvg.data.loader import start_worker
from mvg.data.source import Index
from mvg.models.streams import channels_last
from mvg.task import Task
from tasks import Segmentation, Synthesis
from tasks.painting import gather

logger = logging.getLogger(__name__)

Sample = tuple[Tensor, Tensor, Tensor]
"""Image `(C_in, *S)`, target (`(1, *S)` int64 classes, or `(1, *S)` in [0, 1]) and weight `(1, *S)`."""

RATE = 1e-3
"""Highest learning rate."""
_STEPS = 10**9


@dataclass(frozen=True)
class Specialty:
    """What one U-Net learns.

    Attributes:
        source: Name of the source.
        name: Name of the task.
        task: The task; for synthesis, in this direction only.
        classes: Classes with background; 0 for image tasks.
        asked: Name of each question it answers, to the class that is asked for (0 for image tasks).
    """

    source: str
    name: str
    task: Task
    classes: int = 0
    asked: dict[str, int] = field(default_factory=dict)


def specialties(data: EpisodeDataModule, protocol: Protocol) -> list[Specialty]:
    """Lists the U-Nets that are needed to answer every question of the protocol.

    Raises:
        ValueError: If classes are painted in colours; a U-Net answers the scheme "binary".
    """
    dataset = episodes(data, protocol)
    found: dict[tuple[str, ...], Specialty] = {}
    for source, name in dataset.pairs:
        task = dataset.tasks[name]
        if isinstance(task, Segmentation) and task.scheme != "binary":
            raise ValueError(f'task {name!r} paints in the scheme {task.scheme!r}; U-Nets need the scheme "binary"')
        for question in questions(dataset, source, name):
            _assign(found, question, task)
    return list(found.values())


def _assign(found: dict[tuple[str, ...], Specialty], question: Question, task: Task) -> None:
    """Gives a question to the U-Net that answers it."""
    spec = question.spec
    key: tuple[str, ...] = (question.source, question.task)
    if isinstance(task, Synthesis):
        key = (*key, question.variant)
        task = narrow(task, sources=spec["inputs"], targets=[spec["target"]])
    classes = spec["highest"] + 1 if isinstance(task, Segmentation) else 0
    specialty = found.setdefault(key, Specialty(question.source, question.task, task, classes))
    specialty.asked[question.name] = int(spec["classes"][0][0]) if classes else 0


class Slices(Dataset[Sample]):
    """Endless training slices, or windows of volumes, of one specialty, drawn as for the in-context network.

    Args:
        data: Sources, sizes and augmentation.
        specialty: What is learned.
        seed: Seed of everything.
    """

    def __init__(self, data: EpisodeDataModule, specialty: Specialty, seed: int = 0) -> None:
        self.specialty, self.seed, self.channels = specialty, seed, data.in_channels
        self.index = Index(data.sources[specialty.source].items("train"))
        self.dataset = data.make_dataset("train")
        self.dataset.remembered = 512
        without_examples(self.dataset, specialty.task)

    def __len__(self) -> int:
        return _STEPS

    def __getitem__(self, number: int) -> Sample:
        rng, own = np.random.default_rng([self.seed, number]), self.specialty
        spec = own.task.draw(self.index, rng, training=True)
        offered = self.index.find(tuple(spec["query"]))
        item = self.index.items[int(offered[rng.integers(len(offered))])]
        subject = self.dataset.subjects(Plan(own.source, own.name, spec, (item,), fine=True), rng)[0]
        what = f"images of task {own.name!r}"
        if isinstance(own.task, Segmentation):
            image = repeat_channels(gather(subject, own.task.roles), self.channels, what)
            return image, subject.labels[own.task.labels][None], torch.ones(1, *image.shape[1:])
        pair = own.task.encode(subject, own.task.complete(spec, [subject], rng), rng)
        assert pair.target is not None
        weight = torch.ones(1, *pair.image.shape[1:]) if pair.weight is None else pair.weight
        return repeat_channels(pair.image, self.channels, what), pair.target, weight


def without_examples(dataset: EpisodeDataset, task: Task) -> None:
    """Takes out of a data set's augmentation what only examples explain."""
    if dataset.augmentation is None:
        return
    arguments = dict(dataset.augmentation.init_args)  # type: ignore[attr-defined]
    if task.is_label:
        arguments["flip"] = 0.0
    if isinstance(task, Synthesis):
        arguments["look"] = 0.0
    dataset.augmentation = type(dataset.augmentation)(**arguments)


class Specialist(pl.LightningModule):
    """A U-Net with residual units, trained for some minutes or steps with AdamW and a cosine schedule over them.

    Args:
        specialty: What is learned.
        channels: Channels of images.
        minutes: Training time, at which training stops, unless steps are given.
        widths: Channels of the levels, at full, half, quarter, ... size; by default four from 32 on (3D: 16).
        learning_rate: Highest learning rate.
        dims: Number of axes of the images.
        steps: Number of steps, instead of minutes.
    """

    def __init__(
        self,
        specialty: Specialty,
        channels: int = 1,
        minutes: float = 1.0,
        widths: Sequence[int] | None = None,
        learning_rate: float = RATE,
        dims: int = 2,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.classes, self.minutes, self.learning_rate = specialty.classes, minutes, learning_rate
        self.restores = not specialty.classes and not isinstance(specialty.task, Synthesis)
        widths = widths or [(32 if dims == 2 else 16) * 2**level for level in range(4)]
        strides = [1] + [2] * (len(widths) - 1)
        self.net = DynUNet(
            dims,
            channels,
            specialty.classes or 1,
            [3] * len(widths),
            strides,
            strides[1:],
            list(widths),
            res_block=True,
        )
        if self.restores:
            nn.init.zeros_(self.net.output_block.conv.conv.weight)
            nn.init.zeros_(self.net.output_block.conv.conv.bias)
        self.format = channels_last(dims)
        self.to(memory_format=self.format)
        self.overlap = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
        self._start = math.inf

    def forward(self, image: Tensor) -> Tensor:
        """Maps `(B, C_in, *S)` to `(B, classes, *S)` scores, or to a `(B, 1, *S)` image."""
        out: Tensor = self.net(image.contiguous(memory_format=self.format)).float()
        return out + image.mean(1, keepdim=True) if self.restores else out

    def training_step(self, batch: Sample, index: int) -> Tensor:
        """Dice and cross-entropy of classes, or weighted L1 of an image; stops when the minutes are spent."""
        image, target, weight = batch
        self.trainer.should_stop = self.spent >= 1
        painted = self(image)
        if self.classes:
            overlap: Tensor = self.overlap(painted, target)
            return overlap
        error: Tensor = ((painted - target).abs() * weight).sum() / weight.sum()
        return error

    @property
    def spent(self) -> float:
        """Share of the training that has passed."""
        if self.steps is not None:
            return self.trainer.global_step / self.steps
        return max(0.0, time.monotonic() - self._start) / (60 * self.minutes)

    def on_train_start(self) -> None:
        """Starts the clock."""
        self._start = time.monotonic()

    def configure_optimizers(self) -> Any:
        """AdamW, with a short warm-up and half a cosine over the training."""
        optimizer = AdamW(self.net.parameters(), lr=self.learning_rate, weight_decay=0.01)
        schedule = LambdaLR(
            optimizer,
            lambda step: min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * min(1.0, self.spent))),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train_unets(
    data: EpisodeDataModule,
    minutes: float,
    protocol: Protocol | None = None,
    batch_size: int = 16,
    workers: int = 1,
    seed: int = 0,
    rate: float = RATE,
    steps: int | None = None,
) -> dict[str, tuple[Specialist, int]]:
    """Trains all U-Nets, for equal shares of the time.

    Args:
        data: Sources, tasks and sizes.
        minutes: Minutes of all of them together.
        protocol: Names the questions they are to answer.
        batch_size: Slices a step.
        workers: Processes that prepare slices.
        seed: Seed of weights and slices.
        rate: Highest learning rate.
        steps: Number of steps of each, instead of minutes.

    Returns:
        Name of each question to its U-Net and the class that is asked for (0 for image tasks).
    """
    wanted, trained = specialties(data, protocol or Protocol()), {}
    for specialty in wanted:
        network = train_unet(data, specialty, minutes / len(wanted), batch_size, workers, seed, rate, steps)
        trained.update({name: (network, number) for name, number in specialty.asked.items()})
    return trained


def train_unet(
    data: EpisodeDataModule,
    specialty: Specialty,
    minutes: float,
    batch_size: int = 16,
    workers: int = 1,
    seed: int = 0,
    rate: float = RATE,
    steps: int | None = None,
) -> Specialist:
    """Trains one U-Net; returns it ready to answer. Arguments are those of `train_unets`."""
    pl.seed_everything(seed, verbose=False)
    network = Specialist(
        specialty, data.in_channels, minutes, learning_rate=rate, dims=len(data.image_size), steps=steps
    )
    loader = DataLoader(
        Slices(data, specialty, seed),
        batch_size,
        num_workers=workers,
        worker_init_fn=start_worker if workers else None,
    )
    steps = train_on(network, loader)
    logger.info("%s/%s: U-Net, %d steps", specialty.source, specialty.name, steps)
    return network


def train_on(network: Specialist, samples: DataLoader[Sample]) -> int:
    """Trains a U-Net in place, for the minutes or steps that it was made for; returns the number of steps."""
    trainer = pl.Trainer(
        max_epochs=1,
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(network.train(), samples)
    network.eval()
    return trainer.global_step


def unet_entrant(trained: Mapping[str, tuple[Specialist, int]]) -> Entrant:
    """Makes an entrant of trained U-Nets; it answers each question with the one that learned it.

    Args:
        trained: What `train_unets` returned.
    """

    def answer(image: Tensor, context_images: Tensor, context_targets: Tensor, name: str) -> Tensor:
        if name not in trained:
            raise ValueError(f"no U-Net has learned {name!r}; train them with the same sources and tasks")
        network, asked = trained[name]
        with torch.inference_mode(), torch.autocast(network.device.type, torch.bfloat16):
            painted = network(image.to(network.device)).cpu()
        if network.classes:
            painted = (painted.argmax(1, keepdim=True) == asked).float()
        result: Tensor = painted.expand(-1, context_targets.shape[2], *painted.shape[2:])
        return result

    return answer
