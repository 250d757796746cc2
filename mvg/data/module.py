"""The data module: sources and tasks in, loaders of episodes out."""

from __future__ import annotations

import logging
from multiprocessing import get_all_start_methods
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from mvg.data.augmentation import SubjectAugmentation
from mvg.data.choice import check_context_size
from mvg.data.episodes import EpisodeDataset
from mvg.data.loader import EpisodeLoader
from mvg.data.quarantine import Quarantine
from mvg.data.source import Source
from mvg.data.task_augmentation import TaskAugmentation
from mvg.next_scale.teacher import TeacherForcing
from mvg.task import Task

logger = logging.getLogger(__name__)


class EpisodeDataModule(pl.LightningDataModule):
    """Draws training, validation and test episodes from sources by tasks.

    Everything that can be wrong with data and tasks is found in `setup`, before the first step.

    Attributes:
        tested: Training is followed by a test, whose episodes are checked before it starts, too.

    Args:
        image_size: Size of every image; linked from the network.
        sources: Name to source.
        tasks: Name to task.
        in_channels: Channels of every image; linked from the network.
        out_channels: Channels of every target; linked from the network.
        batch_size: Episodes a batch, on each device.
        context_size: Number of context pairs, or the smallest and largest number, drawn once a batch.
        test_context_size: Number of context pairs in validation and test; by default the largest of training.
        epoch_length: Training episodes an epoch, over all devices.
        val_length: Validation episodes; the same ones in every epoch. 0 for none.
        test_length: Test episodes.
        workers: Processes that prepare batches.
        seed: Seed of the episodes.
        weights: Relative frequency in training of a source, a task or a `source/task`; 1 where not named.
        augmentation: Random changes in training; null for none.
        task_augmentation: Random changes of the task in training, the same for query and context; null for none.
        near: Largest distance of a context slice from the query, as a share of the volume, where enough such slices
            exist; null for no preference.
        same_patient: Allow context of the query's own patient.
        context_from_train: Take the context of validation and test from the training split, as it would be in use;
            by default from their own. Sources with cohorts (synthetic ones) always keep to the query's cohort.
        aspect: How images are brought to size: "stretch", "pad" or "crop".
        crop: Smallest and largest length of the random box in training, as a share of the image; null for whole images.
        controls: Add the task-swap control to validation and test.
        cohort_block: Consecutive training episodes that share one draw of the cohort (for sources with cohorts), so
            that its subjects are read less often.
        pin_memory: Copy batches to pinned memory; by default if there is a GPU.
        start_method: How these processes start: "fork", "spawn" or "forkserver"; null for the platform's own way.
        quarantine: Largest share of the cases of a source that training and validation may leave out because they
            cannot be read any more; `<run>/quarantine.csv` lists them. Tests leave out none.
        next_scale: Train windows of all levels, coarse to fine; null for whole images. With `crop`, the first level is
            whole images as without it.
        remembered: Subjects that each process keeps in memory; few where they are large volumes.
        flat_size: Size of the images of sources of two axes, where the network takes volumes as well
            (`mvg.models.Mixed`); a batch then holds pictures or volumes, as often as their weights say.
    """

    def __init__(
        self,
        image_size: list[int],
        sources: dict[str, Source],
        tasks: dict[str, Task],
        in_channels: int = 1,
        out_channels: int = 1,
        batch_size: int = 16,
        context_size: int | list[int] = 1,
        test_context_size: int | None = None,
        epoch_length: int = 10_000,
        val_length: int = 256,
        test_length: int = 512,
        workers: int = 0,
        seed: int = 0,
        weights: dict[str, float] | None = None,
        augmentation: SubjectAugmentation | None = None,
        near: float | None = None,
        same_patient: bool = False,
        context_from_train: bool = False,
        aspect: str = "stretch",
        crop: list[float] | None = None,
        controls: bool = True,
        cohort_block: int = 1,
        pin_memory: bool | None = None,
        task_augmentation: TaskAugmentation | None = None,
        start_method: str | None = None,
        quarantine: float = 0.01,
        next_scale: TeacherForcing | None = None,
        remembered: int = 32,
        flat_size: list[int] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
        self.image_size, self.sources, self.tasks = tuple(image_size), dict(sources), dict(tasks)
        self.in_channels, self.out_channels, self.batch_size = in_channels, out_channels, batch_size
        self.context_size = check_context_size(context_size)
        self.test_context_size = check_context_size(test_context_size or self.context_size[1])
        self.lengths = {"train": epoch_length, "val": val_length, "test": test_length}
        self.workers, self.seed, self.weights, self.augmentation = workers, seed, weights, augmentation
        self.task_augmentation = task_augmentation
        self.near, self.same_patient, self.context_from_train = near, same_patient, context_from_train
        self.aspect, self.crop, self.controls, self.cohort_block = aspect, crop, controls, cohort_block
        self.pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        self.start_method, self.quarantine = start_method, Quarantine(quarantine)
        self.next_scale, self.remembered, self.flat_size = next_scale, remembered, flat_size
        self.datasets: dict[str, EpisodeDataset] = {}
        self.tested = False
        self._check_options()

    @property
    def names(self) -> tuple[str, ...]:
        """Names `source/task` of all pairs that occur in any split, sorted; known after `setup`."""
        return tuple(sorted({"/".join(pair) for dataset in self.datasets.values() for pair in dataset.pairs}))

    def prepare_data(self) -> None:
        """Lets every source prepare its files, on one process."""
        self._check_dims()
        for source in self.sources.values():
            source.items("train")

    def setup(self, stage: str) -> None:
        """Makes the data sets of a stage ("fit", "validate" or "test") and checks them.

        Raises:
            ValueError: If a source or task is of no use, or some pair of them cannot make an episode.
        """
        self._check_dims()
        if self.trainer is not None:
            self.quarantine.table = Path(self.trainer.default_root_dir) / "quarantine.csv"
        for split in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ("test",)):
            if split not in self.datasets and self.lengths[split] > 0:
                dataset = self.make_dataset(split)
                check_pairs(dataset, self.seed)
                self.datasets[split] = dataset
        if stage == "fit" and "train" in self.datasets:
            self._check_use()
        if stage == "fit" and self.tested:
            if not self.lengths["test"]:
                raise ValueError("`test_length` 0 gives nothing to report; set it to the number of episodes")
            check_pairs(self.make_dataset("test"), self.seed)

    def make_dataset(self, split: str) -> EpisodeDataset:
        """Makes the episodes of a split."""
        training = split == "train"
        return EpisodeDataset(
            self.sources,
            self.tasks,
            split,
            self.lengths[split],
            self.image_size,
            self.in_channels,
            self.out_channels,
            context_size=self.context_size if training else self.test_context_size,
            batch_size=self.batch_size,
            seed=self.seed,
            weights=self.weights,
            augmentation=self.augmentation,
            task_augmentation=self.task_augmentation,
            near=self.near,
            same_patient=self.same_patient,
            context_split="train" if self.context_from_train else None,
            aspect=self.aspect,
            crop=self.crop,
            controls=self.controls,
            cohort_block=self.cohort_block,
            remembered=self.remembered,
            next_scale=self.next_scale,
            flat_size=self.flat_size,
            ranks=self.trainer.world_size if self.trainer is not None else 1,
            quarantine=None if split == "test" else self.quarantine,
        )

    def teardown(self, stage: str) -> None:
        """Says which cases were left out."""
        if self.quarantine.cases() and (self.trainer is None or self.trainer.is_global_zero):
            left_out = ", ".join(f"{source}/{case}" for source, case in sorted(self.quarantine.cases()))
            logger.warning("left out as unreadable, see %s: %s", self.quarantine.table, left_out)

    def _check_options(self) -> None:
        lengths = {f"{split}_length" if split != "train" else "epoch_length": n for split, n in self.lengths.items()}
        for option, value in {**lengths, "workers": self.workers, "seed": self.seed}.items():
            if value < 0:
                raise ValueError(f"`{option}` must not be negative, got {value}")
        if self.start_method not in (None, *get_all_start_methods()):
            raise ValueError(
                f"`start_method` must be one of {get_all_start_methods()} or null, got {self.start_method!r}"
            )
        if self.flat_size and (len(self.flat_size), len(self.image_size)) != (2, 3):
            raise ValueError(
                f"`flat_size` is of two axes beside volumes, got {self.flat_size} beside {self.image_size}"
            )
        if self.flat_size and self.next_scale is not None:
            raise ValueError("`next_scale` trains volumes alone; set it or `flat_size` to null")
        if self.near is not None and not 0 <= self.near <= 1:
            raise ValueError(f"`near` must be a share of the volume in [0, 1], or null, got {self.near}")
        for name in (*self.sources, *self.tasks):
            if not name or set(name) & set("./"):
                raise ValueError(f"names of sources and tasks hold no dot and no slash, got {name!r}; rename it")

    def _check_dims(self) -> None:
        if not self.sources or not self.tasks:
            raise ValueError(
                f"data needs at least one source and one task, got {len(self.sources)} and {len(self.tasks)}"
            )
        for name, source in self.sources.items():
            if source.dims not in {len(self.image_size), len(self.flat_size or self.image_size)}:
                raise ValueError(
                    f"source {name!r} has images of {source.dims} axes, but the network takes {self.image_size}; "
                    "for folders, set `slices`"
                )

    def _check_use(self) -> None:
        """Checks that training uses every source and every task."""
        pairs = self.datasets["train"].pairs
        for kind, names, used in (
            ("source", self.sources, {source for source, _ in pairs}),
            ("task", self.tasks, {task for _, task in pairs}),
        ):
            for name in names:
                if name not in used and (self.weights or {}).get(name, 1.0) > 0:
                    other = "task accepts" if kind == "source" else "source suits"
                    raise ValueError(f"no {other} the {kind} {name!r} in training; remove it, or give it weight 0")

    def train_dataloader(self) -> EpisodeLoader:
        """Returns the training batches of this rank."""
        loader = self._loader("train")
        if not len(loader):
            raise ValueError(
                f"`epoch_length` {self.lengths['train']} is less than one batch of {self.batch_size} on each device"
            )
        return loader

    def val_dataloader(self) -> EpisodeLoader | list[EpisodeLoader]:
        """Returns the validation batches of this rank."""
        return self._loader("val") if "val" in self.datasets else []

    def test_dataloader(self) -> EpisodeLoader:
        """Returns the test batches of this rank."""
        return self._loader("test")

    def _loader(self, split: str) -> EpisodeLoader:
        if split not in self.datasets:
            option = "epoch_length" if split == "train" else f"{split}_length"
            raise ValueError(f"`{option}` is 0, so that there is nothing to do; set it to the number of episodes")
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        return EpisodeLoader(self.datasets[split], ranks, rank, self.workers, self.pin_memory, self.start_method)


def check_pairs(dataset: EpisodeDataset, seed: int) -> None:
    """Makes one episode of every pair of source and task, with the largest context.

    Raises:
        ValueError: If no pair fits the split, or a pair cannot make an episode, or one that does not fit the network.
    """
    if not dataset.pairs:
        raise ValueError(
            f"no task accepts any source in split {dataset.split!r} (tasks {sorted(dataset.tasks)}, "
            f"sources {sorted(dataset.sources)}); see that the sources have the roles and the split that the tasks need"
        )
    for source, task in dataset.pairs:
        rng = np.random.default_rng(seed)
        dataset.build(dataset.plan_pair(source, task, dataset.context_sizes[1], rng), rng)
    logger.info("%s: %s", dataset.split, ", ".join(f"{source}/{task}" for source, task in dataset.pairs))
