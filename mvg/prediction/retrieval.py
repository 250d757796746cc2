"""Which of many examples a query is shown: at random, by place, by looks, far apart, or by what a table says of them.

Windows of networks for volumes are chosen by `mvg.next_scale.retrieval`; both rooms describe looks alike.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mvg.data.readers import case_name
from mvg.models.base import InContextModel
from mvg.next_scale import look
from mvg.prediction.context import PairFiles
from mvg.prediction.scans import is_scan, read_scan

Choice = Literal["random", "first", "nearest", "diverse", "metadata"]
Look = Literal["image", "network"]
Features = Callable[[Tensor], Tensor]
"""Describes what an image `(C, *S)` looks like by a vector `(D,)` of length 1."""

_UNUSED = frozenset({"case", "group", "split", "role", "path", "sha256"})
"""Columns of a manifest that say nothing of how a case looks."""


def nearest(features: Tensor, query: Tensor, number: int) -> list[int]:
    """Returns the numbers of the vectors nearest to a query, nearest first; of equals the first.

    Args:
        features: `(n, D)`, of length 1 each.
        query: `(D,)`.
        number: Largest number to return.
    """
    found: list[int] = (features @ query).argsort(descending=True, stable=True)[:number].tolist()
    return found


def far_apart(features: Tensor, number: int) -> list[int]:
    """Returns the numbers of vectors that together lie near all others: greedy k-center, from the most central one on.

    Source: Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985: the largest distance of a vector
    to the nearest chosen one is at most twice the least possible from that start.

    Args:
        features: `(n, D)`.
        number: Largest number to return.
    """
    chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
    distance = torch.full((len(features),), math.inf)
    while len(chosen) < min(number, len(features)):
        distance = torch.minimum(distance, (features - features[chosen[-1]]).square().sum(1))
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return chosen


class NetworkLook:
    """Describes images by what a network makes of them: the mean output of the first block that states its features.

    Args:
        network: The network; it sees each image as its own example with an empty target.

    Raises:
        ValueError: If it names no place (`prompt_places`).
    """

    def __init__(self, network: InContextModel) -> None:
        places = network.prompt_places()
        if not places:
            raise ValueError(
                f"{type(network).__name__} states no features (`prompt_places`); choose by the looks image"
            )
        maps = {name: place for name, place in places.items() if place[0] == 1} or places
        name, (self.axis, _) = next(iter(maps.items()))
        self.network, self.module = network, network.get_submodule(name)

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        """Returns the description of an image `(C_in, *image_size)`."""
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            found.append(output.detach())

        device = next(self.network.parameters()).device
        shown = image[None, None].to(device)
        hook = self.module.register_forward_hook(keep)
        try:
            empty = shown.new_zeros(1, 1, self.network.out_channels, *shown.shape[3:])
            self.network.answer(shown[:, 0], self.network.remember(shown, empty))
        finally:
            hook.remove()
        values = found[0].float().movedim(self.axis, -1)
        values = values.reshape(-1, values.shape[-1])
        both = torch.cat([F.layer_norm(part, part.shape) for part in (values.mean(0), values.std(0))])
        return F.normalize(both, dim=0).cpu()


def features_of(how: Look, network: InContextModel) -> Features:
    """Returns what describes images: their coarse pattern, or the network.

    Raises:
        ValueError: If there is no such way.
    """
    if how not in get_args(Look):
        raise ValueError(f"`looks` must be {' or '.join(get_args(Look))}, got {how!r}")
    return look if how == "image" else NetworkLook(network)


class Table:
    """What is known of cases beside their images: columns of a manifest, and of volumes the spacing of their voxels.

    Args:
        path: A CSV with a column `case`; None for spacing alone.

    Raises:
        ValueError: If it cannot be read or has no such column.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.rows: dict[str, dict[str, str]] = {}
        if path is None:
            return
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                lines = list(csv.DictReader(stream))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: the table cannot be read ({error}); give a CSV") from error
        if not lines or "case" not in lines[0]:
            raise ValueError(f"{path}: the table needs a column `case` and at least one row")
        for line in lines:
            known = self.rows.setdefault(line["case"], {})
            known.update({name: value for name, value in line.items() if name not in _UNUSED and value})

    def of(self, path: Path) -> dict[str, str]:
        """Returns what is known of the case in a file."""
        known = dict(self.rows.get(case_name(path), {}))
        if is_scan(path):
            scan = read_scan(path)
            known |= {f"spacing {axis}": str(size) for axis, size in zip("xyz", scan.volume.spacing, strict=True)}
        return known


def distance(first: Mapping[str, str], second: Mapping[str, str]) -> float:
    """Returns how far apart two rows are: for each column 0 to 1, numbers by their ratio, words by equality.

    What one of them lacks counts 1.
    """
    return sum(_differ(first.get(name), second.get(name)) for name in {*first, *second})


def _differ(first: str | None, second: str | None) -> float:
    if first is None or second is None:
        return 1.0
    try:
        numbers = float(first), float(second)
    except ValueError:
        return float(first.strip().lower() != second.strip().lower())
    if min(numbers) <= 0:
        return float(numbers[0] != numbers[1])
    return min(1.0, abs(math.log(numbers[0] / numbers[1])))


class Chooser:
    """Chooses the pairs of files that a query is shown; equal arguments give equal pairs.

    Args:
        pairs: All candidates.
        number: Largest number to choose.
        how: "random", the "first" ones, the "nearest" in looks, "diverse" (far apart in looks, the same for every
            query), or those whose "metadata" are nearest.
        seed: Seeds the random choice, and the order of those with equal metadata.
        describe: Describes what a file looks like, `(D,)`.
        table: What is known beside the images.

    Raises:
        ValueError: If the number is not positive, the seed negative or the way unknown.
    """

    def __init__(
        self,
        pairs: Sequence[PairFiles],
        number: int,
        how: Choice = "random",
        seed: int = 0,
        describe: Callable[[Path], Tensor] | None = None,
        table: Table | None = None,
    ) -> None:
        if number < 1:
            raise ValueError(f"`context_size` must be at least 1, got {number}")
        if seed < 0:
            raise ValueError(f"`seed` must not be negative, got {seed}")
        if how not in get_args(Choice):
            raise ValueError(f"`choose` must be one of {', '.join(get_args(Choice))}, got {how!r}")
        self.pairs, self.number, self.how, self.seed = list(pairs), number, how, seed
        self.describe, self.table = describe, table or Table()

    @property
    def fixed(self) -> bool:
        """Whether all queries are shown the same pairs."""
        return self.how in ("random", "first", "diverse") or self.number >= len(self.pairs)

    def __call__(self, query: Path | None = None) -> tuple[PairFiles, ...]:
        """Returns the pairs for a query, in the order of the candidates; no query is needed where all see the same."""
        if self.number >= len(self.pairs):
            return tuple(self.pairs)
        return tuple(self.pairs[k] for k in sorted(self._numbers(query)[: self.number]))

    def _numbers(self, query: Path | None) -> list[int]:
        order: list[int] = np.random.default_rng(self.seed).permutation(len(self.pairs)).tolist()
        if self.how == "random":
            return order
        if self.how == "first":
            return list(range(self.number))
        if self.how == "diverse":
            return far_apart(self._looks, self.number)
        assert query is not None
        if self.how == "nearest":
            assert self.describe is not None
            return nearest(self._looks, self.describe(query), self.number)
        asked = self.table.of(query)
        return sorted(order, key=lambda number: distance(asked, self._rows[number]))

    @cached_property
    def _looks(self) -> Tensor:
        """Descriptions of all candidates, `(n, D)`: each is read once."""
        assert self.describe is not None
        return torch.stack([self.describe(pair.image) for pair in self.pairs])

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        return [self.table.of(pair.image) for pair in self.pairs]


def choose(pairs: Sequence[PairFiles], number: int, how: Choice = "random", seed: int = 0) -> list[PairFiles]:
    """Chooses pairs for all queries at once, at random or the first ones; see `Chooser`."""
    return list(Chooser(pairs, number, how, seed)())
