"""How the images that weights were trained on were prepared, as far as the weights say so, for use in prediction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mvg.configuration import from_config, to_config
from mvg.data.intensity import FullScale, Intensity, Percentiles
from mvg.task import Task

log = logging.getLogger(__name__)

Sources = Mapping[str, Mapping[str, Any]]
"""What weights say of the sources that they were trained on, as `weights.describe` returns it."""


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
