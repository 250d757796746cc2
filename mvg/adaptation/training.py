"""Training on a few labelled cases, and the validation that decides when it stops."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping
from torch import Tensor
from torch.optim import AdamW, Optimizer

from mvg.adaptation.cases import NAME, Case, CaseData, CaseEpisodes, HeldOutEpisodes
from mvg.adaptation.methods import Adaptation, Method, changed
from mvg.adaptation.volumes import Windows
from mvg.data.augmentation import Augmentation
from mvg.generalist import Generalist
from mvg.models.base import InContextModel
from mvg.prediction.precision import Precision
from mvg.task import Task

log = logging.getLogger(__name__)

Validation = Literal["auto", "leave-one-out", "held-out", "none"]
Curve = list[tuple[int, float]]
"""Steps taken, and the score after them."""

RATES: Mapping[Method, float] = {"prompt": 1e-2, "lora": 5e-3, "head": 2e-3, "full": 1e-3}
"""Learning rate of each method."""
STEPS = 200
"""Steps where neither steps nor minutes are given."""
_FEW = 4
_SHARE = 0.2
_EVERY = 20  # steps between validations of a training by minutes
_SLICES, _VOLUMES = 32, 6  # most episodes of a validation
_ENDLESS = 10**9


@dataclass(frozen=True)
class Plan:
    """How a network is trained on cases.

    Attributes:
        adaptation: What is trained.
        weights: Folder of the base weights.
        steps: Number of steps; None for a training by minutes.
        minutes: Minutes of training, validation not counted; None for a training by steps.
        rate: Highest learning rate.
        batch: Episodes a step.
        examples: Largest number of examples of a query.
        patience: Validations without a better one before training stops.
        device: "cpu" or "cuda".
        precision: Of the training, "32" or "bf16".
        seed: Seed of everything.
        workers: Processes that prepare batches.
        validations: Validations that the steps are divided into.
    """

    adaptation: Adaptation
    weights: str
    steps: int | None = STEPS
    minutes: float | None = None
    rate: float = 2e-3
    batch: int = 8
    examples: int = 4
    patience: int = 5
    device: str = "cpu"
    precision: Precision = "bf16"
    seed: int = 0
    workers: int = 0
    validations: int = 10

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("train for a number of `steps` or of `minutes`, not for both")
        for name in ("steps", "minutes", "rate", "batch", "examples", "patience", "validations"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be greater than 0, got {value}")
        if self.seed < 0 or self.workers < 0:
            raise ValueError(f"`seed` and `workers` must not be negative, got {self.seed} and {self.workers}")


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Attributes:
        state: What it changed: the best that validation has seen, else the last.
        step: Steps until then.
        curve: Score at each validation, ascending steps; empty without held-out cases.
        base: Fingerprint of the network before.
        network: The prepared network.
        metric: Name of the score; "" without held-out cases.
    """

    state: dict[str, Tensor]
    step: int
    curve: Curve
    base: str
    network: InContextModel
    metric: str = ""


# ---------------------------------------------------------------------- training


def adapt_to_cases(
    network: InContextModel,
    task: Task,
    cases: Sequence[Case],
    groups: Sequence[tuple[int, ...]],
    plan: Plan,
    validation: Validation = "auto",
) -> tuple[Outcome, dict[str, Any]]:
    """Adapts a copy of a network to cases.

    "held-out" trains on four fifths of the cases and keeps the step that is best on the others. "leave-one-out" trains
    once without each case, then on all of them up to the step that was best on average; it takes an equal share of
    the minutes for each training. "none" trains on all cases to the end. "auto" is "none" for one case,
    "leave-one-out" up to four, else "held-out".

    Args:
        network: With the weights of `plan.weights`; left as it is.
        task: The task.
        cases: The cases.
        groups: Classes that each pass of the network asks for.
        plan: How it is trained.
        validation: What decides when to stop.

    Returns:
        The outcome, and the facts of the validation.

    Raises:
        ValueError: If there are too few cases for the validation, or the held-out ones show nothing to compare.
    """
    how, folds = divide(cases, validation, plan.seed)
    folds = [fold for fold in folds if shown(fold[0]) & shown(fold[1])]
    if not folds and validation not in ("auto", "none"):
        raise ValueError("no held-out case shows a class of the others; set `validation` to none, or add cases")
    if not folds:
        return train(network, task, cases, [], groups, plan), {"how": "none"}
    if how == "held-out":
        outcome = train(network, task, *folds[0], groups, plan)
        return outcome, judge(how, task, outcome.metric, [outcome.curve], [len(held) for _, held in folds])
    share = replace(plan, minutes=plan.minutes and plan.minutes / (len(folds) + 1), patience=_ENDLESS)
    outcomes = []
    for number, (left, held) in enumerate(folds, 1):
        log.info("Training %d of %d, without %s", number, len(folds) + 1, ", ".join(case.name for case in held))
        outcomes.append(train(network, task, left, held, groups, share))
    curves = [outcome.curve for outcome in outcomes]
    facts = judge(how, task, outcomes[0].metric, curves, [len(held) for _, held in folds])
    return train(network, task, cases, [], groups, share, facts["best_step"]), facts


def shown(cases: Sequence[Case]) -> set[int]:
    """Classes that cases show (class 0 stands for image targets)."""
    return {k for case in cases for entry in case.slices for k, pixels in entry.pixels.items() if pixels}


def divide(
    cases: Sequence[Case], validation: Validation, seed: int
) -> tuple[Validation, list[tuple[list[Case], list[Case]]]]:
    """Divides cases into those to train on and those held out, once for each training that is validated.

    Raises:
        ValueError: If a name is unknown or there are too few cases.
    """
    if validation not in get_args(Validation):
        raise ValueError(f"`validation` must be one of {', '.join(get_args(Validation))}, got {validation!r}")
    if validation == "auto":
        validation = "none" if len(cases) == 1 else "leave-one-out" if len(cases) <= _FEW else "held-out"
    if validation == "none":
        return validation, []
    if len(cases) < 2:
        raise ValueError(f"{validation} validation needs at least 2 cases, got {len(cases)}; set `validation` to none")
    order = np.random.default_rng(seed).permutation(len(cases)).tolist()
    size = 1 if validation == "leave-one-out" else max(1, round(_SHARE * len(cases)))
    parts = [set(order[start : start + size]) for start in range(0, len(cases), size)]
    folds = [
        ([case for n, case in enumerate(cases) if n not in part], [case for n, case in enumerate(cases) if n in part])
        for part in parts
    ]
    return validation, folds if validation == "leave-one-out" else folds[:1]


def judge(how: str, task: Task, metric: str, curves: Sequence[Curve], held: Sequence[int]) -> dict[str, Any]:
    """Averages the curves of all trainings as far as all have come, and finds the best step.

    Trainings by minutes end after different steps; between its validations a curve is taken for straight.
    """
    last = min(curve[-1][0] for curve in curves)
    steps = sorted({step for curve in curves for step, _ in curve if step <= last})
    scores = [np.interp(steps, [step for step, _ in curve], [score for _, score in curve]) for curve in curves]
    mean = [(step, float(score)) for step, score in zip(steps, np.mean(scores, axis=0), strict=True)]
    best, score = max(mean, key=lambda point: point[1] if task.metrics[metric] else -point[1])
    return {
        "how": how,
        "held_out": sum(held),
        "metric": metric,
        "before": mean[0][1],
        "after": score,
        "best_step": best,
        "curve": [list(point) for point in mean],
    }


def train(
    network: InContextModel,
    task: Task,
    cases: Sequence[Case],
    held: Sequence[Case],
    groups: Sequence[tuple[int, ...]],
    plan: Plan,
    stop: int | None = None,
) -> Outcome:
    """Trains a copy of a network on cases, and keeps its best state on the held-out ones.

    Args:
        network: The network; left as it is.
        task: The task.
        cases: Cases to train on; one alone is its own example, after stronger random changes.
        held: Held-out cases; none for no validation.
        groups: Classes that each pass of the network asks for.
        plan: How it is trained.
        stop: Ends training after so many steps, with the schedule of the plan.
    """
    pl.seed_everything(plan.seed, verbose=False)
    module = Generalist(
        copy.deepcopy(network),
        lambda parameters: _optimizer(parameters, plan.rate),
        weight_decay=0.0,
        minutes=plan.minutes,
        weights=plan.weights,
        adaptation=plan.adaptation,
    )
    augmentation = Augmentation() if len(cases) > 1 else Augmentation(place=1.0, look=1.0)
    length = plan.batch * (plan.steps or _ENDLESS)
    windows = Windows(tuple(network.image_size)) if len(network.image_size) == 3 else None
    training = CaseEpisodes(
        cases, groups, task, network.out_channels, length, plan.batch, plan.examples, augmentation, plan.seed, windows
    )
    most = _SLICES if windows is None else _VOLUMES
    data = CaseData(training, HeldOutEpisodes(training, held, most) if held else None, plan.workers)
    best = KeepBest(task)
    if stop == 0:
        return Outcome(changed(module.network), 0, [], module.base, module.network)
    with quiet():
        trainer = _trainer(plan, [best, *([StopAt(stop)] if stop else [])], bool(held))
        if held:
            trainer.validate(module, data, verbose=False)
        trainer.fit(module, datamodule=data)
    if best.state is not None:
        return Outcome(best.state, best.step, best.curve, module.base, module.network, best.metric)
    return Outcome(changed(module.network), trainer.global_step, [], module.base, module.network)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what Lightning says of loaders and devices, which is no business of who adapts a network."""
    lightning = logging.getLogger("pytorch_lightning")
    level = lightning.level
    lightning.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        lightning.setLevel(level)


def _optimizer(parameters: Iterable[Any], rate: float) -> Optimizer:
    return AdamW(parameters, lr=rate)


def _trainer(plan: Plan, callbacks: list[pl.Callback], validated: bool) -> pl.Trainer:
    every = max(1, plan.steps // plan.validations) if plan.steps else _EVERY
    if validated:
        callbacks.append(EarlyStopping("val/score", mode="max", patience=plan.patience, check_on_train_epoch_end=False))
    return pl.Trainer(
        accelerator="gpu" if plan.device.startswith("cuda") else "cpu",
        devices=1,
        max_epochs=1,
        precision="32-true" if plan.precision == "32" else "bf16-mixed",
        gradient_clip_val=1.0,
        callbacks=callbacks,
        val_check_interval=every if validated else None,
        limit_val_batches=None if validated else 0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class KeepBest(pl.Callback):
    """Keeps the score of every validation, and a copy of what was trained at the best one.

    Attributes:
        metric: Name of the score: the primary metric of the task, or its first one that the cases define, as files do
            not say where the hole of an inpainting is.
        curve: Steps and score of each validation.
        state: What was trained at the best one; None before the first.
        step: Steps until then.

    Args:
        task: Its metrics are the scores.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.metric = task, ""
        self.curve: Curve = []
        self.state: dict[str, Tensor] | None = None
        self.step = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks at the score.

        Raises:
            ValueError: If the task does not score such cases.
        """
        known = trainer.callback_metrics
        scores = {name: float(known.get(f"val/{NAME}/{name}", math.nan)) for name in self.task.metrics}
        names = [self.metric] if self.metric else [self.task.primary, *self.task.metrics]
        self.metric = next((name for name in names if not math.isnan(scores[name])), "")
        if not self.metric:
            raise ValueError(f"{names[0]} is not defined for the held-out cases; set `validation` to none")
        score = scores[self.metric]
        log.info("step %d: %s %.4f", trainer.global_step, self.metric, score)
        if self.state is None or self._rank((0, score)) > max(map(self._rank, self.curve)):
            self.state, self.step = changed(pl_module.network), trainer.global_step  # type: ignore[arg-type]
        self.curve.append((trainer.global_step, score))

    def _rank(self, point: tuple[int, float]) -> float:
        return point[1] if self.task.metrics[self.metric] else -point[1]


class StopAt(pl.Callback):
    """Ends training after some steps.

    Args:
        step: Their number.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Counts."""
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.step
