"""At which scales images are answered: whole at the network's size, at full resolution, or from coarse to fine."""

from __future__ import annotations

from typing import Any, Literal, get_args

from mvg.next_scale import Foreground, NextScale, Retrieval, SamePlace
from mvg.task import Task

BATCH = 16
"""Images, or windows of them, that are answered together."""
Scales = Literal["auto", "whole", "full", "coarse-to-fine"]
LIMIT = 3
"""Scales of images at most, from coarse to fine: finer windows show too little for networks of whole images."""


def plan_of(
    scales: Scales,
    task: Task,
    axes: int,
    *,
    adapted: bool = False,
    retrieval: Retrieval | None = None,
    **options: Any,
) -> NextScale | None:
    """Decides how a network answers images that are larger or smaller than its own.

    Args:
        scales: "whole" brings each image to the network's size, and the answer back; "full" answers windows of full
            resolution, "coarse-to-fine" windows of all scales, each led by the coarser answer; of 2D networks of three
            scales at most, up to four times their size, from which larger images are enlarged. "auto" takes
            "coarse-to-fine" for networks for volumes, and for 2D networks that restore the query, as what is painted at
            the network's size is blurred when it is enlarged; "whole" for all else that 2D networks are asked: label
            maps and synthesis, and what an adapter was trained for, on whole images.
        task: What is asked.
        axes: Axes of the network's images, 2 or 3.
        adapted: An adapter changes the network.
        retrieval: Which windows of the context are shown; by default those at the same place of volumes, and of images
            those that show most, the same for all windows of a scale, so that they are read once.
        **options: Other arguments of `NextScale`; `batch` is by default 16 for 2D networks.

    Returns:
        How it is rolled out; None for whole images of a 2D network.

    Raises:
        ValueError: If there is no such way, or it does not suit the task.
    """
    if scales not in get_args(Scales):
        raise ValueError(f"`scales` must be one of {', '.join(get_args(Scales))}, got {scales!r}")
    if scales == "auto":
        scales = "whole" if axes == 2 and (adapted or not restores(task)) else "coarse-to-fine"
    if scales == "whole" and axes == 2:
        return None
    windows = retrieval or (Foreground() if axes == 2 else SamePlace())
    limit = 1 if scales == "whole" else LIMIT if axes == 2 and scales == "coarse-to-fine" else None
    defaults = {"batch": BATCH} if axes == 2 else {}
    plan = NextScale(scales == "full", retrieval=windows, limit=limit, **{**defaults, **options})
    check_plan(plan, task)
    return plan


def restores(task: Task) -> bool:
    """Tells whether a task paints the query itself, better."""
    return task.keeps_units and not task.is_label


def check_plan(plan: NextScale, task: Task) -> None:
    """Raises ValueError if a plan does not suit a task."""
    if plan.focus and not task.is_label:
        raise ValueError(
            f"`focus` leaves out what a coarse label map does not show, but {type(task).__name__} paints images; "
            "leave it at 0"
        )
