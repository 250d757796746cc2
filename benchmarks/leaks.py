"""Refuses to score weights on what trained them: by name of case and patient, and by the content of files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.entrant import Entrant
from benchmarks.suite import Case, SuiteSet, files_of
from mvg.data.exposure import CASES, FILES, NAME, PATIENTS, fingerprint_name
from mvg.data.location import fingerprint

log = logging.getLogger(__name__)


def check_leaks(entrant: Entrant, held: SuiteSet, cases: Iterable[Case]) -> None:
    """Checks that none of some test cases trained an entrant, as far as its weights say what did.

    Raises:
        ValueError: If one did, or another scan of its patient.
    """
    cases = list(cases)
    for facts in same_set(entrant, held):
        if CASES not in facts:
            log.warning(
                "%s: the weights of %s name this data set, but not the cases that trained them; take on trust that "
                "they keep the split of the suite",
                held.name,
                entrant.name,
            )
        for case in cases:
            for what, name, key in (("case", case.case, CASES), ("patient", case.patient, PATIENTS)):
                if fingerprint_name(name) in facts.get(key, ()):
                    raise ValueError(_sentence(entrant, held, case, f"{what} {name!r}"))
    seen = {mark for facts in entrant.trained_on.values() for mark in facts.get(FILES, ())}
    for case in cases if seen else ():
        for role, place in files_of(held.source)[case.case].items():
            if role not in held.source.kinds()[0] and fingerprint(place)[: len(next(iter(seen)))] in seen:
                raise ValueError(_sentence(entrant, held, case, f"the file {place.name} of case {case.case!r}"))


def _sentence(entrant: Entrant, held: SuiteSet, case: Case, what: str) -> str:
    return (
        f"{what} of {held.name} trained {entrant.name}, and the suite asks case {case.case!r}; "
        "score weights on patients that they have not seen, or leave the data set out with --datasets"
    )


def same_set(entrant: Entrant, held: SuiteSet) -> list[Mapping[str, Any]]:
    """Facts of the sources of an entrant that are a data set of a suite, by its name there or that of its source."""
    names = {held.name, held.source.name}
    return [facts for name, facts in entrant.trained_on.items() if {name, facts.get(NAME)} & names]


def trained_on(entrant: Entrant, sets: Sequence[SuiteSet]) -> tuple[str, ...]:
    """Names of the data sets that are known to have trained an entrant; those of a suite by their name there."""
    names = []
    for name, facts in entrant.trained_on.items():
        known = {name, facts.get(NAME)}
        names.append(next((held.name for held in sets if known & {held.name, held.source.name}), name))
    return tuple(sorted({name.replace(";", ",") for name in names}))
