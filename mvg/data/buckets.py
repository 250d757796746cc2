"""Batches of one image size where a run has several: pairs of source and task, by the axes of their images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

Names = tuple[str, str]


class Buckets:
    """Chooses pairs of source and task, such that a batch keeps to images of as many axes.

    Args:
        pairs: Names of source and task.
        shares: Relative frequency of each in training.
        dims: Source to the number of its axes.
    """

    def __init__(self, pairs: Sequence[Names], shares: Sequence[float], dims: Mapping[str, int]) -> None:
        kinds = sorted({dims[source] for source, _ in pairs})
        members = [[n for n, (source, _) in enumerate(pairs) if dims[source] == kind] for kind in kinds]
        self.pairs = [[pairs[n] for n in numbers] for numbers in members]
        self._bounds = [_bounds([shares[n] for n in numbers]) for numbers in members]
        self._kinds = _bounds([sum(shares[n] for n in numbers) for numbers in members])

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, batch: np.random.Generator, episode: np.random.Generator) -> Names:
        """Draws a pair by its share.

        Args:
            batch: Random numbers that all episodes of a batch have in common; used where there are several sizes.
            episode: Random numbers of the episode.
        """
        kind = _find(self._kinds, batch) if len(self) > 1 else 0
        return self.pairs[kind][_find(self._bounds[kind], episode)]

    def turn(self, index: int, size: int) -> Names:
        """Goes round: batch by batch through the sizes, and through the pairs of each.

        Args:
            index: Number of the episode.
            size: Episodes of a batch, over all processes.
        """
        batch, place = divmod(index, size)
        kind = batch % len(self)
        pairs = self.pairs[kind]
        return pairs[(batch // len(self) * size + place) % len(pairs)]


def _bounds(shares: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(np.cumsum(shares) / np.sum(shares), dtype=np.float64)


def _find(bounds: np.ndarray[tuple[int], np.dtype[np.float64]], rng: np.random.Generator) -> int:
    return int(np.searchsorted(bounds, rng.random(), side="right"))


def weigh_pairs(
    sources: Iterable[str], tasks: Iterable[str], weights: Mapping[str, float], fits: Callable[[str, str], bool]
) -> tuple[list[Names], list[float]]:
    """Lists the pairs of source and task that go together, with their weights.

    Args:
        sources: Names of the sources.
        tasks: Names of the tasks.
        weights: Factor of a source, a task or a `source/task`; 1 where not named.
        fits: Says whether a source suits a task.

    Raises:
        ValueError: If a weight is negative, or names what is not there.
    """
    pairs = [(source, task) for source in sources for task in tasks]
    known = {name for source, task in pairs for name in (source, task, f"{source}/{task}")}
    if unknown := sorted(set(weights) - known):
        names = sorted(f"{source}/{task}" for source, task in pairs)
        raise ValueError(f"`weights` names {unknown}, which is no source, task or source/task of {names}")
    if negative := sorted(name for name, weight in weights.items() if weight < 0):
        raise ValueError(f"`weights` must not be negative, got {weights[negative[0]]} for {negative[0]!r}")
    shares = {
        (source, task): weights.get(source, 1.0) * weights.get(task, 1.0) * weights.get(f"{source}/{task}", 1.0)
        for source, task in pairs
    }
    used = [pair for pair in pairs if shares[pair] > 0 and fits(*pair)]
    return used, [shares[pair] for pair in used]
