"""What a run of `mvg predict` will do and take, found before the network is asked anything."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mvg.next_scale.level import levels
from mvg.prediction.memory import GIB, KERNELS, SLACK, Need, fit_batch, in_gib, need_of, resident, voxels_of, whole_need
from mvg.prediction.outputs import Job
from mvg.prediction.passes import LIMIT
from mvg.prediction.predict_pictures import check_job
from mvg.prediction.predict_volumes import check_volume
from mvg.prediction.predictor import Predictor
from mvg.prediction.rasters import read_raster
from mvg.prediction.run_facts import AnyPredictor, Groups, plain
from mvg.prediction.scale_predictor import ScalePredictor
from mvg.prediction.scans import Scan, cut, is_scan, read_scan
from mvg.prediction.volume_predictor import VolumePredictor
from mvg.wording import counted

log = logging.getLogger(__name__)


def volume_bytes(predictor: AnyPredictor, scan: Scan) -> int:
    """Bytes of the arrays that are held while one volume is answered; they do not grow with the number of classes."""
    voxels, members = voxels_of(scan.volume.values.shape), 0
    if isinstance(predictor, ScalePredictor):
        network = predictor.network
        windows = predictor.plan.batch * voxels_of(network.image_size) * (network.in_channels + network.out_channels)
        painted = 4 * network.out_channels * 2  # the answer and its weights in the blending of windows
        context = sum(voxels_of(shown.target.shape) for shown in predictor.context)
        members = 4 * voxels if predictor.member_count else 0
        return voxels * (4 + 6 + painted + 8) + context * (6 + 3 * network.out_channels) + members + 4 * windows
    if isinstance(predictor, VolumePredictor):
        members = 6 * voxels if predictor.predictor.member_count else 0
    return 20 * voxels + members


def largest_query(predictor: AnyPredictor, jobs: Sequence[Job]) -> int:
    """Most bytes of arrays that one query needs beside the network; pictures are small."""
    return max((volume_bytes(predictor, read_scan(job.query)) for job in jobs if is_scan(job.query)), default=0)


def respect_limit(predictor: AnyPredictor, jobs: Sequence[Job], examples: int, limit: float) -> None:
    """Makes batches, chunks and what is kept of contexts small enough for a limit on memory.

    Args:
        predictor: What answers; changed in place.
        jobs: The queries.
        examples: Largest number of examples.
        limit: GiB that the process may take.

    Raises:
        ValueError: If not even one image at a time fits, or the limit is not positive.
    """
    if limit <= 0:
        raise ValueError(f"`memory_limit` must be greater than 0 GiB, got {limit}")
    inner = plain(predictor)
    batch = inner.batch if isinstance(inner, Predictor) else inner.plan.batch
    before = program(inner)
    room = int((limit * GIB - before - KERNELS) / SLACK) - largest_query(predictor, jobs)
    seen = shown_at_once(inner, examples)
    need = need_of(inner.network, seen, led(inner))
    if need is None:
        raise ValueError("the memory of this network cannot be estimated; leave out --memory-limit and set --batch")
    fitting = fit_batch(need, batch, room)
    if not fitting and getattr(inner.network, "chunk", None) is not None:
        setattr(inner.network, "chunk", 1)  # noqa: B010
        need = need_of(inner.network, seen, led(inner)) or need
        fitting = fit_batch(need, batch, room)
    if not fitting:
        least = before + whole_need(largest_query(predictor, jobs) + need.memory + need.peak(1))
        raise ValueError(
            f"one image with {counted(examples, 'example')} needs about {in_gib(least)}, more than `memory_limit` "
            f"{limit} GiB; lower --context-size"
        )
    log.info("%d images are answered together, within %s GiB", fitting, limit)
    if inner.plan is not None:
        inner.plan.batch = fitting
    if isinstance(inner, Predictor):
        inner.batch = fitting
        inner.shelf.limit = max(need.memory, min(LIMIT, room - need.peak(fitting)))


def describe_plan(
    predictor: AnyPredictor, groups: Groups, candidates: int, examples: int, members: int, preview: bool
) -> str:
    """Says what a run will do: what is read and written, how often the network is asked, and the memory it takes.

    Examples and queries are read and checked; the network is asked nothing.

    Raises:
        ValueError: If a context or a query cannot be used.
    """
    lines, asked = [], 0
    most = 0
    for chosen, jobs in groups:
        predictor.set_context([pair.image for pair in chosen], [pair.target for pair in chosen])
        lines.append(f"examples: {len(chosen)} of {candidates}: {', '.join(pair.name for pair in chosen)}")
        if predictor.classes:
            lines.append(f"  classes: {', '.join(map(str, predictor.classes))}")
        for job in jobs:
            line, count, held = _describe_job(predictor, job)
            files = [job.answer, job.sidecar, *([job.preview] if preview else []), *([job.uncertainty] * bool(members))]
            lines += [f"  {job.name}: {line}", f"    -> {', '.join(map(str, files))}"]
            asked, most = asked + count * (1 + members), max(most, held)
    inner = plain(predictor)
    need = need_of(inner.network, shown_at_once(inner, examples), led(inner))
    lines += [f"the network is asked {asked} times", describe_memory(predictor, need, most)]
    return "\n".join(lines) + "\n"


def _describe_job(predictor: AnyPredictor, job: Job) -> tuple[str, int, int]:
    """Says what a query is; returns also how often the network is asked, and the bytes of its arrays."""
    if isinstance(predictor, Predictor):
        check_job(predictor, job)
        size = read_raster(job.query, size_limit=predictor.size_limit).size
        text, windows = _describe_windows(predictor, size)
        count = len(predictor.passes)
        return f"{size[0]} x {size[1]} pixels{text}, passes: {count}", count * windows, 0
    scan = check_volume(job, plain(predictor).task.is_label)
    shape = " x ".join(map(str, scan.shape))
    if isinstance(predictor, ScalePredictor):
        text, windows = _describe_windows(predictor, scan.volume.values.shape)
        count = len(predictor.specs)
        return f"{shape} voxels{text}, passes: {count}", count * windows, volume_bytes(predictor, scan)
    axis = predictor.way.axis(scan.volume) if predictor.axis is None else predictor.axis
    planes = cut(scan.volume.values[predictor.way.box(scan.volume)], axis)
    text, windows = _describe_windows(predictor.predictor, planes.shape[1:])
    asked = len(planes) * len(predictor.passes_of_query) * windows
    text = f"{shape} voxels, {len(planes)} slices{text}, passes: {len(predictor.passes_of_query)}"
    return text, asked, volume_bytes(predictor, scan)


def _describe_windows(predictor: Predictor | ScalePredictor, size: Sequence[int]) -> tuple[str, int]:
    """Says in how many windows an image or a slice is answered, and returns their number; 1 for a whole one."""
    plan = predictor.plan
    if plan is None:
        return "", 1
    scales = plan.levels(levels(size, predictor.network.image_size))
    windows = [level.windows(plan.overlap) for level in scales]
    return f", windows from coarse to fine: {', '.join(map(str, windows))}", sum(windows)


def describe_memory(predictor: AnyPredictor, need: Need | None, arrays: int) -> str:
    """Says how much memory is needed, and for what."""
    inner = plain(predictor)
    if need is None:
        return "memory: not estimated for this network"
    batch = inner.batch if inner.plan is None else inner.plan.batch
    kept = need.memory
    if isinstance(inner, Predictor):
        count = len(predictor.passes_of_query if isinstance(predictor, VolumePredictor) else inner.passes)
        kept = max(need.memory, min(count * need.memory, inner.shelf.limit))
    work = need.peak(1 if asks_one_by_one(inner) else batch)
    parts = {"contexts": kept, "network at work": work, "arrays of a query": arrays}
    before, more = program(inner), whole_need(sum(parts.values()))
    each = ", ".join(f"{name} {in_gib(size)}" for name, size in {"program": before, **parts}.items())
    spare = in_gib(more - sum(parts.values()))
    return f"memory: about {in_gib(before + more)} at the peak, with {batch} images together ({each}, spare {spare})"


def asks_one_by_one(predictor: Predictor | ScalePredictor) -> bool:
    """Tells whether each window has a context of its own, so that no two are answered together."""
    return predictor.plan is not None and not predictor.plan.retrieval.shared


def shown_at_once(predictor: Predictor | ScalePredictor, examples: int) -> int:
    """Images of examples that the network sees at once: in windows maybe several of each."""
    return examples if predictor.plan is None else examples * predictor.plan.retrieval.number


def led(predictor: Predictor | ScalePredictor) -> bool:
    """Tells whether windows are led by answers at a coarser scale."""
    return predictor.plan is not None and not predictor.plan.single


def program(predictor: Predictor | ScalePredictor) -> int:
    """Bytes that the process holds before it answers, with the libraries that it will need."""
    if predictor.plan is not None:
        import monai.inferers.inferer  # noqa: F401  windows are blended by it
    return resident()
