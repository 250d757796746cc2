"""Episodes from a few labelled cases: what adaptation trains and validates on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mvg.adaptation.volumes import Windows, read_whole_volumes, with_spacing
from mvg.data.augmentation import SubjectAugmentation
from mvg.data.loader import start_worker
from mvg.data.subject import Item, Subject
from mvg.episode import Episode, Pair, Spec
from mvg.prediction.context import PairFiles
from mvg.prediction.passes import spread
from mvg.prediction.predictor import Predictor
from mvg.prediction.scale_predictor import ScalePredictor
from mvg.prediction.scans import is_scan
from mvg.prediction.slices import Slice
from mvg.prediction.volume_context import Way, group_classes, read_volume_slices, to_slice
from mvg.task import Task

NAME = "cases/task"
"""Name of the one pair of source and task, in logs."""
NEGATIVES = 0.2
"""Share of training episodes whose query may be any slice of its case."""


@dataclass(frozen=True)
class Case:
    """A labelled case at the network's size.

    Attributes:
        name: Its name.
        slices: A picture alone, or the slices of a volume, also those that show no class.
    """

    name: str
    slices: tuple[Slice, ...]

    def showing(self, asked: int) -> list[Slice]:
        """Slices that show a class (class 0 stands for image targets)."""
        return [entry for entry in self.slices if entry.pixels.get(asked, 0)]


@dataclass(frozen=True)
class Question:
    """A query before anything is painted.

    Attributes:
        group: Classes that one pass of the network asks for together.
        query: What is asked.
        context: The examples.
        case: Name of the query's case.
    """

    group: tuple[int, ...]
    query: Slice
    context: tuple[Slice, ...]
    case: str


def read_cases(
    predictor: Predictor | ScalePredictor, pairs: Sequence[PairFiles], way: Callable[[], Way]
) -> tuple[list[Case], list[tuple[int, ...]]]:
    """Reads labelled pictures or volumes as `mvg predict` reads a context.

    Args:
        predictor: Whose network and task they are for.
        pairs: The files.
        way: Says how volumes become slices, for networks for images.

    Returns:
        The cases, and the classes that each pass of the network asks for (class 0 for image targets).

    Raises:
        ValueError: If there are none, a file is damaged, or the targets show no class.
    """
    if not pairs:
        raise ValueError("there are no labelled cases; put files of one name into `images/` and `targets/`")
    kinds = {is_scan(path) for pair in pairs for path in (pair.image, pair.target)}
    if len(kinds) > 1:
        raise ValueError(
            f"{pairs[0].image}: cases are pairs of volumes or pairs of pictures; give all of them one kind"
        )
    images, targets = [pair.image for pair in pairs], [pair.target for pair in pairs]
    if isinstance(predictor, ScalePredictor):
        if kinds == {False}:
            raise ValueError(f"{images[0]}: a network for volumes needs volumes as cases; give it NIfTI, MHA or NRRD")
        found = [[entry] for entry in read_whole_volumes(predictor, images, targets)]
    elif kinds == {True}:
        found = _cut_volumes(predictor, pairs, way())
    else:
        read_pairs = predictor.read_pairs(images, targets)
        shown = zip(read_pairs.images, read_pairs.targets, strict=True)
        found = [[to_slice(predictor, image, target, 0.5)] for image, target in shown]
    every, groups = group_classes(predictor, [entry for cut in found for entry in cut], targets[0])
    remaining = iter(every)
    cases = [Case(pair.name, tuple(next(remaining) for _ in cut)) for pair, cut in zip(pairs, found, strict=True)]
    return cases, [tuple(group) for group in groups]


def _cut_volumes(predictor: Predictor, pairs: Sequence[PairFiles], way: Way) -> list[list[Slice]]:
    """Cuts each pair of volumes into slices, all along one axis."""
    read = [read_volume_slices(predictor, [pair.image], [pair.target], way, True) for pair in pairs]
    for pair, part in zip(pairs, read, strict=True):
        if part.axis != read[0].axis:
            raise ValueError(
                f"{pair.image}: it is cut along another axis than {pairs[0].image.name}; name one with `slices`"
            )
    return [part.slices for part in read]


def context_limit(cases: Sequence[Case], examples: int) -> int:
    """Largest number of examples that a query can be shown without its own case, at most `examples`.

    One case alone is its own example: the slices of a volume, or one copy of a picture.
    """
    counts = [len(case.slices) for case in cases]
    return max(1, min(examples, sum(counts) - (max(counts) if len(cases) > 1 else 1)))


class CaseEpisodes(Dataset[Episode]):
    """Training episodes: query and context are drawn from different cases and changed at random, each on its own.

    An episode asks for one class (or a group of classes); the context shows it, and so does the query but for a share
    of the slices of volumes. Where only one case shows a class, it is its own context: other slices of the volume, or
    the same picture, changed in another way. Every episode is a pure function of seed and index.

    Args:
        cases: The cases.
        groups: Classes that each pass of the network asks for.
        task: Paints them.
        out_channels: Channels of the network's targets.
        length: Number of episodes.
        batch_size: Consecutive episodes that share the number of examples.
        examples: Largest number of examples; each batch draws its own, from 1 on.
        augmentation: Random changes; None for none.
        seed: Seed of everything.
        windows: Cuts windows out of whole volumes; None for slices and pictures. The episodes of a batch are all of
            the first level, or all of finer ones.

    Raises:
        ValueError: If no case shows any class.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        groups: Sequence[tuple[int, ...]],
        task: Task,
        out_channels: int,
        length: int,
        batch_size: int = 8,
        examples: int = 4,
        augmentation: SubjectAugmentation | None = None,
        seed: int = 0,
        windows: Windows | None = None,
    ) -> None:
        self.windows = windows
        self.cases, self.task, self.out_channels, self.length = list(cases), task, out_channels, length
        self.batch_size, self.examples = batch_size, context_limit(cases, examples)
        self.augmentation, self.seed = augmentation, seed
        asked = [(group, k) for group in groups for k in group]
        self.asked = [(group, k) for group, k in asked if self.showing(k)]
        if not self.asked:
            raise ValueError("the targets of the training cases show no class; mark what is asked for, or add cases")

    def showing(self, asked: int) -> list[Case]:
        """Cases that show a class."""
        return [case for case in self.cases if case.showing(asked)]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Episode:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} is outside of the {self.length} episodes")
        rng = np.random.default_rng([self.seed, 0, index])
        shared = np.random.default_rng([self.seed, 1, index // self.batch_size])
        question = self.draw(int(shared.integers(1, self.examples + 1)), rng)
        if self.windows is None:
            return build(question, self.task, self.out_channels, rng, self.augmentation)
        fine = bool(shared.random() >= self.windows.teacher.first)
        return build_windows(question, self.windows, fine, self.task, self.out_channels, rng, self.augmentation)

    def draw(self, size: int, rng: np.random.Generator) -> Question:
        """Draws a question with so many examples."""
        group, k = self.asked[int(rng.integers(len(self.asked)))]
        showing = self.showing(k)
        query = showing[int(rng.integers(len(showing)))]
        offered = query.slices if rng.random() < NEGATIVES else query.showing(k)
        chosen = offered[int(rng.integers(len(offered)))]
        return Question(group, chosen, draw_context(showing, query, chosen, k, size, rng), query.name)


class HeldOutEpisodes(Dataset[Episode]):
    """Validation episodes: slices of held-out cases with examples of the training cases, unchanged, always the same.

    Args:
        training: Episodes of the training cases, whose classes are asked for.
        held: The held-out cases.
        most: Largest number of episodes; they are spread over cases, classes and positions.

    Raises:
        ValueError: If the held-out cases show none of the classes.
    """

    def __init__(self, training: CaseEpisodes, held: Sequence[Case], most: int = 32) -> None:
        self.training = training
        rng = np.random.default_rng([training.seed, 2])
        found = [
            Question(group, entry, draw_context(training.showing(k), case, entry, k, training.examples, rng), case.name)
            for case in held
            for group, k in training.asked
            for entry in case.showing(k)
        ]
        if not found:
            names = ", ".join(case.name for case in held)
            raise ValueError(f"the held-out cases ({names}) show no class of the others; set `validation` to none")
        places = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
        self.questions = [found[place] for place in places]

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Episode:
        rng, own = np.random.default_rng([self.training.seed, 3, index]), self.training
        question = self.questions[index]
        if own.windows is None:
            return build(question, own.task, own.out_channels, rng)
        subjects = own.windows.whole(subjects_of(question, own.task.is_label))
        return paint(question, subjects, pose(question, own.task, rng), own.task, own.out_channels, rng)


class CaseData(pl.LightningDataModule):
    """Loaders of the episodes of a few cases.

    Args:
        training: Training episodes.
        held: Validation episodes; None for none.
        workers: Processes that prepare training batches.
    """

    def __init__(self, training: CaseEpisodes, held: HeldOutEpisodes | None = None, workers: int = 0) -> None:
        super().__init__()
        self.training, self.held, self.workers = training, held, workers
        self.names = (NAME,)
        self.tasks = {NAME.split("/")[1]: training.task}

    def train_dataloader(self) -> DataLoader[Episode]:
        """Returns the training batches."""
        return self._loader(self.training, self.workers, self.training.batch_size)

    def val_dataloader(self) -> DataLoader[Episode] | list[DataLoader[Episode]]:
        """Returns the validation batches; whole volumes differ in size and come one by one."""
        size = self.training.batch_size if self.training.windows is None else 1
        return [] if self.held is None else self._loader(self.held, 0, size)

    def _loader(self, episodes: Dataset[Episode], workers: int, size: int) -> DataLoader[Episode]:
        return DataLoader(
            episodes,
            size,
            collate_fn=Episode.collate,
            num_workers=workers,
            worker_init_fn=start_worker if workers else None,
        )


def draw_context(
    showing: Sequence[Case], query: Case, chosen: Slice, asked: int, size: int, rng: np.random.Generator
) -> tuple[Slice, ...]:
    """Draws examples that show a class from other cases than the query's, different ones as long as there are.

    Args:
        showing: Cases that show the class.
        query: The case of the query; it is its own context where no other case shows the class.
        chosen: The slice that is asked; it is an example only if there is no other.
        asked: The class.
        size: Number of examples.
        rng: Source of randomness.
    """
    others = [entry for case in showing if case is not query for entry in case.showing(asked)]
    others = others or [entry for entry in query.showing(asked) if entry is not chosen] or query.showing(asked)
    order: list[int] = []
    while len(order) < size:
        order += rng.permutation(len(others)).tolist()
    return tuple(others[number] for number in order[:size])


def build(
    question: Question,
    task: Task,
    out_channels: int,
    rng: np.random.Generator,
    augmentation: SubjectAugmentation | None = None,
) -> Episode:
    """Paints what a question asks as `mvg predict` does, after random changes; batch size 1."""
    subjects = subjects_of(question, task.is_label)
    spec = task.pose([_target(subject) for subject in subjects[1:]], rng)[0]
    if augmentation is not None:
        subjects = augmentation(subjects, rng, task.is_label)
    return paint(question, subjects, spec, task, out_channels, rng)


def build_windows(
    question: Question,
    windows: Windows,
    fine: bool,
    task: Task,
    out_channels: int,
    rng: np.random.Generator,
    augmentation: SubjectAugmentation | None = None,
) -> Episode:
    """Paints windows of the volumes of a question; those of finer levels come with a coarser answer; batch size 1."""
    spec = pose(question, task, rng)
    subjects, step = windows.cut(subjects_of(question, task.is_label), fine, rng)
    if augmentation is not None:
        subjects = augmentation(subjects, rng, task.is_label)
    episode = paint(question, subjects, spec, task, out_channels, rng)
    if not fine:
        return episode
    coarse = windows.teacher.coarse(Pair(episode.image[0], episode.target[0]), step, task.is_label, rng)
    assert coarse.target is not None
    return replace(episode, coarse_image=coarse.image[None], coarse_target=coarse.target[None])


def pose(question: Question, task: Task, rng: np.random.Generator) -> Spec:
    """Says what a question asks, without looking through whole volumes."""
    probe = torch.tensor([question.group]) if task.is_label else torch.zeros(1, 1, 1)
    return task.pose([probe], rng)[0]


def subjects_of(question: Question, is_label: bool) -> list[Subject]:
    """The query, then the context, with those classes alone that are asked for."""
    entries = (question.query, *question.context)
    return [with_spacing(_subject(entry, question, is_label), entry) for entry in entries]


def paint(
    question: Question, subjects: Sequence[Subject], spec: Spec, task: Task, out_channels: int, rng: np.random.Generator
) -> Episode:
    """Paints the targets of a query and its context, all of one size."""
    images = torch.stack([subject.images["image"] for subject in subjects])
    targets = torch.stack([spread(task.paint(_target(subject), spec), out_channels) for subject in subjects])
    return Episode(
        image=images[:1],
        target=targets[:1],
        weight=torch.ones(1, 1, *images.shape[2:]),
        context_images=images[None, 1:],
        context_targets=targets[None, 1:],
        context_weights=torch.ones(1, len(images) - 1, 1, *images.shape[2:]),
        is_label=torch.tensor([task.is_label]),
        mim=torch.tensor([False]),
        seed=torch.tensor([int(rng.integers(2**62))]),
        tasks=(NAME,),
        specs=(spec,),
        cases=(question.case,),
    )


def _subject(entry: Slice, question: Question, is_label: bool) -> Subject:
    """A slice with those classes alone that are asked for."""
    image, target = entry.example.image, entry.example.target
    item = Item(question.case, question.case, frozenset())
    if not is_label:
        return Subject({"image": image, "target": target}, {}, item)
    asked = torch.where(torch.isin(target, torch.tensor(question.group, dtype=target.dtype)), target, 0)
    return Subject({"image": image}, {"target": asked}, item)


def _target(subject: Subject) -> Tensor:
    return subject.labels["target"] if subject.labels else subject.images["target"]
