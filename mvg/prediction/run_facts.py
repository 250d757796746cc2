"""What the answers of one run of `mvg predict` have in common, and how its queries are looked at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mvg
from mvg.adaptation.methods import ADAPTER
from mvg.configuration import to_config
from mvg.data.intensity import normalise
from mvg.next_scale import look
from mvg.prediction.context import PairFiles
from mvg.prediction.outputs import Job, fingerprint
from mvg.prediction.precision import LowPrecision
from mvg.prediction.predictor import Predictor
from mvg.prediction.rasters import read_raster
from mvg.prediction.retrieval import Chooser, Look, features_of
from mvg.prediction.scale_predictor import ScalePredictor
from mvg.prediction.scans import is_scan, read_scan
from mvg.prediction.volume_predictor import VolumePredictor
from mvg.weights import MODEL

log = logging.getLogger(__name__)

AnyPredictor = Predictor | VolumePredictor | ScalePredictor
Groups = Sequence[tuple[tuple[PairFiles, ...], Sequence[Job]]]
"""Examples, and the queries that are shown them."""


def plain(predictor: AnyPredictor) -> Predictor | ScalePredictor:
    """Returns what holds the network and the task."""
    return predictor.predictor if isinstance(predictor, VolumePredictor) else predictor


def looks_of(predictor: AnyPredictor, how: Look) -> Callable[[Path], Tensor]:
    """Returns what describes the look of an image file: of pictures at the network's size, of volumes as they lie."""
    inner = plain(predictor)
    features = features_of(how, inner.network) if isinstance(inner, Predictor) else look

    def describe_file(path: Path) -> Tensor:
        if is_scan(path):
            assert not isinstance(predictor, Predictor)
            values = read_scan(path).volume.values
            return look(torch.from_numpy(normalise(values, predictor.rule.limits(values, None)))[None])
        assert isinstance(inner, Predictor)
        return features(inner.fit_batch([read_raster(path, size_limit=inner.size_limit)])[0])

    return describe_file


def describe(
    predictor: AnyPredictor, folder: Path, task: str | None, adapter: Path | None, chooser: Chooser
) -> dict[str, Any]:
    """Collects what the answers of one run have in common, for their descriptions."""
    inner = plain(predictor)
    return {
        "version": mvg.__version__,
        "weights": {"folder": folder.name, "sha256": fingerprint(folder / MODEL)},
        "adapter": None if adapter is None else {"folder": adapter.name, "sha256": fingerprint(adapter / ADAPTER)},
        "task": {"name": task, **to_config(inner.task)},
        "precision": "bf16" if isinstance(inner.network, LowPrecision) else "32",
        "next_scale": None if inner.plan is None else to_config(inner.plan),
        **({"aspect": inner.aspect} if isinstance(inner, Predictor) else {}),
        "choose": chooser.how,
        "candidates": len(chooser.pairs),
        "seed": chooser.seed,
    }


def show(predictor: AnyPredictor, chosen: Sequence[PairFiles]) -> None:
    """Shows examples to a predictor."""
    predictor.set_context([pair.image for pair in chosen], [pair.target for pair in chosen])


def show_in_turn(
    predictor: AnyPredictor, groups: Groups, common: Mapping[str, Any]
) -> Iterator[tuple[Sequence[Job], dict[str, Any]]]:
    """Shows the examples of one group after the other; those of the first are shown already, by the checks before.

    Args:
        predictor: Answers the queries.
        groups: Examples, and the queries that are shown them.
        common: What the answers of one run have in common.

    Yields:
        The queries of a group, once its examples are shown, and what their answers have in common.
    """
    for number, (chosen, jobs) in enumerate(groups):
        if number:
            show(predictor, chosen)
        log.info("Examples: %s", ", ".join(pair.name for pair in chosen))
        yield jobs, {**common, **describe_context(chosen)}


def describe_context(chosen: Sequence[PairFiles]) -> dict[str, Any]:
    """Describes examples by the contents of their files."""
    return {
        "context": [
            {
                "name": pair.name,
                "image": {"file": pair.image.name, "sha256": fingerprint(pair.image)},
                "target": {"file": pair.target.name, "sha256": fingerprint(pair.target)},
            }
            for pair in chosen
        ]
    }


def name_of(number: int, names: Mapping[int, str]) -> str:
    """Name of a class."""
    return names.get(number, f"class {number}")
