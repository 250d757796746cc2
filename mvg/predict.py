"""The command `mvg predict`: files in, files out."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import ActionYesNo, ArgumentParser
from numpy.typing import NDArray

import mvg
from mvg.adaptation import ADAPTER, describe_adapter
from mvg.configuration import to_config
from mvg.context import Choice, PairFiles, choose, find_pairs, read_names
from mvg.data.readers import SIZE_LIMIT
from mvg.hub import locate
from mvg.next_scale import NextScale, Windows, retrieval_of
from mvg.outputs import Job, as_json, find_jobs, fingerprint, write_whole
from mvg.predict_volumes import answer_volumes
from mvg.predictor import Prediction, Predictor
from mvg.preview import draw_preview
from mvg.rasters import Raster, channels_first, check_writable, encode, limits, read_raster, to_tensor
from mvg.scale_predictor import ScalePredictor, takes_volumes
from mvg.scans import is_scan
from mvg.volume_predictor import ContextChoice, VolumePredictor, rule_for
from mvg.weights import MODEL

log = logging.getLogger(__name__)


def predict(args: Sequence[str]) -> None:
    """Answers images from files, after the examples in a folder."""
    parser = ArgumentParser(prog="mvg predict", description=predict.__doc__, exit_on_error=False)
    parser.add_function_arguments(predict_files, skip={"preview", "overwrite", "next_scale"})
    parser.add_argument(
        "--preview", action=ActionYesNo, default=False, help="Also write NAME.preview.png: query, answer and examples."
    )
    parser.add_argument("--overwrite", action=ActionYesNo, default=False, help="Replace outputs that exist.")
    parser.add_argument(
        "--next_scale",
        action=ActionYesNo(yes_prefix="next_", no_prefix="single_"),
        default=True,
        help="Networks for volumes answer from coarse to fine, or (--single-scale) the full resolution alone.",
    )
    words = [re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), word) for word in args]
    predict_files(**parser.parse_args(words).as_dict())


def predict_files(
    weights: Path,
    context: Path,
    input: Path,
    output: Path,
    task: str | None = None,
    targets: Path | None = None,
    adapter: Path | None = None,
    examples: int = 8,
    choice: Choice = "random",
    seed: int = 0,
    window: list[float] | None = None,
    slices: Literal["auto", "axial", "coronal", "sagittal"] = "auto",
    context_choice: ContextChoice = "spread",
    next_scale: bool = True,
    context_windows: list[Windows] | None = None,
    overlap: float = 0.25,
    aspect: str | None = None,
    device: str = "cpu",
    batch: int = 16,
    size_limit: int = SIZE_LIMIT,
    preview: bool = False,
    overwrite: bool = False,
) -> None:
    """Answers images from files. Everything is checked before the first file is written.

    Args:
        weights: Folder of a trained network, `<run>/weights`, or hub:OWNER/NAME on the Hugging Face hub.
        context: Folder with `images/` and `targets/` (or `labels/`): files of one name, extension aside, are a pair.
            Its `dataset.json`, if there is one, names the classes.
        input: An image (PNG, TIFF, JPEG, BMP or NPY) or a volume (NIfTI, MHA or NRRD), or a folder of either.
        output: Where the answers go: a file, or a folder. Beside each answer lies a description of it, NAME.json.
        task: Name of one of the tasks of the weights, or a class path such as tasks.Segmentation; may be left out
            where the weights know one task, or the adapter was made for one.
        targets: Folder of the targets, where `context` is the folder of the images alone.
        adapter: Folder that `mvg adapt` wrote for these weights; its window is taken where none is given.
        examples: Largest number of examples to show to the network; for volumes, of slices for each class.
        choice: Which ones to show where there are more, "random" or the "first".
        seed: Seeds the choice and the colours of tasks that draw them.
        window: The two values [low, high] of the images that become 0 and 1; by default the range of 8-bit and 16-bit
            pixels, and percentiles of other types unless their values lie in [0, 1]. By default volumes follow the one
            rule that all sources of the training state, else percentiles of each volume.
        slices: How volumes are cut; "auto" cuts across the largest spacing, for all along one axis: that of the volumes
            of the context.
        context_choice: Which slices of the context are shown to volumes: "spread" over all positions, the same for
            every slice, or those of the "same-position" along the slicing axis.
        next_scale: Networks for volumes answer from coarse to fine, instead of the full resolution alone.
        context_windows: Which windows of examples a network for volumes is shown, one or several of "same-place" (the
            default), "foreground" (where most is marked), "nearest" (what looks most alike) and "whole".
        overlap: Share of a window that it has in common with the next one, for networks for volumes.
        aspect: How images are brought to the network's size, "stretch", "pad" or "crop"; by default as in training.
        device: Where the network runs, cpu or cuda.
        batch: Largest number of images that are answered together.
        size_limit: Largest number of pixels of an image.
        preview: Also write NAME.preview.png.
        overwrite: Replace outputs that exist.

    Raises:
        ValueError: If anything is missing, damaged or does not fit together, or an output exists.
    """
    chosen = choose(find_pairs(context, targets), examples, choice, seed)
    window = describe_adapter(adapter).get("window") if adapter and window is None else window
    limits = as_window(window)
    predictor: Predictor | ScalePredictor
    weights = locate(weights)
    common_options: dict[str, Any] = {"folder": weights, "task": task, "adapter": adapter, "device": device}
    if takes_volumes(weights):
        plan = NextScale(not next_scale, overlap, batch=batch, retrieval=retrieval_of(context_windows))
        predictor = ScalePredictor.from_pretrained(
            **common_options, seed=seed, rule=rule_for(weights, limits), plan=plan
        )
    else:
        shape = {} if aspect is None else {"aspect": aspect}
        predictor = Predictor.from_pretrained(
            **common_options, seed=seed, window=limits, batch=batch, size_limit=size_limit, **shape
        )
    jobs = find_jobs(input, output, predictor.task.is_label, overwrite)
    common, start = describe(predictor, weights, task, chosen, adapter), time.perf_counter()
    log.info("Examples: %s", ", ".join(pair.name for pair in chosen))
    if isinstance(predictor, ScalePredictor):
        if not is_scan(jobs[0].query):
            raise ValueError(f"{jobs[0].query}: the network answers volumes; give it NIfTI, MHA or NRRD")
        answer_volumes(predictor, jobs, chosen, common, read_names(context), preview)
    elif is_scan(jobs[0].query):
        volumes = VolumePredictor(predictor, slices, rule_for(weights, window), examples, context_choice)
        answer_volumes(volumes, jobs, chosen, common, read_names(context), preview)
    else:
        answer_pictures(predictor, jobs, chosen, common, preview)
    log.info("%d answers written to %s in %.1f s", len(jobs), output, time.perf_counter() - start)


def as_window(values: Sequence[float] | None) -> tuple[float, float] | None:
    """Checks that a window has two values, where there is one."""
    if values is not None and len(values) != 2:
        raise ValueError(f"`window` takes two values, [low, high], got {values}")
    return None if values is None else (values[0], values[1])


def answer_pictures(
    predictor: Predictor, jobs: Sequence[Job], chosen: Sequence[PairFiles], common: Mapping[str, Any], preview: bool
) -> None:
    """Reads the context, checks all pictures, then answers them in batches."""
    predictor.set_context([pair.image for pair in chosen], [pair.target for pair in chosen])
    for job in jobs:
        check_job(predictor, job)
    for first in range(0, len(jobs), predictor.batch):
        answer_jobs(predictor, jobs[first : first + predictor.batch], common, preview)


def check_job(predictor: Predictor, job: Job) -> None:
    """Reads a query and checks that it can be answered and its answer be written."""
    raster = read_raster(job.query, size_limit=predictor.size_limit)
    predictor.read(raster)
    if predictor.task.is_label:
        check_writable(job.answer, np.dtype(np.uint16))
    else:
        check_writable(job.answer, raster.values.dtype, len(predictor.examples[0].target))


def describe(
    predictor: Predictor | ScalePredictor,
    folder: Path,
    task: str | None,
    chosen: Sequence[PairFiles],
    adapter: Path | None,
) -> dict[str, Any]:
    """Collects what the answers of one call have in common, for their descriptions."""
    return {
        "version": mvg.__version__,
        "weights": {"folder": folder.name, "sha256": fingerprint(folder / MODEL)},
        "adapter": None if adapter is None else {"folder": adapter.name, "sha256": fingerprint(adapter / ADAPTER)},
        "task": {"name": task, **to_config(predictor.task)},
        **({"aspect": predictor.aspect} if isinstance(predictor, Predictor) else {}),
        "context": [
            {
                "name": pair.name,
                "image": {"file": pair.image.name, "sha256": fingerprint(pair.image)},
                "target": {"file": pair.target.name, "sha256": fingerprint(pair.target)},
            }
            for pair in chosen
        ],
    }


def answer_jobs(predictor: Predictor, jobs: Sequence[Job], common: Mapping[str, Any], preview: bool) -> None:
    """Answers one batch of files and writes all that belongs to each; a preview that is not renewed is removed."""
    start = time.perf_counter()
    rasters = [read_raster(job.query, size_limit=predictor.size_limit) for job in jobs]
    answers = predictor.predict(rasters)
    seconds = round((time.perf_counter() - start) / len(jobs), 4)
    for job, raster, answer in zip(jobs, rasters, answers, strict=True):
        painted = answer.image if answer.labels is None else answer.labels
        assert painted is not None
        facts = {
            **common,
            "specs": [each.spec for each in predictor.passes],
            "query": {"file": job.query.name, "sha256": fingerprint(job.query)},
            "range": list(limits(raster, predictor.window)),
            "areas": answer.areas,
            "boxes": None if answer.boxes is None else answer.boxes.tolist(),
            "scores": None if answer.scores is None else answer.scores.tolist(),
            "seconds": seconds,
        }
        contents = {job.answer: encode(painted, job.answer.suffix), job.sidecar: as_json(facts)}
        if preview:
            contents[job.preview] = encode(draw(predictor, raster, answer), job.preview.suffix)
        write_whole(contents)
        if not preview:
            job.preview.unlink(missing_ok=True)


def draw(predictor: Predictor, raster: Raster, answer: Prediction) -> NDArray[np.uint8]:
    """Draws the preview of an answer, `(H, W, 3)`."""
    query = predictor.read(raster)
    if answer.labels is not None:
        target = torch.from_numpy(answer.labels.astype(np.int64))
    else:
        assert answer.image is not None
        channels = predictor.network.out_channels
        image = Raster(channels_first(answer.image), raster.name)
        target = to_tensor(image, limits(raster, predictor.window), channels)
    return np.asarray(draw_preview(query, target, predictor.examples, Path(raster.name).name, answer.boxes))
