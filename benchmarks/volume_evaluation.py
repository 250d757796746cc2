"""The protocol on whole volumes: each volume of unseen patients is answered at its own size, and scored once in 3D.

For every class (segmentation), kind (restoration) or direction (synthesis) of a source each volume of a split is a
query, whose examples are volumes of training patients. They are drawn once for the most examples; fewer are the first
of them. Scores are those of the task: Dice and IoU of all voxels; PSNR, SSIM and mean absolute error over the
foreground, over the hole for inpainting too. Volumes that do not show a class are counted, not scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.evaluation import ABSENT, Protocol, Record, generator, spread
from benchmarks.questions import Question, questions
from benchmarks.unet import Specialist
from mvg.controls import CONTROLS, TRIVIAL
from mvg.data.episodes import EpisodeDataset, repeat_channels
from mvg.data.geometry import resize
from mvg.data.source import Index
from mvg.data.subject import Item, Subject
from mvg.episode import Pair, Spec
from mvg.models.base import InContextModel
from mvg.next_scale import NextScale, Pyramid
from mvg.prediction.precision import in_precision
from mvg.task import Task

WAYS = ("next-scale", "squeezed", "sliding")
"""Coarse to fine; the coarsest scale alone, which fits into one window; windows of full resolution alone."""


@dataclass(frozen=True)
class VolumeProtocol:
    """How volumes are asked.

    Attributes:
        split: "val" or "test"; examples always come from "train".
        shots: Numbers of examples, ascending; those for which patients are too few are left out.
        cases: Most volumes of a question, evenly spread; None for all.
        seed: Seed of examples, noise, holes and fields.
        overlap: Share of a window that it has in common with the next one.
        swap: Ask with swapped targets, too, after the fewest examples.
        sources: Sources to be asked; all where none is named.
    """

    split: str = "val"
    shots: tuple[int, ...] = (1, 2, 4, 8)
    cases: int | None = None
    seed: int = 0
    overlap: float = 0.25
    swap: bool = True
    sources: tuple[str, ...] = ()

    def asks(self, source: str) -> bool:
        """Says whether a source is to be asked."""
        return not self.sources or source in self.sources

    def __post_init__(self) -> None:
        if self.split not in ("val", "test"):
            raise ValueError(f"`split` must be val or test, as training patients are the examples, got {self.split!r}")
        if not self.shots or list(self.shots) != sorted(set(self.shots)) or self.shots[0] < 1:
            raise ValueError(f"`shots` must be ascending numbers from 1 on, got {list(self.shots)}")


@dataclass(frozen=True)
class Case:
    """A volume that is asked, with its examples.

    Attributes:
        item: Where it comes from.
        task: Name of the task in the data.
        spec: What is asked.
        query: Image `(C_in, *S)`, target `(C_out, *S)` and weight.
        context: Examples, each of its own size.
        spacings: Voxel sizes of the query, then of the examples, in mm.
        subjects: The query, then the examples, as they were read.
    """

    item: Item
    task: Task
    spec: Spec
    query: Pair
    context: tuple[Pair, ...]
    spacings: tuple[tuple[float, ...], ...]
    subjects: tuple[Subject, ...]


Painter = Callable[[Case, Sequence[Pair], Sequence[int], bool], Iterator[tuple[str, int, Tensor]]]
"""Paints a case after the first few of some examples, for each of several numbers of them: names of ways, numbers of
examples, and what was painted, `(C_out, *S)`. The last argument asks for the first way alone."""

BATCH = 4
"""Windows that are answered together: few, so that their maps stay in the cache of a processor."""


# ---------------------------------------------------------------------- entrants


def network_painter(network: InContextModel, ways: Sequence[str], overlap: float, autocast: bool = True) -> Painter:
    """Makes a painter of a network for volumes.

    Args:
        network: The network, on any device.
        ways: Which of `WAYS`.
        overlap: Share of a window that it has in common with the next one.
        autocast: Run in bfloat16 where PyTorch deems it safe.

    Raises:
        ValueError: If a way is unknown.
    """
    if unknown := sorted(set(ways) - set(WAYS)):
        raise ValueError(f"there is no way {unknown[0]!r} to answer a volume; choose of {', '.join(WAYS)}")
    network = in_precision(network.eval(), "bf16" if autocast else "32")

    def paint(
        case: Case, context: Sequence[Pair], shots: Sequence[int], brief: bool
    ) -> Iterator[tuple[str, int, Tensor]]:
        asked, plan = ways[:1] if brief else ways, NextScale(overlap=overlap, batch=BATCH)
        single = sorted({way == "sliding" for way in asked})
        runs = [(count, alone) for alone in single for count in shots]
        query = Pyramid(case.query.image, network.image_size, spacing=case.spacings[0])
        shown = plan.read(network, context, case.spacings[1 : len(context) + 1])
        scales = [painted for _, painted in plan.scales_after(network, query, shown, runs)]
        for way in asked:
            for number, (count, alone) in enumerate(runs):
                if alone == (way == "sliding"):
                    painted = cast(Tensor, scales[0 if way == "squeezed" else -1][number])
                    yield way, count, resize(painted, case.query.image.shape[1:])

    return paint


def unet_painter(network: Specialist, window: Sequence[int], overlap: float) -> Painter:
    """Makes a painter of a U-Net: windows of full resolution, examples not looked at."""

    def paint(
        case: Case, context: Sequence[Pair], shots: Sequence[int], brief: bool
    ) -> Iterator[tuple[str, int, Tensor]]:
        from monai.inferers.utils import sliding_window_inference  # takes a second to import

        image = case.query.image[None].to(network.device)
        with torch.inference_mode(), torch.autocast(network.device.type, torch.bfloat16):
            out = cast(Tensor, sliding_window_inference(image, window, 1, network, overlap, mode="gaussian"))
        painted = out[0].float().cpu()
        if network.classes:
            painted = (painted.argmax(0, keepdim=True) == int(case.spec["classes"][0][0])).float()
        for count in shots:
            yield "U-Net", count, painted.expand_as(true(case.query))

    return paint


def trivial_painter(
    case: Case, context: Sequence[Pair], shots: Sequence[int], brief: bool
) -> Iterator[tuple[str, int, Tensor]]:
    """Paints what needs no network; targets of examples are brought to the query's size."""
    target, size = true(case.query), case.query.image.shape[1:]
    targets = torch.stack([resize(true(pair), size) for pair in context])
    for count in shots:
        yield TRIVIAL[0], count, case.query.image.mean(0, keepdim=True).expand_as(target)
        yield TRIVIAL[1], count, targets[0]
        yield TRIVIAL[2], count, targets[:count].mean(0)


def true(pair: Pair) -> Tensor:
    """The target of a pair that has one."""
    assert pair.target is not None
    return pair.target


# ---------------------------------------------------------------------- what is asked


def cases(dataset: EpisodeDataset, question: Question, protocol: VolumeProtocol) -> tuple[list[Item], list[Item]]:
    """Lists the volumes to ask, and those that do not show the class."""
    items = Index(dataset.sources[question.source].items(protocol.split))
    offered = [items.items[int(k)] for k in items.find(tuple(k for k in question.spec["query"] if "=" not in k))]
    shown = [item for item in offered if item.keys.issuperset(question.spec["query"])]
    return spread(shown, protocol.cases), [item for item in offered if item not in shown]


def read_case(dataset: EpisodeDataset, question: Question, item: Item, protocol: VolumeProtocol) -> Case | None:
    """Reads a volume and as many examples as there are patients, at most those of the protocol; None without any."""
    contexts = Index(dataset.sources[question.source].items("train"))
    keys = tuple(question.spec["context"])
    known = sum(contexts.items[int(k)].group != item.group for k in contexts.find(keys))
    count = min(known, protocol.shots[-1])
    drawn = generator(protocol.seed, question, item, stream=0)
    numbers = dataset.choose_context(item, contexts, keys, count, drawn) if count else None
    if numbers is None:
        return None
    subjects = tuple(dataset.read(question.source, one) for one in (item, *(contexts.items[n] for n in numbers)))
    rng, task = generator(protocol.seed, question, item, stream=1), dataset.tasks[question.task]
    spec = task.complete(question.spec, subjects, rng)
    pairs = [encode(dataset, task, subject, spec, rng) for subject in subjects]
    return Case(item, task, spec, pairs[0], tuple(pairs[1:]), tuple(each.spacing for each in subjects), subjects)


def encode(dataset: EpisodeDataset, task: Task, subject: Subject, spec: Spec, rng: np.random.Generator) -> Pair:
    """Turns a subject into a pair with the channels of the network."""
    pair = task.encode(subject, spec, rng)
    image = repeat_channels(pair.image, dataset.in_channels, "images")
    return replace(pair, image=image, target=repeat_channels(true(pair), dataset.out_channels, "targets"))


def swapped(dataset: EpisodeDataset, question: Question, case: Case, shots: int, seed: int) -> Case | None:
    """The same volumes answered for another structure or contrast; None where there is no other."""
    rng, subjects = generator(seed, question, case.item, stream=2), case.subjects[: shots + 1]
    spec = case.task.swap(case.spec, subjects, rng)
    if spec is None:
        return None
    pairs = [encode(dataset, case.task, subject, spec, rng) for subject in subjects]
    return replace(case, spec=spec, query=pairs[0], context=tuple(pairs[1:]))


# ---------------------------------------------------------------------- scoring


def evaluate_volumes(
    dataset: EpisodeDataset,
    source: str,
    task: str,
    painter: Painter,
    protocol: VolumeProtocol,
    control: bool = False,
    only: Collection[str] | None = None,
) -> list[Record]:
    """Scores a painter on everything that a task can ask of a source.

    Args:
        dataset: Sources and tasks, of the protocol's split.
        source: Name of the source.
        task: Name of the task.
        painter: What paints; it is asked once for all numbers of examples.
        protocol: How volumes are asked.
        control: Ask with swapped targets, too, where the protocol says so.
        only: Names of the questions to ask; all by default.

    Returns:
        One record a volume, variant, way (`entrant`), number of examples (`shot`) and metric, with the keys of
        `benchmarks.evaluation.evaluate`; a class that a volume does not show has one with the metric "absent".
    """
    records: list[Record] = []
    for question in questions(dataset, source, task):
        if only is not None and question.name not in only:
            continue
        shown, absent = cases(dataset, question, protocol)
        records += [record(question, item, protocol, "", ABSENT, 0, 1.0) for item in absent]
        for item in shown:
            case = read_case(dataset, question, item, protocol)
            if case is not None:
                records += score_case(dataset, question, case, painter, protocol, control)
    return records


def score_case(
    dataset: EpisodeDataset,
    question: Question,
    case: Case,
    painter: Painter,
    protocol: VolumeProtocol,
    control: bool,
) -> list[Record]:
    """Paints and scores one volume after every number of examples that there are."""
    records: list[Record] = []

    def add(way: str, shots: int, painted: Tensor, asked: Case) -> None:
        scores = asked.task.score(painted, asked.query, asked.spec)
        records.extend(
            record(question, case.item, protocol, way, name, shots, value)
            for name, value in scores.items()
            if math.isfinite(value)
        )

    asked = [count for count in protocol.shots if count <= len(case.context)]
    for way, shots, painted in painter(case, case.context, asked, False) if asked else ():
        add(way, shots, painted, case)
    if control and protocol.swap and asked:
        first = asked[0]
        other = swapped(dataset, question, case, first, protocol.seed)
        if other is not None:
            _, _, painted = next(iter(painter(case, other.context, [first], True)))
            add(CONTROLS[1], first, painted, case)
            add(CONTROLS[2], first, painted, other)
    return records


def record(
    question: Question, item: Item, protocol: VolumeProtocol, way: str, metric: str, shots: int, value: float
) -> Record:
    """One line of the results."""
    return {
        "source": question.source,
        "task": question.task,
        "variant": question.variant,
        "case": item.case,
        "patient": item.group,
        "entrant": way,
        "metric": metric,
        "shot": shots,
        "seed": protocol.seed,
        "split": protocol.split,
        "value": value,
    }


def slice_protocol(protocol: VolumeProtocol) -> Protocol:
    """The protocol of `benchmarks.evaluation` that reads the same patients."""
    return Protocol(split=protocol.split, context_size=protocol.shots[0], seed=protocol.seed)
