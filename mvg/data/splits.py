"""Which patient a case belongs to, and which split a patient belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from mvg.data.source import SPLITS


def group_of(case: str, groups: Mapping[str, str], pattern: str | None, block: int | None) -> str:
    r"""Returns the patient of a case.

    Args:
        case: Name of the case.
        groups: Case to patient; asked first.
        pattern: Regular expression; its first bracket, or all that it matches, names the patient.
        block: Size of number blocks: cases whose last number falls into one block are taken for one patient.

    Raises:
        ValueError: If the pattern does not match, or a block is asked for and the name holds no number.

    >>> group_of("p07_scan2", {}, r"(p\d+)_", None), group_of("frame_0123", {}, None, 50)
    ('p07', 'block2')
    """
    if case in groups:
        return groups[case]
    if pattern is not None:
        match = re.search(pattern, case)
        if match is None:
            raise ValueError(f"`group_pattern` {pattern!r} does not match case {case!r}")
        return match.group(1) if match.groups() else match.group(0)
    if block is not None:
        numbers = re.findall(r"\d+", case)
        if not numbers:
            raise ValueError(f"`group_block` needs a number in every case name, got {case!r}")
        return f"block{int(numbers[-1]) // block}"
    return case


def assign_splits(
    cases: Mapping[str, str], split: Mapping[str, float | Sequence[str]], seed: int
) -> dict[str, tuple[str, ...]]:
    """Distributes cases over the splits so that no patient is in two of them.

    Args:
        cases: Case to patient.
        split: For each split either its share of the patients (the shares sum to 1) or a list of case names, in which
            `*` and `?` stand for any text; cases that no list names belong to no split.
        seed: Seed of the shuffle of patients, for shares.

    Returns:
        Split to its cases, sorted.

    Raises:
        ValueError: If names, shares or lists are wrong, or a patient would be in two splits.
    """
    unknown = sorted(set(split) - set(SPLITS))
    if unknown:
        raise ValueError(f"`split` names {unknown}; the splits are {list(SPLITS)}")
    shares = {name: value for name, value in split.items() if isinstance(value, (int, float))}
    lists = {name: value for name, value in split.items() if not isinstance(value, (int, float))}
    if shares and lists:
        raise ValueError("`split` must hold either shares or lists of cases, not both")
    chosen = _by_share(cases, shares, seed) if shares else _by_list(cases, lists)
    check_disjoint(cases, chosen)
    return {name: tuple(sorted(chosen.get(name, ()))) for name in SPLITS}


def _by_share(cases: Mapping[str, str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    total = sum(shares.values())
    if abs(total - 1) > 1e-6 or min(shares.values()) < 0:
        raise ValueError(f"the shares of `split` must not be negative and must sum to 1, got {dict(shares)}")
    groups = sorted(set(cases.values()))
    order = np.random.default_rng(seed).permutation(len(groups))
    bounds = np.round(np.cumsum([0.0, *(shares.get(name, 0.0) for name in SPLITS)]) * len(groups)).astype(int)
    where = {}
    for name, start, stop in zip(SPLITS, bounds[:-1], bounds[1:], strict=True):
        where.update({groups[number]: name for number in order[start:stop]})
    return {name: [case for case, group in cases.items() if where[group] == name] for name in SPLITS}


def _by_list(cases: Mapping[str, str], lists: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    chosen: dict[str, list[str]] = {}
    for name, patterns in lists.items():
        for pattern in patterns:
            if not any(fnmatchcase(case, pattern) for case in cases):
                raise ValueError(f"`split` {name} names {pattern!r}, which matches none of the {len(cases)} cases")
        chosen[name] = [case for case in cases if any(fnmatchcase(case, pattern) for pattern in patterns)]
    return chosen


def check_disjoint(cases: Mapping[str, str], chosen: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError if two splits share a patient."""
    seen: dict[str, str] = {}
    for name, members in chosen.items():
        for case in members:
            first = seen.setdefault(cases[case], name)
            if first != name:
                raise ValueError(f"patient {cases[case]!r} of case {case!r} is in two splits, {first} and {name}")
