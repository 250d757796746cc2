"""The command `mvg predict`: files in, files out."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mvg.adaptation.methods import describe_adapter
from mvg.data.readers import SIZE_LIMIT
from mvg.hub import locate
from mvg.next_scale import NextScale, Windows, retrieval_of
from mvg.options import make_parser, parse
from mvg.prediction.context import PairFiles, find_pairs, read_names
from mvg.prediction.default_weights import weights_for
from mvg.prediction.outputs import Job, find_jobs
from mvg.prediction.plan import describe_plan, respect_limit
from mvg.prediction.precision import Precision
from mvg.prediction.predict_pictures import answer_pictures
from mvg.prediction.predict_volumes import answer_volumes
from mvg.prediction.predictor import Predictor
from mvg.prediction.retrieval import Choice, Chooser, Look, Table
from mvg.prediction.run_facts import Groups, describe, looks_of
from mvg.prediction.scale_predictor import ScalePredictor, takes_volumes
from mvg.prediction.scales import Scales, plan_of
from mvg.prediction.scans import is_scan
from mvg.prediction.trained import choose_task, stored_cut
from mvg.prediction.volume_predictor import SliceChoice, VolumePredictor, rules_for
from mvg.weights import describe as describe_weights
from mvg.wording import counted

log = logging.getLogger(__name__)

Axis = Literal["auto", "axial", "coronal", "sagittal"]
_MEMBERS = 6
_FLAGS = {
    "preview": "Also write NAME.preview.png: query, answer and examples.",
    "overwrite": "Replace outputs that exist.",
    "dry_run": "Say what would be read, asked and written, and how much memory it takes; answer nothing.",
}


def predict(args: Sequence[str]) -> None:
    """Answers images from files, after the examples in a folder."""
    parser = make_parser(predict, predict_files, _FLAGS, skip=("uncertainty",))
    parser.add_argument(
        "--uncertainty",
        type=int,
        nargs="?",
        const=_MEMBERS,
        default=0,
        help="Also write NAME.uncertainty: how far so many further answers differ, after other draws of the examples "
        f"and of mirrored images ({_MEMBERS} where no number is given). The answer stays as it is.",
    )
    predict_files(**parse(parser, args))


def predict_files(
    context: Path,
    input: Path,
    output: Path,
    weights: Path | None = None,
    task: str | None = None,
    targets: Path | None = None,
    adapter: Path | None = None,
    context_size: int = 8,
    choose: Choice = "random",
    looks: Look = "image",
    metadata: Path | None = None,
    seed: int = 0,
    window: list[float] | None = None,
    target_window: list[float] | None = None,
    slices: Axis | None = None,
    context_slices: SliceChoice = "spread",
    scales: Scales = "auto",
    context_windows: list[Windows] | None = None,
    overlap: float = 0.25,
    focus: float = 0.0,
    aspect: str | None = None,
    device: str = "cpu",
    precision: Precision = "32",
    batch: int = 16,
    memory_limit: float | None = None,
    uncertainty: int = 0,
    format: str = "auto",
    size_limit: int = SIZE_LIMIT,
    preview: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> None:
    """Answers images from files. Everything is checked before the first file is written.

    Args:
        context: Folder with `images/` and `targets/` (or `labels/`): files of one name, extension aside, are a pair,
            and so are NAME_0000 and NAME. Its `dataset.json`, if there is one, names the classes.
        input: An image (PNG, TIFF, JPEG, BMP or NPY) or a volume (NIfTI, MHA or NRRD), or a folder of either, or of
            DICOM series.
        output: Where the answers go: a file, or a folder. Beside each answer lies a description of it, NAME.json.
        weights: Folder of a trained network, `<run>/weights`, or hub:OWNER/NAME on the Hugging Face hub; by default
            those that the installation ships for such inputs.
        task: Name of one of the tasks of the weights, or a class path such as tasks.Segmentation; may be left out
            where the weights know one task, or the adapter was made for one.
        targets: Folder of the targets, where `context` is the folder of the images alone, such as `labelsTr` beside
            `imagesTr`.
        adapter: Folder that `mvg adapt` wrote for these weights; its window and slices are taken where none are given.
        context_size: Largest number of examples to show to the network; for volumes, of slices for each class.
        choose: Which ones to show where there are more, for each query: at "random" or the "first", the same for all;
            those "nearest" in looks; "diverse" ones, as unlike as possible; or those of the nearest "metadata".
        looks: What tells which images look alike: the coarse pattern of the "image", or the features of the "network"
            (volumes as a whole always by their pattern).
        metadata: Table (CSV) with a column `case` and others such as `modality`, for examples and queries; the spacing
            of volumes is known without it.
        seed: Seeds the choice and the colours of tasks that draw them.
        window: The two values [low, high] of the images that become 0 and 1; by default the range of 8-bit and 16-bit
            pixels, and percentiles of other types unless their values lie in [0, 1]. By default volumes follow the one
            rule that all sources of the training state, else percentiles of each volume.
        target_window: The same for volumes of targets that are images; by default `window`, or else as in training.
        slices: How volumes are cut: "axial", "coronal" or "sagittal"; "auto" cuts across the coarser spacing, else
            axially, all along one axis, that of the volumes of the context. By default as in training.
        context_slices: Which slices of the examples are shown to volumes: "spread" over all positions or "diverse" in
            looks, the same for every slice; those of the "same-position" along the slicing axis, or the "nearest" ones.
        scales: Whether an image is answered "whole", at the network's size and enlarged again, in windows of "full"
            resolution, or in these led by coarser scales, "coarse-to-fine". "auto" takes the last for networks for
            volumes, and for 2D networks that restore the query; else these answer whole.
        context_windows: Which windows of examples are shown where windows are answered, one or several of "same-place"
            (the default for volumes), "foreground" (where most is shown, the default for images), "nearest" (what looks
            most alike) and "whole".
        overlap: Share of a window that it has in common with the next one.
        focus: Finer scales are answered only in windows where the coarser label map somewhere exceeds this, such as
            0.1; 0 answers every window.
        aspect: How images are brought to the network's size, "stretch", "pad" or "crop"; by default as in training.
        device: Where the network runs, cpu or cuda.
        precision: How it computes: 32 bits, or "bf16" where PyTorch deems it safe, which is several times as fast on
            processors that multiply it natively.
        batch: Largest number of images that are answered together.
        memory_limit: GiB that the process may take, about; smaller batches are answered where that is needed.
        uncertainty: Number of further answers that each answer is compared with.
        format: Kind of file of the answers, such as nii.gz, mha, png, npy or (for DICOM series) dcm; "auto" follows the
            query.
        size_limit: Largest number of pixels of an image.
        preview: Also write NAME.preview.png.
        overwrite: Replace outputs that exist.
        dry_run: Say what would be done and how much memory it takes, and do nothing.

    Raises:
        ValueError: If anything is missing, damaged or does not fit together, or an output exists.
    """
    start = time.perf_counter()
    weights = weights_for(input) if weights is None else locate(weights)
    pairs = find_pairs(context, targets)
    adapted = {} if adapter is None else describe_adapter(adapter)
    window = adapted.get("window") if window is None else window
    slices = adapted.get("slices") if slices is None else slices
    limits = as_window(window)
    predictor: Predictor | ScalePredictor | VolumePredictor
    options: dict[str, Any] = {"folder": weights, "task": task, "adapter": adapter, "device": device, "seed": seed}
    options |= {"members": uncertainty, "precision": precision}
    axes = 3 if takes_volumes(weights) else 2
    windows = retrieval_of(context_windows) if context_windows else None
    rollout: dict[str, Any] = {"overlap": overlap, "batch": batch, "focus": focus}
    asked = choose_task(weights, task, adapter)
    options["plan"] = plan_of(scales, asked, axes, adapted=adapter is not None, retrieval=windows, **rollout)
    check_used(options["plan"], axes, rollout, windows is not None, {"slices": slices, "aspect": aspect})
    if axes == 3:
        predictor = scale = ScalePredictor.from_pretrained(**options)
        scale.rule, scale.target_rule = rules_for(weights, scale.task, limits, as_window(target_window))
    else:
        options |= {} if aspect is None else {"aspect": aspect}
        predictor = Predictor.from_pretrained(**options, window=limits, batch=batch, size_limit=size_limit)
    jobs = find_jobs(input, output, predictor.task.is_label, overwrite, format)
    volumes = is_scan(jobs[0].query)
    if isinstance(predictor, ScalePredictor) and not volumes:
        raise ValueError(f"{jobs[0].query}: the network answers volumes; give it NIfTI, MHA or NRRD")
    if isinstance(predictor, Predictor) and volumes:
        rules = rules_for(weights, predictor.task, limits, as_window(target_window))
        axis, trim = stored_cut(describe_weights(weights).get("sources", {}))
        predictor = VolumePredictor(
            predictor, slices or axis, rules[0], context_size, context_slices, target_rule=rules[1], trim=trim,
            looks=looks,
        )  # fmt: skip
    chooser = Chooser(pairs, context_size, choose, seed, looks_of(predictor, looks), Table(metadata))
    groups = group_jobs(chooser, jobs)
    examples = context_size if isinstance(predictor, VolumePredictor) else min(context_size, len(pairs))
    if memory_limit is not None:
        respect_limit(predictor, jobs, examples, memory_limit)
    if dry_run:
        sys.stdout.write(describe_plan(predictor, groups, len(pairs), examples, uncertainty, preview))
        return
    common = describe(predictor, weights, task, adapter, chooser)
    if isinstance(predictor, Predictor):
        answer_pictures(predictor, groups, common, read_names(context, targets), preview)
    else:
        answer_volumes(predictor, groups, common, read_names(context, targets), preview)
    log.info("%s written to %s in %.1f s", counted(len(jobs), "answer"), output, time.perf_counter() - start)


def check_used(
    plan: NextScale | None, axes: int, rollout: Mapping[str, Any], windows: bool, flat: Mapping[str, Any]
) -> None:
    """Checks that nothing is asked for that would change nothing.

    Args:
        plan: How images are answered in windows; None for whole.
        axes: Axes of the network's images.
        rollout: Options of windows.
        windows: Windows of the examples are named.
        flat: Options of 2D networks that were given.

    Raises:
        ValueError: If an option has no effect.
    """
    if plan is None and (windows or rollout["focus"] or rollout["overlap"] != NextScale().overlap):
        raise ValueError(
            "the network answers these images whole, so that `focus`, `overlap` and `context_windows` change nothing; "
            "add --scales coarse-to-fine, or leave them out"
        )
    if plan is not None and plan.focus and (plan.single or plan.limit == 1):
        raise ValueError("`focus` needs a coarser answer, but one scale alone is answered; add --scales coarse-to-fine")
    if axes == 3 and (given := [name for name, value in flat.items() if value is not None]):
        raise ValueError(f"{' and '.join(f'`{name}`' for name in given)} are for 2D networks, this one takes volumes")


def as_window(values: Sequence[float] | None) -> tuple[float, float] | None:
    """Checks that a window has two values, where there is one."""
    if values is not None and len(values) != 2:
        raise ValueError(f"`window` takes two values, [low, high], got {values}")
    return None if values is None else (values[0], values[1])


def group_jobs(chooser: Chooser, jobs: Sequence[Job]) -> Groups:
    """Groups queries that are shown the same examples, so that each context is read once."""
    found: dict[tuple[PairFiles, ...], list[Job]] = {}
    for job in jobs:
        found.setdefault(chooser() if chooser.fixed else chooser(job.query), []).append(job)
    return list(found.items())
