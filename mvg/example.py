"""The command `mvg example`: files of an anatomy that no weights have seen, to try `mvg predict` without own scans."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

from mvg.data.source import Index
from mvg.data.synthetic import MODALITIES, SyntheticAnatomy
from mvg.files import whole_folder
from mvg.hub import KINDS, shipped
from mvg.task import Task
from mvg.weights import load_tasks

log = logging.getLogger(__name__)

SIZES = {"2d": (128, 128), "3d": (64, 64, 64)}
"""Size of the images of each kind, if none is named."""


def draw_pairs(
    task: Task, anatomy: int, size: Sequence[int], count: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.generic]]]:
    """Makes an image `(*S)`, about [0, 1], and its target, a label map or an image, for each patient in turn.

    Args:
        task: What is asked.
        anatomy: Number of the anatomy among those of the split "test", which trains no network.
        size: Image size S.
        count: Number of patients.

    Raises:
        ValueError: If synthetic anatomies offer nothing to ask this task of, or it takes several channels.
    """
    source = SyntheticAnatomy(size, test_anatomies=anatomy + 1, subjects=count)
    items = source.items("test", anatomy)
    index, rng = Index(items), np.random.default_rng(anatomy)
    if not task.accepts(index):
        raise ValueError("synthetic anatomies have nothing to ask this task of; name another with --task")
    spec = task.draw(index, rng, False)
    subjects = [source.read(item) for item in items]
    spec = task.complete(spec, subjects, rng)
    for subject in subjects:
        if task.is_label:
            yield subject.images[MODALITIES[0]][0].numpy(), subject.labels["labels"].numpy().astype(np.uint8)
            continue
        pair = task.encode(subject, spec, rng)
        if pair.target is None or len(pair.image) > 1:
            raise ValueError("files hold one channel, but this task asks for more; name another with --task")
        yield pair.image[0].numpy(), pair.target[0].numpy()


def example(
    output: Path,
    task: str = "segmentation",
    weights: str | None = None,
    kind: str = "2d",
    examples: int = 4,
    scans: int = 3,
    anatomy: int = 0,
    size: Sequence[int] | None = None,
) -> None:
    """Writes a small synthetic data set to try `mvg predict` on: examples, scans, and the truth of the scans.

    The anatomy has a layout and a contrast of its own, which no weights that were trained on synthetic anatomies have
    seen. `context/images`, `context/targets`, `scans` and `truth` hold PNG files, or NIfTI for volumes.

    Args:
        output: Folder to be made; it must not exist.
        task: Name of a task of the weights.
        weights: Folder of a trained network, whose tasks can be asked for; by default what the package ships.
        kind: "2d" for images, "3d" for volumes.
        examples: Number of examples.
        scans: Number of scans to be answered.
        anatomy: Which anatomy; each number is another one.
        size: Size of the images in pixels; by default 128 x 128, or 64 x 64 x 64.

    Raises:
        FileExistsError: If the folder exists.
        ValueError: If an option is out of range, or the weights know no such task.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists; name a new folder")
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}")
    if min(examples, scans) < 1 or anatomy < 0:
        raise ValueError(
            f"`examples` and `scans` must be at least 1 and `anatomy` at least 0, got {examples}, {scans}, {anatomy}"
        )
    source = weights or shipped(kind)
    tasks = load_tasks(source)
    if task not in tasks:
        raise ValueError(f"these weights know no task {task!r}; they know {', '.join(tasks)}")
    shape = tuple(size or SIZES[kind])
    if len(shape) != len(SIZES[kind]):
        raise ValueError(f"`size` of {kind} images must be {len(SIZES[kind])} numbers, got {shape}")
    with whole_folder(output) as work:
        for number, (image, target) in enumerate(draw_pairs(tasks[task], anatomy, shape, examples + scans)):
            image_folder, target_folder = (
                ("context/images", "context/targets") if number < examples else ("scans", "truth")
            )
            _write(work / image_folder, number, image)
            _write(work / target_folder, number, target)
    named = f" --weights {weights}" if weights else ""
    log.info(
        "%d examples and %d scans are in %s. Answer them, and score the answers, by\n\n    mvg predict%s --task %s "
        "--context %s --input %s --output %s --preview\n    mvg score --predictions %s --targets %s\n",
        *(examples, scans, output, named, task, output / "context", output / "scans", output / "answers"),
        *(output / "answers", output / "truth"),
    )


def _write(folder: Path, number: int, values: NDArray[np.generic]) -> None:
    """Writes one image as PNG or NIfTI; label maps keep their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    is_label = values.dtype == np.uint8
    if values.ndim == 3:
        image = sitk.GetImageFromArray(values if is_label else values.astype(np.float32))
        sitk.WriteImage(image, folder / f"{number:02d}.nii.gz")
        return
    grey = values if is_label else (values.clip(0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(grey).save(folder / f"{number:02d}.png")
