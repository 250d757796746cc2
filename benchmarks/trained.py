"""Weights of this package as an entrant: the network is loaded once, images are prepared once for all contexts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mvg
from benchmarks.answering import Query, answer_queries, is_simple, prepare_picture, prepare_volume
from benchmarks.entrant import Entrant, Shown, digest, paths_of, values_of
from benchmarks.suite import Question
from mvg import weights
from mvg.configuration import to_config
from mvg.data.exposure import joined
from mvg.data.intensity import Window
from mvg.hub import locate
from mvg.models.base import InContextModel
from mvg.prediction.precision import Precision
from mvg.prediction.predictor import Predictor
from mvg.prediction.rasters import read_raster
from mvg.prediction.scale_predictor import ScalePredictor
from mvg.prediction.scales import Scales, plan_of
from mvg.prediction.scans import Scan, read_scan
from mvg.prediction.trained import find_task, stored_cut
from mvg.prediction.volume_predictor import VolumePredictor
from mvg.weights import CONFIG, MODEL

AnyPredictor = Predictor | VolumePredictor | ScalePredictor
_RANGE = (0.0, 1.0)
KEPT = 2**28
"""Numbers that are kept of examples, and of queries: one GiB each."""


class Trained(Entrant):
    """Weights of this package.

    Where a question takes several contrasts at once, each is asked alone, after the same contrast of the examples, and
    the mean of the answers counts.

    Args:
        folder: `<run>/weights`, or `hub:OWNER/NAME`.
        name: Its name in tables.
        device: Where the network runs.
        slices: Largest number of slices of a context that a pass of a 2D network sees; by default one a case.
        control: See `Entrant`.
        precision: "bf16" computes in bfloat16 where PyTorch deems it safe.
        scales: At which scales images are answered, see `mvg.prediction.scales.plan_of`.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        device: str = "cpu",
        slices: int | None = None,
        control: str = "",
        precision: Precision = "32",
        scales: Scales = "auto",
    ) -> None:
        self.folder, self.name, self.device, self.slices, self.control = locate(folder), name, device, slices, control
        facts = weights.describe(self.folder)
        self.trained_on = joined(facts.get("inherited", {}), facts.get("sources", {}))
        self.dims = len(facts["network"]["init_args"]["image_size"])
        self.precision, self.scales = precision, scales
        files = [hashlib.sha256((self.folder / part).read_bytes()).hexdigest() for part in (CONFIG, MODEL)]
        options = [control, *([precision] if precision != "32" else []), *([scales] if scales != "whole" else [])]
        self.digest = digest("weights", mvg.__version__, *files, slices or 0, *options)
        self._known = {name: entry["class_path"] for name, entry in facts["tasks"].items()}
        self._trim = stored_cut(facts.get("sources", {}))[1]
        self._network: InContextModel | None = None
        self._made: dict[tuple[str, int, str, int], AnyPredictor | None] = {}
        self._predictors: list[AnyPredictor | None] = []
        self._question = ""
        self._queries: dict[Path, Query] = {}
        self._scans: dict[Path, Scan] = {}

    def ask(self, question: Question, dims: int, shot: int, draw: int) -> None:
        """Makes the predictors for a kind of task; the task of the weights is taken if they know it."""
        if question.name != self._question:
            self._question, self._queries, self._scans = question.name, {}, {}
        path = to_config(question.asked)["class_path"]
        task = next((name for name, known in self._known.items() if known == path), path)
        self._predictors = []
        for number in range(question.inputs):
            key = (task, dims, question.slices, number)
            if key not in self._made:
                self._made[key] = self._make(task, dims, question.slices)
            made = self._made[key]
            if isinstance(made, VolumePredictor):
                made.examples = self.slices or shot
            self._predictors.append(made)

    def _make(self, task: str, dims: int, slices: str) -> AnyPredictor | None:
        if self.dims == 3:
            if dims == 2:
                return None
            made = ScalePredictor.from_pretrained(self.folder, task, device=self.device, precision=self.precision)
            made.plan = plan_of(self.scales, made.task, 3) or made.plan
            made.rule = Window(*_RANGE)
            return made
        if self._network is None:
            self._network = weights.load(self.folder)
        aspect, known = weights.load_aspect(self.folder), weights.load_tasks(self.folder)
        asked = find_task(known, task)
        plan = plan_of(self.scales, asked, 2)
        flat = Predictor(self._network, asked, self.device, aspect, _RANGE, precision=self.precision, plan=plan)
        if dims == 2:
            return flat
        rule = Window(*_RANGE)
        return VolumePredictor(flat, slices, rule, 1, "same-position", target_rule=rule, trim=self._trim)

    def set_context(self, images: Sequence[Shown], targets: Sequence[Path]) -> None:
        """Reads the examples once."""
        for number, predictor in enumerate(self._predictors):
            shown = [paths_of(image)[number] for image in images]
            if isinstance(predictor, VolumePredictor):
                predictor.set_context([self._scan(path) for path in shown], [self._scan(path) for path in targets])
            elif predictor is not None:
                predictor.set_context(shown, list(targets))

    def __call__(self, image: Shown) -> NDArray[Any] | None:
        """Answers one image; a network for volumes has no answer to a picture."""
        return self.answer([image])[0]

    def answer(self, images: Sequence[Shown]) -> list[NDArray[Any] | None]:
        """Answers several images in common batches."""
        found = []
        for number, predictor in enumerate(self._predictors):
            if predictor is None:
                return [None] * len(images)
            found.append(self._answer(predictor, [paths_of(image)[number] for image in images]))
        return [made[0] if len(made) == 1 else np.mean(made, axis=0) for made in zip(*found, strict=True)]

    def _answer(self, predictor: AnyPredictor, paths: Sequence[Path]) -> list[NDArray[Any]]:
        """Asks one predictor."""
        if isinstance(predictor, ScalePredictor) or not is_simple(predictor):
            made = predictor.predict(paths) if isinstance(predictor, Predictor) else map(predictor, paths)
            answers = [values_of(each) for each in made]
            return [values for values in answers if values is not None]
        if sum(query.slices.numel() for query in self._queries.values()) > KEPT:
            self._queries = {}
        for path in paths:
            if path not in self._queries:
                self._queries[path] = (
                    prepare_volume(predictor, read_scan(path))
                    if isinstance(predictor, VolumePredictor)
                    else prepare_picture(predictor, read_raster(path))
                )
        return answer_queries(predictor, [self._queries[path] for path in paths])

    def _scan(self, path: Path) -> Scan:
        """Reads a volume of the examples, once a question as long as they fit into memory."""
        if path not in self._scans:
            if sum(scan.volume.values.size for scan in self._scans.values()) > KEPT:
                self._scans = {}
            self._scans[path] = read_scan(path)
        return self._scans[path]
