"""Prediction: a context is read once, then any number of images is answered on their own grid."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvg import weights
from mvg.adaptation import adapted_task, describe_adapter, load_adapter
from mvg.configuration import from_config
from mvg.context import Example, label_maps, present, read_context
from mvg.data.geometry import Placement, fit, place, restore
from mvg.data.readers import SIZE_LIMIT
from mvg.data.subject import Item, Subject
from mvg.episode import Answer, Spec
from mvg.hub import locate
from mvg.models.base import InContextModel, Memory
from mvg.rasters import (
    Raster,
    Source,
    limits,
    read_raster,
    to_tensor,
    to_units,
)
from mvg.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """The answer to one image, on its own grid; a task fills what it answers.

    Attributes:
        labels: `(H, W)`, uint8 or uint16, class indices of the context (0 is background); boxes are filled with 1.
        image: `(H, W)` or `(H, W, C)`, in the units and the pixel type of the query.
        boxes: `(n, 4)`, float32, `(top, left, bottom, right)` in pixels, bottom and right exclusive.
        scores: `(n,)`, float32, the confidence of each box.
        areas: Number of pixels of each class that the context shows.
    """

    labels: NDArray[Any] | None
    image: NDArray[Any] | None
    boxes: NDArray[np.float32] | None
    scores: NDArray[np.float32] | None
    areas: Mapping[int, int]


@dataclass(frozen=True)
class Pass:
    """What one pass of the network asks.

    Attributes:
        spec: What the task drew.
        context_images: `(L, C_in, *image_size)`.
        context_targets: `(L, C_out, *image_size)`.
        memory: What the network keeps of them.
    """

    spec: Spec
    context_images: Tensor
    context_targets: Tensor
    memory: Memory


class Predictor:
    """Answers images after the examples of a context.

    Images are brought to the network's size as in training; what it paints is brought back onto the grid of the
    query before it is decoded. Every class that the label maps of the context show is asked for; where the task paints
    one class at a time, each pixel goes to the class painted most clearly.

    Args:
        network: The network.
        task: The task that the context shows.
        device: Where the network runs, "cpu" or "cuda".
        aspect: How images are brought to size: "stretch", "pad" or "crop"; as in training.
        window: Values of the images that become 0 and 1; by default the range of 8-bit and 16-bit pixels, and
            percentiles of other types unless their values lie in [0, 1].
        batch: Largest number of images that are answered together.
        seed: Seeds the colours of tasks that draw them.
        size_limit: Largest number of pixels of an image.
        adapter: Folder that `mvg adapt` wrote; it changes the network in place.

    Raises:
        ValueError: If an argument is out of range, the device does not exist here, or the adapter belongs to other
            weights.
    """

    def __init__(
        self,
        network: InContextModel,
        task: Task,
        device: str = "cpu",
        aspect: str = "stretch",
        window: tuple[float, float] | None = None,
        batch: int = 16,
        seed: int = 0,
        size_limit: int = SIZE_LIMIT,
        adapter: str | Path | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError(f"`batch` must be at least 1, got {batch}")
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, got {seed}")
        if window is not None and not window[0] < window[1]:
            raise ValueError(f"`window` needs low < high, got {window[0]} and {window[1]}")
        if len(network.image_size) != 2:
            raise ValueError(f"the network was built for volumes of {network.image_size}; take `mvg.ScalePredictor`")
        self.device = find_device(device)
        if adapter is not None:
            load_adapter(network, adapter)
        self.network, self.task = network.eval().to(self.device), task
        self.aspect, self.window, self.batch, self.seed, self.size_limit = aspect, window, batch, seed, size_limit
        self.passes: list[Pass] = []
        self.examples: list[Example] = []
        self.classes: list[int] = []
        self.channels: int | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        task: str | Task | None = None,
        adapter: str | Path | None = None,
        **options: Any,
    ) -> Predictor:
        """Loads a trained folder.

        Args:
            folder: `<run>/weights` of a finished fit, or `hub:OWNER/NAME` on the Hugging Face hub.
            task: Name of one of its tasks, a class path, or a task; may be left out where the folder holds one task,
                or the adapter was made for one.
            adapter: Folder that `mvg adapt` wrote for these weights.
            **options: Arguments of the class; `aspect` is by default that of the training, `aspect` and `window` those
                of the adapter where there is one.
        """
        folder = locate(folder)
        facts = {} if adapter is None else describe_adapter(adapter)
        if task is None and adapter is not None:
            task = adapted_task(adapter)
        chosen = task if isinstance(task, Task) else find_task(weights.load_tasks(folder), task)
        window = tuple(facts["window"]) if facts.get("window") else None
        defaults = {"aspect": facts.get("aspect", weights.load_aspect(folder)), "window": window}
        return cls(weights.load(folder), chosen, adapter=adapter, **{**defaults, **options})

    def set_context(self, images: Sequence[Source], targets: Sequence[Source]) -> None:
        """Reads the context; it stays until the next one is set.

        Args:
            images: Files, PIL images, arrays `(H, W)` or `(H, W, C)`, or tensors `(H, W)` or `(C, H, W)`; of any size.
            targets: One for each image, of its size: class indices, or the image that is to be painted.

        Raises:
            ValueError: If a pair does not fit together, or one does not fit the network or the task.
        """
        self.show(*self.read_pairs(images, targets))

    def read_pairs(self, images: Sequence[Source], targets: Sequence[Source]) -> tuple[list[Tensor], list[Tensor]]:
        """Reads and checks pairs for the network, without showing them to it.

        Args:
            images: As in `set_context`.
            targets: As in `set_context`.

        Returns:
            Images `(C_in, H, W)` in [0, 1]; class indices `(H, W)` int64, or images `(C, H, W)` in [0, 1].

        Raises:
            ValueError: As in `set_context`.
        """
        left, right = read_context(images, targets, self.task.is_label, self.size_limit)
        self.channels = len(left[0].values)
        shown = [self.read(raster) for raster in left]
        if self.task.is_label:
            return shown, label_maps(right)
        most = self.network.out_channels
        channels = 1 if most == 1 else max(len(raster.values) for raster in right)
        return shown, [to_tensor(raster, limits(raster, self.window), channels) for raster in right]

    def show(self, images: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Shows pairs to the network, which keeps what it needs of them.

        Args:
            images: Each `(C_in, H, W)`, [0, 1].
            targets: One for each image, class indices `(H, W)` int64 or an image `(C, H, W)` in [0, 1].

        Raises:
            ValueError: If no class of the targets can be seen at the network's size.
        """
        examples = [Example(image, target) for image, target in zip(images, targets, strict=True)]
        fitted = [self.to_size(example.image, example.target) for example in examples]
        small = [subject.labels["target"] if self.task.is_label else subject.images["target"] for subject in fitted]
        self.passes = self._pose(torch.stack([subject.images["image"] for subject in fitted]), small)
        self.examples = examples
        self.classes = self._classes(targets, small)

    def _classes(self, wanted: Sequence[Tensor], small: Sequence[Tensor]) -> list[int]:
        """Classes that are asked for, ascending; warns of those too small for the network."""
        if not self.task.is_label:
            return []
        before, after = ({k for values in maps for k in present(values)} for maps in (wanted, small))
        if lost := sorted(before - after):
            log.warning(
                "classes %s are too small to be seen at the network's %s; show larger examples or crops of them",
                lost,
                tuple(self.network.image_size),
            )
        return sorted(after)

    @torch.inference_mode()
    def _pose(self, images: Tensor, targets: Sequence[Tensor]) -> list[Pass]:
        """Makes one memory for each question that the context answers."""
        specs = self.task.pose(targets, np.random.default_rng(self.seed))
        if not specs:
            raise ValueError(
                f"no class of the context can be seen at the network's size {tuple(self.network.image_size)}; "
                "show larger examples"
            )
        images = images.to(self.device)
        passes = []
        for spec in specs:
            painted = [spread(self.task.paint(target, spec), self.network.out_channels) for target in targets]
            context = torch.stack(painted).to(self.device)
            passes.append(Pass(spec, images, context, self.network.remember(images[None], context[None])))
        return passes

    def read(self, source: Source | Raster) -> Tensor:
        """Reads and checks an image for the network, `(C_in, H, W)`, [0, 1].

        Raises:
            ValueError: If it cannot be read, or its channels are not those of the network and of the context.
        """
        raster = source if isinstance(source, Raster) else read_raster(source, size_limit=self.size_limit)
        image = to_tensor(raster, limits(raster, self.window), self.network.in_channels)
        if self.channels is not None and len(raster.values) != self.channels:
            raise ValueError(
                f"{raster.name}: it has {len(raster.values)} channels, but the context images have {self.channels}; "
                "use the same contrasts or colours, in the same order, for all of them"
            )
        return image

    def _place(self, size: Sequence[int]) -> Placement:
        return place(size, self.network.image_size, self.aspect)

    def to_size(self, image: Tensor, target: Tensor | None = None) -> Subject:
        """Brings an image, and its target, to the network's size."""
        images, labels = {"image": image}, dict[str, Tensor]()
        if target is not None:
            (labels if self.task.is_label else images)["target"] = target
        subject = Subject(images, labels, Item("image", "", frozenset(images)))
        return fit(subject, self._place(image.shape[1:]))

    def __call__(self, image: Source | Raster) -> Prediction:
        """Answers one image; see `predict`."""
        return self.predict([image])[0]

    def predict(self, images: Sequence[Source | Raster]) -> list[Prediction]:
        """Answers images after the context.

        Args:
            images: As in `set_context`, of any size.

        Returns:
            One answer for each, on its own grid.

        Raises:
            ValueError: If no context is set, or an image cannot be read or does not fit the network.
        """
        if not self.passes:
            raise ValueError("no context is set; call `set_context(images, targets)` first")
        rasters = [
            image if isinstance(image, Raster) else read_raster(image, f"image {k}", size_limit=self.size_limit)
            for k, image in enumerate(images)
        ]
        parts = (rasters[start : start + self.batch] for start in range(0, len(rasters), self.batch))
        return [answer for part in parts for answer in self._predict_batch(part)]

    @torch.inference_mode()
    def _predict_batch(self, rasters: Sequence[Raster]) -> list[Prediction]:
        """Asks everything of one batch; of several passes only the best so far is kept."""
        batch = torch.stack([self.to_size(self.read(raster)).images["image"] for raster in rasters]).to(self.device)
        best: list[tuple[Answer, Tensor] | None] = [None] * len(rasters)
        for each in self.passes:
            painted = self.network.answer(batch, each.memory).float().cpu()
            if not torch.isfinite(painted).all():
                raise ValueError("the network painted values that are not finite; its weights may be damaged")
            for number, raster in enumerate(rasters):
                whole = restore(painted[number], self._place(raster.size))
                best[number] = self._better(best[number], whole, each.spec)
        answers = [found[0] for found in best if found]
        return [finish(*both, self.classes, self.window) for both in zip(answers, rasters, strict=True)]

    def _better(self, before: tuple[Answer, Tensor] | None, painted: Tensor, spec: Spec) -> tuple[Answer, Tensor]:
        """Decodes one pass, and gives each pixel to the pass that claims it most."""
        answer, claim = self.task.decode(painted, spec), self.task.claim(painted, spec)
        if before is None or answer.labels is None or before[0].labels is None:
            return answer, claim
        wins = claim > before[1]
        return Answer(labels=torch.where(wins, answer.labels, before[0].labels)), torch.where(wins, claim, before[1])


def spread(target: Tensor, most: int) -> Tensor:
    """Repeats a painted target `(C, *S)` of one channel to the `most` channels of a network."""
    held = len(target)
    if held not in (1, most):
        raise ValueError(f"the targets have {held} channels, but the network paints {most}; give them 1 or {most}")
    return target.expand(most, *target.shape[1:])


def finish(
    answer: Answer, raster: Raster, classes: Sequence[int], window: tuple[float, float] | None = None
) -> Prediction:
    """Brings an answer into the units of its query; counts the pixels of the classes."""
    image: NDArray[Any] | None = None
    labels: NDArray[Any] | None = None
    found = answer.labels
    if answer.boxes is not None:
        found, classes = fill_boxes(raster.size, answer.boxes), [1]
    if found is not None:
        labels = found.numpy().astype(np.uint8 if max(classes) < 256 else np.uint16)
    if answer.image is not None:
        image = to_units(answer.image, limits(raster, window), raster.values.dtype)
    areas = {} if labels is None else {k: int((labels == k).sum()) for k in classes}
    boxes, scores = (None if x is None else x.numpy() for x in (answer.boxes, answer.scores))
    return Prediction(labels, image, boxes, scores, areas)


def fill_boxes(size: Sequence[int], boxes: Tensor) -> Tensor:
    """Paints boxes `(n, 4)` as class 1 of a label map `(H, W)`."""
    labels = torch.zeros(tuple(size), dtype=torch.int64)
    for top, left, bottom, right in boxes.long().tolist():
        labels[top:bottom, left:right] = 1
    return labels


def find_device(name: str) -> torch.device:
    """Finds a device.

    Raises:
        ValueError: If its name is unknown or this machine has none.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"`device` must be cpu, cuda or cuda:NUMBER, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"`device` is {name}, but PyTorch finds {torch.cuda.device_count()} CUDA devices here; "
            "use cpu, or see `mvg doctor`"
        )
    return device


def find_task(known: Mapping[str, Task], name: str | None) -> Task:
    """Finds a task by its name among those of a folder, or by the path of its class.

    Raises:
        ValueError: If there is no such task, or none is named and there is not exactly one.
    """
    names = ", ".join(sorted(known)) or "none"
    if name is None:
        if len(known) != 1:
            raise ValueError(f"name the task that the context shows; the weights know: {names}")
        return next(iter(known.values()))
    if name in known:
        return known[name]
    if "." not in name:
        raise ValueError(
            f"there is no task {name!r}; the weights know: {names}; or give a class path such as tasks.Segmentation"
        )
    task = from_config({"class_path": name})
    if not isinstance(task, Task):
        raise ValueError(f"{name} is no task, but a {type(task).__name__}")
    return task
