"""Episodes drawn from sources and tasks: each is a pure function of seed, split, epoch and index."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mvg.data.augmentation import SubjectAugmentation
from mvg.data.buckets import Buckets, weigh_pairs
from mvg.data.choice import check_context_size, choose_context
from mvg.data.geometry import fit, place, place_crop
from mvg.data.quarantine import Quarantine
from mvg.data.source import SPLITS, Index, Source
from mvg.data.subject import Item, Subject
from mvg.data.task_augmentation import TaskAugmentation
from mvg.episode import Episode, Pair, Spec
from mvg.next_scale.teacher import TeacherForcing
from mvg.task import Task
from mvg.wording import counted

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_DRAWS = 20
_INDICES = 256
_SPARE = range(3, 53)
"""Streams of random numbers that an episode is drawn from anew."""
_FINE = 53
"""Stream that decides whether a batch is of a finer level."""
_SIZE = 54
"""Stream that decides whether a batch is of pictures or of volumes."""


@dataclass(frozen=True)
class Plan:
    """An episode before a pixel is read.

    Attributes:
        source: Name of the source.
        task: Name of the task.
        spec: What the task drew.
        items: The query, then the context.
        fine: The query is a window of a finer level, in next-scale training.
    """

    source: str
    task: str
    spec: Spec
    items: tuple[Item, ...]
    fine: bool = False

    @property
    def name(self) -> str:
        """Name of source and task, `source/task`."""
        return f"{self.source}/{self.task}"


class EpisodeDataset(Dataset[Episode]):
    """Draws episodes; `dataset[index]` has batch size 1 and depends on seed, split, epoch and index alone.

    Training draws source and task by weight and changes with the epoch. Validation and test go round all pairs of
    source and task in turn, so that each gets the same number of episodes, and are the same in every epoch.

    Args:
        sources: Name to source.
        tasks: Name to task.
        split: "train", "val" or "test".
        length: Episodes an epoch.
        image_size: Size of every image, `(H, W)` or `(D, H, W)`.
        in_channels: Channels of every image; single-channel images are repeated.
        out_channels: Channels of every target; single-channel targets are repeated.
        context_size: Number of context pairs, or the smallest and largest number, drawn once a batch.
        batch_size: Consecutive indices that form a batch, and share the number of context pairs.
        seed: Seed of everything.
        weights: Relative frequency in training of a source, a task, or a `source/task`; 1 where not named. The factors
            are multiplied.
        augmentation: Random changes in training; None for none.
        task_augmentation: Random changes of the task in training, the same for query and context; None for none.
        near: Largest distance of a context slice from the query, as a share of the volume, where enough such slices
            exist; None for no preference.
        same_patient: Allow context of the query's own patient.
        context_split: Split that the context comes from; by default the query's own. Sources with more than one cohort
            always keep to the query's own cohort.
        aspect: How images are brought to size: "stretch", "pad" or "crop".
        crop: Smallest and largest length of the random box in training, as a share of the image, (0, 1]; it holds a
            pixel of the class that the query is asked for. None takes images whole.
        controls: Add the swapped targets of the task-swap control (validation and test only).
        cohort_block: Consecutive training episodes that share one draw of the cohort, so that its subjects are read
            less often; their tasks, specs and items still differ. 1 draws a cohort for each episode.
        remembered: Subjects that each process keeps in memory.
        next_scale: Train windows of all levels, coarse to fine. With `crop`, the first level is whole images as without
            it, small ones enlarged; else it is that of the volumes.
        ranks: Processes that train together; their batches of one step share the number of context pairs.
        quarantine: What becomes of cases that cannot be read; by default the first one is an error.
        flat_size: Size of the images of sources of two axes, beside volumes; a batch then holds images of one size.

    Attributes:
        pairs: Names of source and task.
        shares: How often training draws each pair, in all 1.

    Raises:
        ValueError: If a split, `context_size` or `cohort_block` is out of range, or `weights` names what is not there.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        tasks: Mapping[str, Task],
        split: str,
        length: int,
        image_size: Sequence[int],
        in_channels: int = 1,
        out_channels: int = 1,
        context_size: int | Sequence[int] = 1,
        batch_size: int = 1,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
        augmentation: SubjectAugmentation | None = None,
        near: float | None = None,
        same_patient: bool = False,
        context_split: str | None = None,
        aspect: str = "stretch",
        crop: Sequence[float] | None = None,
        controls: bool = False,
        cohort_block: int = 1,
        remembered: int = 32,
        next_scale: TeacherForcing | None = None,
        ranks: int = 1,
        quarantine: Quarantine | None = None,
        task_augmentation: TaskAugmentation | None = None,
        flat_size: Sequence[int] | None = None,
    ) -> None:
        self.sources, self.tasks, self.split, self.length = dict(sources), dict(tasks), split, length
        self.image_size, self.in_channels, self.out_channels = tuple(image_size), in_channels, out_channels
        self.context_sizes = check_context_size(context_size)
        self.batch_size, self.seed, self.augmentation = batch_size, seed, augmentation
        self.task_augmentation = task_augmentation
        self.near, self.same_patient, self.aspect, self.crop = near, same_patient, aspect, crop
        self.next_scale = next_scale
        if next_scale is not None and next_scale.whole is not None and split != "train":
            self.image_size, self.next_scale = next_scale.whole, None
        self.sizes = {len(size): tuple(size) for size in (self.image_size, flat_size or self.image_size)}
        if next_scale is not None and next_scale.single and crop is not None:
            raise ValueError(
                f"`crop` is for whole images, and `next_scale` trains none if it is `single`; set `crop` to null, "
                f"got {list(crop)}"
            )
        for name in (split, context_split or split):
            if name not in SPLITS:
                raise ValueError(f"a split must be one of {SPLITS}, got {name!r}")
        if cohort_block < 1:
            raise ValueError(f"`cohort_block` must be at least 1, got {cohort_block}")
        self.context_split = context_split or split
        self.training = split == "train"
        self.controls = controls and not self.training
        self.cohort_block = cohort_block if self.training else 1
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._indices: OrderedDict[tuple[str, str, int], Index] = OrderedDict()
        self._subjects: OrderedDict[tuple[str, Item], Subject] = OrderedDict()
        self.remembered, self.ranks, self.quarantine = remembered, ranks, quarantine or Quarantine()
        self.pairs, shares = weigh_pairs(self.sources, self.tasks, weights or {}, self._fits)
        self.shares = {pair: float(share / sum(shares)) for pair, share in zip(self.pairs, shares, strict=True)}
        self._buckets = Buckets(self.pairs, shares, {name: source.dims for name, source in self.sources.items()})

    @property
    def epoch(self) -> int:
        """The epoch, shared with the processes of the loader."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, here and in every process of the loader."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int | None) -> Episode:
        if index is None:  # fills a batch, so that all ranks take equally many steps, and counts nowhere
            return replace(self[0], tasks=(), specs=(), cases=(), context_cases=(), swap_specs=())
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is outside of the {self.length} episodes")
        return self.quarantine.first(
            lambda rng: self.build(self.plan(index, rng), rng),
            (self._rng(index, stream) for stream in (0, *_SPARE)),
            lambda source: len(np.unique(self._index(source, self.split, 0).columns.case)),
        )

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        epoch = self.epoch if self.training else 0
        return np.random.default_rng([self.seed, SPLITS.index(self.split), epoch, index, stream])

    def context_size_at(self, index: int) -> int:
        """Returns the number of context pairs of an episode, common to its batch."""
        low, high = self.context_sizes
        batch = index // (self.batch_size * self.ranks)
        return low if low == high else int(self._rng(batch, 1).integers(low, high + 1))

    def _fits(self, source: str, task: str) -> bool:
        if not self.sources[source].cohorts(self.split):
            return False
        index = self._index(source, self.split, 0)
        return len(index.items) > 0 and self.tasks[task].accepts(index)

    def _index(self, source: str, split: str, cohort: int) -> Index:
        return remember(
            self._indices, (source, split, cohort), lambda: Index(self.sources[source].items(split, cohort)), _INDICES
        )

    def plan(self, index: int, rng: np.random.Generator) -> Plan:
        """Draws which source, task and items make up an episode, without reading a pixel.

        Raises:
            ValueError: If no pair of source and task fits, or a query with enough context cannot be found.
        """
        if not self.pairs:
            raise ValueError(f"no task accepts any source in split {self.split!r}; see that sources hold their roles")
        together = self.batch_size * self.ranks
        if self.training:
            source, task = self._buckets.draw(self._rng(index // together, _SIZE), rng)
        else:
            source, task = self._buckets.turn(index, together)
        shared = self._rng(index // self.cohort_block, 2) if self.cohort_block > 1 else None
        return replace(self.plan_pair(source, task, self.context_size_at(index), rng, shared), fine=self.is_fine(index))

    def is_fine(self, index: int) -> bool:
        """Says whether an episode is of a finer level than the first, as all of its batch."""
        if not self.training or self.next_scale is None:
            return False
        draw = self._rng(index // (self.batch_size * self.ranks), _FINE).random()
        return self.next_scale.single or draw >= self.next_scale.first

    def plan_pair(
        self,
        source: str,
        task: str,
        context_size: int,
        rng: np.random.Generator,
        cohort_rng: np.random.Generator | None = None,
    ) -> Plan:
        """Draws an episode of one source and task, the cohort from `cohort_rng` if given; see `plan`."""
        cohorts, reason = self.sources[source].cohorts(self.split), ""
        for _ in range(_DRAWS):
            cohort = int((cohort_rng or rng).integers(cohorts))
            queries = self._index(source, self.split, cohort)
            contexts = queries if cohorts > 1 else self._index(source, self.context_split, cohort)
            if not self.tasks[task].accepts(queries):
                reason = "the task does not accept the cohort"
                continue
            spec = self.tasks[task].draw(queries, rng, self.training)
            found = queries.find(tuple(spec["query"]))
            if not len(found):
                reason = f"no item offers {sorted(spec['query'])}"
                continue
            query = queries.items[int(found[rng.integers(len(found))])]
            numbers = self.choose_context(query, contexts, tuple(spec["context"]), context_size, rng)
            if numbers is not None:
                return Plan(source, task, spec, (query, *(contexts.items[number] for number in numbers)))
            reason = (
                f"{context_size} items with {sorted(spec['context'])} of other patients than {query.group!r} are needed"
            )
        raise ValueError(
            f"task {task!r} finds no episode in split {self.split!r} of source {source!r} ({reason}); "
            "add patients, ask for less context, or set `same_patient` or `context_split`"
        )

    def choose_context(
        self, query: Item, contexts: Index, keys: tuple[str, ...], context_size: int, rng: np.random.Generator
    ) -> list[int] | None:
        """Draws distinct context items of other patients; numbers of items, or None if there are too few."""
        return choose_context(query, contexts, keys, context_size, self.near, self.same_patient, rng)

    def read(self, source: str, item: Item) -> Subject:
        """Reads an item, or takes it from memory."""
        make = partial(self.quarantine.read, source, self.sources[source], item)
        return remember(self._subjects, (source, item), make, self.remembered)

    def build(self, plan: Plan, rng: np.random.Generator) -> Episode:
        """Reads, changes and encodes a plan; returns an episode of batch size 1."""
        task = self.tasks[plan.task]
        subjects, step = self._prepare(plan, rng)
        spec = task.complete(plan.spec, subjects, rng)
        pairs = [self._encode(plan, subject, spec, rng) for subject in subjects]
        if self.training and self.task_augmentation is not None:
            change = self.task_augmentation.draw(rng)
            pairs = self.task_augmentation.apply(pairs, change, task.is_label)
            spec = {**spec, "task_augmentation": change.facts()}
        mim = self.training and bool(rng.random() < task.mim)
        episode = Episode(
            image=pairs[0].image[None],
            target=_target(pairs[0])[None],
            weight=_weight(pairs[0])[None],
            context_images=torch.stack([pair.image for pair in pairs[1:]])[None],
            context_targets=torch.stack([_target(pair) for pair in pairs[1:]])[None],
            context_weights=torch.stack([_weight(pair) for pair in pairs[1:]])[None],
            is_label=torch.tensor([task.is_label]),
            mim=torch.tensor([mim]),
            seed=torch.tensor([int(rng.integers(2**62))]),
            tasks=(plan.name,),
            specs=(spec,),
            cases=(plan.items[0].case,),
            context_cases=(tuple(item.case for item in plan.items[1:]),),
        )
        if plan.fine and self.next_scale is not None and not self.next_scale.single:
            coarse = self.next_scale.coarse(pairs[0], step, task.is_label, rng)
            episode = replace(episode, coarse_image=coarse.image[None], coarse_target=_target(coarse)[None])
        return self._swap(episode, plan, subjects, rng) if self.controls else episode

    def subjects(self, plan: Plan, rng: np.random.Generator) -> list[Subject]:
        """Reads the items of a plan and brings them to size; in training they are cropped and changed at random."""
        return self._prepare(plan, rng)[0]

    def _prepare(self, plan: Plan, rng: np.random.Generator) -> tuple[list[Subject], tuple[float, ...]]:
        """Returns what `subjects` does, and by what the level of the query is finer than the one before."""
        keys = (plan.spec["query"], *(plan.spec["context"] for _ in plan.items[1:]))
        read = [self.read(plan.source, item) for item in plan.items]
        step: tuple[float, ...] = ()
        if self.next_scale is not None and (plan.fine or self.crop is None):
            anchors = [find_anchor(subject, wanted) for subject, wanted in zip(read, keys, strict=True)]
            places, step = self.next_scale.place(read, anchors, self.image_size, plan.fine, rng)
            subjects = [fit(subject, window) for subject, window in zip(read, places, strict=True)]
        else:
            subjects = [self._fit(subject, wanted, rng) for subject, wanted in zip(read, keys, strict=True)]
        if self.training and self.augmentation is not None:
            subjects = self.augmentation(subjects, rng, self.tasks[plan.task].is_label)
        return subjects, step

    def _fit(self, subject: Subject, keys: Sequence[str], rng: np.random.Generator) -> Subject:
        size = self.sizes.get(len(subject.shape), self.image_size)
        if not self.training or self.crop is None:
            return fit(subject, place(subject.shape, size, self.aspect))
        anchor = find_anchor(subject, keys)
        return fit(subject, place_crop(subject.shape, size, rng, anchor, self.crop, self.aspect))

    def _encode(self, plan: Plan, subject: Subject, spec: Spec, rng: np.random.Generator) -> Pair:
        """Encodes a subject, with all channels and a target."""
        pair = self.tasks[plan.task].encode(subject, spec, rng)
        if pair.target is None:
            raise ValueError(
                f"task {plan.name!r} made no target for case {subject.item.case!r}; its spec asks for too few keys"
            )
        image = repeat_channels(pair.image, self.in_channels, f"images of task {plan.name!r}")
        return replace(
            pair, image=image, target=repeat_channels(pair.target, self.out_channels, f"targets of task {plan.name!r}")
        )

    def _swap(self, episode: Episode, plan: Plan, subjects: Sequence[Subject], rng: np.random.Generator) -> Episode:
        """Adds the same images answered for another structure, where the task knows one."""
        spec = self.tasks[plan.task].swap(episode.specs[0], subjects, rng)
        if spec is None:
            return replace(
                episode, swap_targets=episode.context_targets, swap_target=episode.target,
                swappable=torch.tensor([False]), swap_specs=episode.specs,
            )  # fmt: skip
        pairs = [self._encode(plan, subject, spec, rng) for subject in subjects]
        return replace(
            episode,
            swap_targets=torch.stack([_target(pair) for pair in pairs[1:]])[None],
            swap_target=_target(pairs[0])[None],
            swappable=torch.tensor([True]),
            swap_specs=(spec,),
        )


def find_anchor(subject: Subject, keys: Sequence[str]) -> Tensor | None:
    """Returns the mask `(*S)` of the first class among keys such as `labels=3`; None if no class is asked for."""
    for key in keys:
        role, _, index = key.partition("=")
        if index and role in subject.labels:
            return subject.labels[role] == int(index)
    return None


def repeat_channels(values: Tensor, channels: int, what: str) -> Tensor:
    """Repeats one channel `(1, *S)` to `(channels, *S)`; leaves the right number alone, refuses any other."""
    if len(values) not in (1, channels):
        raise ValueError(f"{what} have {counted(len(values), 'channel')}, but the network takes {channels}")
    return values if len(values) == channels else values.expand(channels, *values.shape[1:])


def remember(kept: OrderedDict[K, V], key: K, make: Callable[[], V], most: int) -> V:
    """Returns the value of a key, making it if it is not kept; drops the value not used for longest beyond `most`."""
    if key in kept:
        kept.move_to_end(key)
        return kept[key]
    value = kept[key] = make()
    if len(kept) > most:
        kept.popitem(last=False)
    return value


def _target(pair: Pair) -> Tensor:
    assert pair.target is not None
    return pair.target


def _weight(pair: Pair) -> Tensor:
    return torch.ones(1, *pair.image.shape[1:]) if pair.weight is None else pair.weight
