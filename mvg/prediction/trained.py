"""What weights say, for use in prediction: their tasks, and how the images that they were trained on were prepared."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvg import weights
from mvg.adaptation.methods import adapted_task
from mvg.configuration import from_config, to_config
from mvg.data.intensity import FullScale, Intensity, Percentiles
from mvg.task import Task

log = logging.getLogger(__name__)

Sources = Mapping[str, Mapping[str, Any]]
"""What weights say of the sources that they were trained on, as `weights.describe` returns it."""


def choose_task(folder: str | Path, task: str | Task | None, adapter: str | Path | None) -> Task:
    """Finds what a context shows: a task as it is or by its name, or else the one that an adapter was made for.

    Raises:
        ValueError: If there is no such task, or none is named and neither adapter nor weights leave one alone.
    """
    if task is None and adapter is not None:
        task = adapted_task(adapter)
    return task if isinstance(task, Task) else find_task(weights.load_tasks(folder), task)


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


def stored_rule(sources: Sources, roles: Sequence[str] | None = None) -> Intensity:
    """Finds the rule that brought volumes to [0, 1] in training.

    Args:
        sources: What the weights say.
        roles: Image roles that count, where a source states rules for them; all by default.

    Returns:
        The rule that all sources state, if there is exactly one; else percentiles. A source that states none was
        prepared by percentiles; rules that fit pictures alone are left out.
    """
    stated: list[Intensity] = []
    for facts in sources.values():
        rules = from_config(facts["intensity"]) if facts.get("intensity") else {}
        named = [rules[role] for role in roles or () if role in rules]
        stated += named or (list(rules.values()) or [Percentiles()])
    fitting = [rule for rule in stated if not (isinstance(rule, FullScale) and rule.maximum is None)]
    found = {repr(to_config(rule)): rule for rule in fitting}
    return next(iter(found.values())) if len(found) == 1 else Percentiles()


def stored_rules(sources: Sources, task: Task) -> tuple[Intensity, Intensity]:
    """Finds the rules of the images and of the targets that a task shows.

    A task that changes units (`Task.keeps_units`) may name roles of its own for either, as `Synthesis` does by
    `sources` and `targets`; for all others both rules are one.
    """
    if task.keeps_units:
        rule = stored_rule(sources, getattr(task, "roles", None))
        return rule, rule
    return stored_rule(sources, getattr(task, "sources", None)), stored_rule(sources, getattr(task, "targets", None))


def stored_cut(sources: Sources) -> tuple[str, bool]:
    """Finds how volumes were cut into slices in training.

    Returns:
        The slicing axis that all sources state, if there is exactly one, else "auto"; and whether all of them cut
        volumes to the box outside of which they are air.
    """
    axes = {str(facts["slices"]) for facts in sources.values() if facts.get("slices")}
    trims = {bool(facts["trim"]) for facts in sources.values() if "trim" in facts and facts.get("slices")}
    if len(axes) > 1 or len(trims) > 1:
        log.info("The sources of the training were cut in several ways; volumes are cut across the largest spacing")
    return (axes.pop() if len(axes) == 1 else "auto"), trims == {True}
