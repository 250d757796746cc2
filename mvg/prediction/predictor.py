"""Prediction: a context is read once, then any number of images is answered on their own grid."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvg import weights
from mvg.adaptation.methods import describe_adapter, load_adapter
from mvg.data.geometry import Placement, fit, place, restore
from mvg.data.readers import SIZE_LIMIT
from mvg.data.subject import Item, Subject
from mvg.episode import Answer, Spec
from mvg.hub import locate, shipped
from mvg.models.base import InContextModel
from mvg.next_scale import NextScale
from mvg.prediction.answers import Prediction, Units, finish, units_of
from mvg.prediction.context import Example, label_maps, present, read_context
from mvg.prediction.passes import Pass, Shelf, better, keep_classes, spread
from mvg.prediction.precision import Precision, find_device, in_precision
from mvg.prediction.rasters import Raster, Source, dark_range, limits, read_raster, to_tensor
from mvg.prediction.scales import BATCH, Scales, check_plan, plan_of, restores
from mvg.prediction.subjects import split
from mvg.prediction.trained import choose_task
from mvg.prediction.uncertainty import MOST, Agreement, draw_members, flips_of
from mvg.task import Task
from mvg.wording import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """What was read of a context.

    Attributes:
        images: Each `(C_in, H, W)`, [0, 1].
        targets: One for each image, class indices `(H, W)` int64 or an image `(C, H, W)` in [0, 1].
        channels: Channels of the images as they are stored.
        units: Units of the targets, where they are images.
    """

    images: list[Tensor]
    targets: list[Tensor]
    channels: int
    units: Units | None = None


@dataclass(frozen=True)
class Batch:
    """Images that are asked together.

    Attributes:
        images: Each `(C_in, *image_size)`, or of its own size where it is answered in windows.
        sizes: Their own heights and widths.
    """

    images: list[Tensor]
    sizes: list[tuple[int, int]]


class Predictor:
    """Answers images after the examples of a context.

    Images are brought to the network's size as in training; what it paints is brought back onto the grid of the
    query before it is decoded. With a `plan` they keep their size and are answered in windows, but for label maps and
    synthesis of images that are smaller than the network's. Every class that the
    label maps of the context show is asked for; where the task paints one class at a time, each pixel goes to the class
    painted most clearly.

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
        members: Further answers with which each answer is compared; see `mvg.prediction.uncertainty`.
        shelf: Keeps what the network remembers of contexts.
        precision: "32", or "bf16" to compute in bfloat16 where PyTorch deems it safe.
        plan: How images are answered in windows; by default whole. See `mvg.prediction.scales`.

    Raises:
        ValueError: If an argument is out of range, the device does not exist here, the adapter belongs to other
            weights, or the plan does not suit the task.
    """

    def __init__(
        self,
        network: InContextModel,
        task: Task,
        device: str = "cpu",
        aspect: str = "stretch",
        window: tuple[float, float] | None = None,
        batch: int = BATCH,
        seed: int = 0,
        size_limit: int = SIZE_LIMIT,
        adapter: str | Path | None = None,
        members: int = 0,
        shelf: Shelf | None = None,
        precision: Precision = "32",
        plan: NextScale | None = None,
    ) -> None:
        if plan is not None:
            check_plan(plan, task)
        if not 0 <= members <= MOST:
            raise ValueError(f"`members` must be between 0 and {MOST}, got {members}")
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
        self.network, self.task = in_precision(network.eval().to(self.device), precision), task
        self.aspect, self.window, self.batch, self.seed, self.size_limit = aspect, window, batch, seed, size_limit
        self.member_count, self.shelf = members, Shelf() if shelf is None else shelf
        self.plan = plan
        self.passes: list[Pass] = []
        self.members: list[list[Pass]] = []
        self.units: Units | None = None
        self.examples: list[Example] = []
        self.classes: list[int] = []
        self.channels: int | None = None

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | None = None,
        task: str | Task | None = None,
        adapter: str | Path | None = None,
        scales: Scales = "auto",
        **options: Any,
    ) -> Predictor:
        """Loads a trained folder.

        Args:
            folder: `<run>/weights` of a finished fit, or `hub:OWNER/NAME` on the Hugging Face hub; by default the 2D
                weights that the installation ships.
            task: Name of one of its tasks, a class path, or a task; may be left out where the folder holds one task,
                or the adapter was made for one.
            adapter: Folder that `mvg adapt` wrote for these weights.
            scales: Makes the `plan` where none is given, see `mvg.prediction.scales.plan_of`: what restores the query
                is answered in windows from coarse to fine, all else whole.
            **options: Arguments of the class; `aspect` is by default that of the training, `aspect` and `window` those
                of the adapter where there is one.
        """
        folder = shipped("2d") if folder is None else locate(folder)
        facts = {} if adapter is None else describe_adapter(adapter)
        chosen = choose_task(folder, task, adapter)
        window = tuple(facts["window"]) if facts.get("window") else None
        plan = plan_of(scales, chosen, 2, adapted=adapter is not None, batch=options.get("batch", BATCH))
        defaults = {"aspect": facts.get("aspect", weights.load_aspect(folder)), "window": window, "plan": plan}
        return cls(weights.load(folder), chosen, adapter=adapter, **{**defaults, **options})

    def set_context(self, images: Sequence[Source], targets: Sequence[Source] | None = None) -> None:
        """Reads the context; it stays until the next one is set, also if that fails.

        Args:
            images: Files, PIL images, arrays `(H, W)` or `(H, W, C)`, tensors `(H, W)` or `(C, H, W)`, or images of
                TorchIO; of any size. Or subjects of TorchIO, which hold the targets, too: the first label map, or for
                tasks that paint images the second intensity image.
            targets: One for each image, of its size: class indices, or the image that is to be painted.

        Raises:
            ValueError: If a pair does not fit together, or one does not fit the network or the task.
        """
        pairs = self.read_pairs(*split(images, targets, self.task.is_label))
        self.show(pairs.images, pairs.targets)
        self.channels = pairs.channels
        self.units = None if self.task.keeps_units else pairs.units

    def read_pairs(self, images: Sequence[Source], targets: Sequence[Source]) -> Pairs:
        """Reads and checks pairs for the network, without showing them to it.

        Args:
            images: As in `set_context`.
            targets: As in `set_context`.

        Raises:
            ValueError: As in `set_context`.
        """
        left, right = read_context(images, targets, self.task.is_label, self.size_limit)
        channels = len(left[0].values)
        if self.window is None and (largest := dark_range(left)) is not None:
            log.warning(
                "the context images reach %d only, nearly black to the network; name a range, such as `window` [0, %d]",
                largest, 2 ** largest.bit_length() - 1,
            )  # fmt: skip
        shown = [self._to_image(raster, channels) for raster in left]
        if self.task.is_label:
            return Pairs(shown, label_maps(right), channels)
        most = self.network.out_channels
        wanted = 1 if most == 1 else max(len(raster.values) for raster in right)
        bounds = [
            limits(image if self.task.keeps_units and target.full_scale is None else target, self.window)
            for image, target in zip(left, right, strict=True)
        ]
        painted = [to_tensor(raster, bound, wanted) for raster, bound in zip(right, bounds, strict=True)]
        return Pairs(shown, painted, channels, units_of(bounds, [raster.values.dtype for raster in right]))

    def show(self, images: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        """Shows pairs to the network, which keeps what it needs of them.

        Args:
            images: Each `(C_in, H, W)`, [0, 1].
            targets: One for each image, class indices `(H, W)` int64 or an image `(C, H, W)` in [0, 1].

        Raises:
            ValueError: If no class of the targets can be seen at the network's size.
        """
        examples = [Example(image, target) for image, target in zip(images, targets, strict=True)]
        fitted = [self.to_shown(example.image, example.target) for example in examples]
        small = [subject.labels["target"] if self.task.is_label else subject.images["target"] for subject in fitted]
        shown = [subject.images["image"] for subject in fitted]
        passes = self.pose(shown, small)
        classes = self._classes(targets, small)
        self.members = [self._pose_member(number, shown, small) for number in range(self.member_count)]
        self.passes, self.examples, self.classes = passes, examples, classes

    def _pose_member(self, number: int, images: Sequence[Tensor], targets: Sequence[Tensor]) -> list[Pass]:
        """Asks the same of half of the examples, or of mirrored ones."""
        rng = np.random.default_rng((self.seed, number))
        shows = [present(target) if self.task.is_label else {0} for target in targets]
        chosen, flips = draw_members(shows, rng), flips_of(number, len(targets), 2)
        return self.pose([images[k] for k in chosen], [targets[k] for k in chosen], flips)

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

    def pose(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Tensor],
        flips: tuple[int, ...] = (),
        classes: Sequence[int] | None = None,
    ) -> list[Pass]:
        """Makes a pass for each question that pairs ask.

        Args:
            images: Each `(C_in, *S)`, [0, 1], of the size that `to_shown` gives them.
            targets: Class indices `(*S)`, or images.
            flips: Axes along which the network sees all of it mirrored.
            classes: Classes that are asked for; all that the targets show by default.

        Raises:
            ValueError: If they ask nothing.
        """
        shown = [keep_classes(target, classes) for target in targets]
        specs = self.task.pose(shown, np.random.default_rng(self.seed))
        if not specs:
            raise ValueError(
                f"no class of the context can be seen at the network's size {tuple(self.network.image_size)}; "
                "show larger examples"
            )
        return [
            Pass(self.network, self.shelf, spec, images, targets, partial(self._paint, spec, classes), flips, self.plan)
            for spec in specs
        ]

    def _paint(self, spec: Spec, classes: Sequence[int] | None, target: Tensor) -> Tensor:
        return spread(self.task.paint(keep_classes(target, classes), spec), self.network.out_channels)

    def read(self, source: Source | Raster) -> Tensor:
        """Reads and checks an image for the network, `(C_in, H, W)`, [0, 1].

        Raises:
            ValueError: If it cannot be read, or its channels are not those of the network and of the context.
        """
        raster = source if isinstance(source, Raster) else read_raster(source, size_limit=self.size_limit)
        return self._to_image(raster, self.channels)

    def _to_image(self, raster: Raster, channels: int | None) -> Tensor:
        image = to_tensor(raster, limits(raster, self.window), self.network.in_channels)
        if channels is not None and len(raster.values) != channels:
            raise ValueError(
                f"{raster.name}: it has {counted(len(raster.values), 'channel')}, but the context images have "
                f"{channels}; use the same contrasts or colours, in the same order, for all of them"
            )
        return image

    def _place(self, size: Sequence[int]) -> Placement:
        return place(size, self.network.image_size, self.aspect)

    def to_size(self, image: Tensor, target: Tensor | None = None) -> Subject:
        """Brings an image, and its target, to the network's size."""
        return fit(self._subject(image, target), self._place(image.shape[1:]))

    def to_shown(self, image: Tensor, target: Tensor | None = None) -> Subject:
        """Brings an image, and its target, to the network's size, unless they are shown in windows.

        Images that are smaller than the network's are enlarged, as in training, unless they are to be restored.
        """
        small = all(side <= most for side, most in zip(image.shape[1:], self.network.image_size, strict=True))
        if self.plan is None or (small and not restores(self.task)):
            return self.to_size(image, target)
        return self._subject(image, target)

    def _subject(self, image: Tensor, target: Tensor | None) -> Subject:
        images, labels = {"image": image}, dict[str, Tensor]()
        if target is not None:
            (labels if self.task.is_label else images)["target"] = target
        return Subject(images, labels, Item("image", "", frozenset(images)))

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

    def _predict_batch(self, rasters: Sequence[Raster]) -> list[Prediction]:
        """Answers one batch, and compares the answers with those of the members."""
        answers = [
            finish(answer, raster, self.classes, self.window, self.units)
            for answer, raster in zip(self.ask(rasters, self.passes), rasters, strict=True)
        ]
        if not self.members:
            return answers
        known = [Agreement(answer.painted, [*answer.areas]) for answer in answers]
        for passes in self.members:
            for found, answer, raster in zip(known, self.ask(rasters, passes), rasters, strict=True):
                found.add(finish(answer, raster, self.classes, self.window, self.units).painted)
        return [
            replace(answer, uncertainty=found.map(), agreement=found.describe())
            for answer, found in zip(answers, known, strict=True)
        ]

    def ask(self, rasters: Sequence[Raster], passes: Sequence[Pass]) -> list[Answer]:
        """Asks several passes of one batch of images; of their answers only the best so far is kept."""
        batch = self.read_batch(rasters)
        best: list[tuple[Answer, Tensor] | None] = [None] * len(rasters)
        for each in passes:
            best = [better(*both) for both in zip(best, self.answer_batch(batch, each), strict=True)]
        return [found[0] for found in best if found]

    def read_batch(self, rasters: Sequence[Raster]) -> Batch:
        """Reads images that are to be asked together."""
        shown = [self.to_shown(self.read(raster)).images["image"] for raster in rasters]
        return Batch(shown, [raster.size for raster in rasters])

    def fit_batch(self, rasters: Sequence[Raster]) -> Tensor:
        """Reads images and brings them to the network's size, `(B, C_in, *image_size)`."""
        return torch.stack([self.to_size(self.read(raster)).images["image"] for raster in rasters])

    @torch.inference_mode()
    def answer_batch(self, batch: Batch, each: Pass) -> Iterator[tuple[Answer, Tensor]]:
        """Asks one pass of a batch.

        Args:
            batch: What `read_batch` returned.
            each: What is asked.

        Yields:
            For each image its answer, and how much each pixel is claimed, on its own grid.
        """
        for whole in self._paint_batch(batch, each):
            yield self.task.decode(whole, each.spec), self.task.claim(whole, each.spec)

    def _paint_batch(self, batch: Batch, each: Pass) -> Iterator[Tensor]:
        """Paints images on their own grid, `(C_out, H, W)`."""
        if self.plan is not None:
            for values, size in zip(each.paint_windows(batch.images), batch.sizes, strict=True):
                yield values if values.shape[1:] == size else restore(values, self._place(size))
            return
        small = each.paint(torch.stack(batch.images))
        for values, size in zip(small, batch.sizes, strict=True):
            yield restore(values, self._place(size))
