"""Statistics of paired results: bootstrap over patients, permutation tests, shared ranks and their stability.

Everything works on plain arrays; nothing random is drawn without a generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

EXACT = 13
"""Most differences for which all changes of sign are tried."""


def resample(patients: int, draws: int, rng: np.random.Generator) -> Floats:
    """Draws patients with replacement.

    Args:
        patients: Number of patients.
        draws: Number of bootstrap samples.
        rng: Source of all randomness.

    Returns:
        How often each sample holds each patient, `(draws, patients)`.
    """
    counts = rng.multinomial(patients, np.full(patients, 1 / patients), size=draws)
    return counts.astype(np.float64)


def clustered_means(values: Floats, patient: Integers, stratum: Integers, counts: Floats) -> Floats:
    """Means over cases, then over strata, with all cases of a patient counted together.

    Args:
        values: `(cases, entrants)`, finite.
        patient: Index of the patient of each case, `(cases,)`.
        stratum: Index of the structure that each case was scored for, `(cases,)`.
        counts: How often each sample holds each patient, `(draws, patients)`; ones for the plain mean.

    Returns:
        `(draws, entrants)`; a stratum that a sample does not hold is left out of it.
    """
    total = np.zeros((len(counts), values.shape[1]))
    held = np.zeros((len(counts), 1))
    for level in np.unique(stratum):
        chosen = stratum == level
        sums = np.zeros((counts.shape[1], values.shape[1]))
        np.add.at(sums, patient[chosen], values[chosen])
        number = counts @ np.bincount(patient[chosen], minlength=counts.shape[1])[:, None]
        total += np.where(number > 0, counts @ sums / np.maximum(number, 1), 0)
        held += number > 0
    return total / np.maximum(held, 1)


def interval(samples: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """Percentile interval of bootstrap samples `(draws, entrants)`: low and high, `(entrants,)` each."""
    tail = 50 * (1 - level)
    low, high = np.percentile(samples, [tail, 100 - tail], axis=0)
    return low, high


def sign_flip_test(difference: Floats, rng: np.random.Generator, draws: int = 10_000) -> float:
    """Two-sided paired permutation test of one comparison, `(n,)`; see `sign_flip_tests`."""
    return float(sign_flip_tests(difference[:, None], rng, draws)[0])


def sign_flip_tests(differences: Floats, rng: np.random.Generator, draws: int = 10_000) -> Floats:
    """Two-sided paired permutation tests: are the mean differences compatible with exchangeable signs?

    All changes of sign are tried for at most 13 differences; else as many as `draws` at random, the observed one
    counted in. All comparisons share the changes.

    Args:
        differences: One number a patient and comparison, `(n, comparisons)`.
        rng: Source of all randomness.
        draws: Number of random changes.

    Returns:
        The p-values, in (0, 1], `(comparisons,)`; 1 for fewer than two patients.
    """
    number, comparisons = differences.shape
    if number < 2:
        return np.ones(comparisons)
    if exact := number <= EXACT:
        flips = (np.arange(2**number)[:, None] >> np.arange(number)) & 1
    else:
        flips = rng.integers(0, 2, size=(draws, number))
    observed, slack = np.abs(differences.sum(0)), 1e-12 * np.abs(differences).sum(0)
    hits = np.count_nonzero(np.abs((1.0 - 2.0 * flips) @ differences) >= observed - slack, axis=0)
    p_values: Floats = hits / len(flips) if exact else (hits + 1) / (draws + 1)
    return p_values


def holm(p_values: Sequence[float]) -> Floats:
    """Adjusts p-values for their number by Holm's method; the order is kept."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps)) if len(values) else steps
    return adjusted


def shared_ranks(values: Floats, higher: bool = True, mean: bool = False) -> Floats:
    """Ranks the last axis from 1, best first, on unrounded values; equal values share a rank.

    Args:
        values: `(..., entrants)`; infinite values are allowed.
        higher: Whether a higher value is better.
        mean: Equal values get the mean of their places (for sums of ranks) instead of the first of them.
    """
    ranks: Floats = rankdata(-values if higher else values, method="average" if mean else "min", axis=-1)
    return ranks.astype(np.float64)


def kendall(samples: Floats, reference: Floats) -> Floats:
    """Kendall's tau-b of each sample of ranks `(draws, entrants)` with a reference `(entrants,)`.

    Returns:
        `(draws,)`, [-1, 1]; NaN where all entrants of either share one rank.
    """
    first, second = np.triu_indices(len(reference), 1)
    theirs = np.sign(reference[first] - reference[second])
    ours = np.sign(samples[:, first] - samples[:, second])
    size = np.sqrt((theirs**2).sum() * (ours**2).sum(1))
    tau: Floats = np.divide(ours @ theirs, size, out=np.full(len(samples), math.nan), where=size > 0)
    return tau
