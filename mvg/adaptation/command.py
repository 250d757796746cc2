"""The command `mvg adapt`: a few labelled cases in, an adapter of a trained network out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mvg.adaptation.cases import read_cases
from mvg.adaptation.methods import ADAPTER, FACTS, Adaptation, Method, save_adapter
from mvg.adaptation.training import RATES, STEPS, Outcome, Plan, Validation, adapt_to_cases
from mvg.configuration import to_config
from mvg.data.readers import SIZE_LIMIT
from mvg.files import check_folder
from mvg.options import make_parser, parse
from mvg.prediction.context import find_pairs
from mvg.prediction.default_weights import weights_for
from mvg.prediction.precision import Precision
from mvg.prediction.predict import Axis, as_window
from mvg.prediction.predictor import Predictor
from mvg.prediction.scale_predictor import ScalePredictor, takes_volumes
from mvg.prediction.trained import stored_cut
from mvg.prediction.volume_context import Way
from mvg.prediction.volume_predictor import rules_for
from mvg.task import Task
from mvg.weights import describe

log = logging.getLogger(__name__)


def adapt(args: Sequence[str]) -> None:
    """Adapts a trained network to a new data set with a few labelled cases."""
    parser = make_parser(adapt, adapt_files, {"overwrite": "Replace an adapter that exists."})
    adapt_files(**parse(parser, args))


def adapt_files(
    context: Path,
    output: Path,
    weights: Path | None = None,
    task: str | None = None,
    targets: Path | None = None,
    method: Method = "lora",
    rank: int = 8,
    tokens: int = 16,
    layers: str | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    validation: Validation = "auto",
    patience: int = 5,
    learning_rate: float | None = None,
    batch: int | None = None,
    examples: int = 4,
    window: list[float] | None = None,
    slices: Axis | None = None,
    aspect: str | None = None,
    device: str = "cpu",
    precision: Precision = "bf16",
    seed: int = 0,
    workers: int = 0,
    size_limit: int = SIZE_LIMIT,
    overwrite: bool = False,
) -> None:
    """Adapts a trained network to a new data set with a few labelled cases.

    Query and examples of each training step are different cases, changed at random. One case alone is its own example,
    after stronger changes.

    Args:
        context: Folder with `images/` and `targets/` (or `labels/`), as for `mvg predict`: files of one name are a
            case, pictures or volumes.
        output: Folder of the adapter, for `mvg predict --adapter`.
        weights: Folder of a trained network, `<run>/weights`, or hub:OWNER/NAME on the Hugging Face hub; it is left as
            it is. By default those that the installation ships for such cases.
        task: Name of one of the tasks of the weights, or a class path such as tasks.Segmentation; may be left out
            where the weights know one task.
        targets: Folder of the targets, where `context` is the folder of the images alone.
        method: "lora" (a low-rank change of the layers), "prompt" (learned tokens that the features attend to), "head"
            (what paints, alone) or "full" (everything; the adapter is as large as the weights).
        rank: Rank of lora.
        tokens: Learned tokens of prompt at each place.
        layers: Regular expression that finds the names of the layers of lora, such as `attn|mlp`; all by default.
        steps: Steps of each training; 200 if neither steps nor minutes are given.
        minutes: Minutes of all trainings together, instead of steps; reading and validation are not counted.
        validation: "held-out" trains on four fifths of the cases and keeps what is best on the others; "leave-one-out"
            trains once without each case, then on all up to the step that was best on average; "none" trains to the
            end; "auto" is none for one case, leave-one-out up to four, else held-out.
        patience: Validations (a tenth of the steps, or 20 steps, apart) without a better one before training stops.
        learning_rate: Highest learning rate; by default that of the method.
        batch: Episodes a step; 8, or 2 for networks for volumes, where none is given.
        examples: Largest number of examples of an episode.
        window: As for `mvg predict`, which takes it from the adapter.
        slices: How volumes are cut, as for `mvg predict`, which takes it from the adapter; by default as in training.
        aspect: How images are brought to the network's size, as for `mvg predict`.
        device: Where the network is trained, cpu or cuda.
        precision: Of the training: 32 bits, or "bf16", bfloat16 where PyTorch deems it safe.
        seed: Seeds everything.
        workers: Processes that prepare batches.
        size_limit: Largest number of pixels of an image.
        overwrite: Replace an adapter that exists.

    Raises:
        ValueError: If anything is missing, damaged or does not fit together, or the output exists.
    """
    check_output(output, overwrite)
    images = context if targets is not None else context / "images"
    weights = weights_for(images) if weights is None else weights
    adaptation = Adaptation(method, rank, tokens, layers)
    steps = STEPS if steps is None and minutes is None else steps
    rate = RATES[method] if learning_rate is None else learning_rate
    volumes = takes_volumes(weights)
    batch = (2 if volumes else 8) if batch is None else batch
    plan = Plan(
        adaptation, str(weights), steps, minutes, rate, batch, examples, patience, device, precision, seed, workers
    )
    shape: dict[str, Any] = {} if aspect is None else {"aspect": aspect}
    predictor: Predictor | ScalePredictor
    if volumes:
        predictor = ScalePredictor.from_pretrained(weights, task, device=device, seed=seed)
        predictor.rule, predictor.target_rule = rules_for(weights, predictor.task, as_window(window))
    else:
        predictor = Predictor.from_pretrained(
            weights,
            task,
            scales="whole",
            device=device,
            window=as_window(window),
            seed=seed,
            size_limit=size_limit,
            **shape,
        )
    way = partial(way_of, weights, predictor.task, window, slices)
    cases, groups = read_cases(predictor, find_pairs(context, targets), way)
    network = predictor.network.cpu()
    start = time.perf_counter()
    outcome, facts = adapt_to_cases(network, predictor.task, cases, groups, plan, validation)
    facts = {
        "task": to_config(predictor.task),
        "aspect": None if isinstance(predictor, ScalePredictor) else predictor.aspect,
        "window": window,
        "slices": slices,
        "cases": len(cases),
        "steps": outcome.step,
        "seconds": round(time.perf_counter() - start, 1),
        "learning_rate": rate,
        "seed": seed,
        "validation": facts,
    }
    save_adapter(output, outcome.network, adaptation, outcome.base, outcome.state, facts)
    log.info("%s", tell(output, outcome, facts))


def way_of(weights: Path, task: Task, window: Sequence[float] | None, slices: Axis | None) -> Way:
    """Says how volumes become slices: as asked, and else as in the training of the weights."""
    axis, trim = stored_cut(describe(weights).get("sources", {}))
    return Way(slices or axis, *rules_for(weights, task, window), trim)


def check_output(output: Path, overwrite: bool) -> None:
    """Checks that an adapter can be written, and that nothing else is replaced.

    Raises:
        ValueError: If the folder exists and may not be replaced, or could not be written.
    """
    check_folder(output.parent)
    if output.exists() and not overwrite:
        raise ValueError(f"{output}: it exists; name another output, or replace it with --overwrite")
    if output.exists() and not (output / FACTS).is_file():
        raise ValueError(f"{output}: it exists and is no adapter, so it is not replaced; name another output")


def tell(output: Path, outcome: Outcome, facts: dict[str, Any]) -> str:
    """Says in a sentence what came of it."""
    validation, size = facts["validation"], (output / ADAPTER).stat().st_size / 1e6
    text = f"{outcome.step} steps on {facts['cases']} cases; adapter of {size:.1f} MB in {output}"
    if validation["how"] == "none":
        return f"{text}; not validated"
    before, after, metric = validation["before"], validation["after"], validation["metric"]
    if not validation["best_step"]:
        text = f"{text}; no step was better than the weights themselves, so that the adapter changes nothing"
    return f"{metric} on {validation['held_out']} held-out cases {before:.3f} before, {after:.3f} after; {text}"
