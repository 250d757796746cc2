"""The command `mvg export`: a 2D network as one file that needs none of this code."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import mvg
from mvg.files import check_folder
from mvg.hub import locate
from mvg.models.base import InContextModel
from mvg.options import make_parser, parse
from mvg.weights import describe, load

log = logging.getLogger(__name__)

INPUTS = ("image", "context_images", "context_targets")
ENDINGS = {".onnx": "onnx", ".pt2": "torch"}
TOLERANCE = 1e-3
"""Largest difference from the network, in painted values, at which a file is written."""


def export(args: Sequence[str]) -> None:
    """Writes a 2D network as an ONNX or PyTorch program."""
    parser = make_parser(export, export_file, {"overwrite": "Replace the file if it exists."})
    export_file(**parse(parser, args))


def export_file(
    weights: Path,
    output: Path,
    context_size: int = 1,
    batch: int = 1,
    format: Literal["onnx", "torch"] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a network with fixed numbers of examples and queries, compares it with the original, and describes it.

    The program maps `image` (B, C_in, H, W), `context_images` (B, L, C_in, H, W) and `context_targets`
    (B, L, C_out, H, W), values in [0, 1], to `painted` (B, C_out, H, W). FILE.json says the same with numbers, and the
    terms of the weights.

    Args:
        weights: Folder of a trained network, `<run>/weights`, or hub:OWNER/NAME.
        output: The file, .onnx or .pt2.
        context_size: Number of examples, L.
        batch: Number of queries that are answered together, B.
        format: "onnx" or "torch" (a program of torch.export); by default that of the ending.
        overwrite: Replace the file if it exists.

    Raises:
        FileNotFoundError: If the weights are missing.
        ImportError: If a package is missing that ONNX needs.
        ValueError: If an option is out of range, the file exists, the network is not 2D, or the program differs.
    """
    format = format or ENDINGS.get(output.suffix)  # type: ignore[assignment]
    if format is None:
        raise ValueError(f"{output} ends neither in .onnx nor in .pt2; name the format with --format")
    for name, value in (("context_size", context_size), ("batch", batch)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    if output.exists() and not overwrite:
        raise ValueError(f"{output} exists; name another file, or add --overwrite to replace it")
    check_folder(output.parent)
    folder = locate(weights)
    network = load(folder)
    if len(network.image_size) != 2:
        raise ValueError(f"the network was built for volumes of {network.image_size}; 2D networks alone are exported")
    inputs = example(network, context_size, batch)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as work:
        made = Path(work, output.name)
        difference = (write_onnx if format == "onnx" else write_torch)(network, inputs, made)
        if not difference <= TOLERANCE:
            raise ValueError(f"the program paints up to {difference:.1e} off the network; nothing was written")
        about = facts(network, describe(folder), inputs, format, difference)
        Path(work, "about").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        os.replace(made, output)
        os.replace(Path(work, "about"), f"{output}.json")
    log.info("Written to %s; the largest difference from the network is %.1e", output, difference)


def example(network: InContextModel, context_size: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draws inputs of the shapes that are exported."""
    rng, size = torch.Generator().manual_seed(0), network.image_size
    inputs, outputs = network.in_channels, network.out_channels
    shapes = (batch, inputs, *size), (batch, context_size, inputs, *size), (batch, context_size, outputs, *size)
    image, context_images, context_targets = (torch.rand(shape, generator=rng) for shape in shapes)
    return image, context_images, context_targets


@torch.no_grad()
def write_torch(network: nn.Module, inputs: tuple[Tensor, ...], output: Path) -> float:
    """Writes a program of torch.export and returns its largest difference from the network."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor", UserWarning)  # of weights that are views, kept whole
        torch.export.save(torch.export.export(network, inputs), output)
    painted = torch.export.load(output).module()(*inputs)
    return float((painted - network(*inputs)).abs().max())


@torch.no_grad()
def write_onnx(network: nn.Module, inputs: tuple[Tensor, ...], output: Path) -> float:
    """Writes an ONNX program and returns its largest difference from the network, by ONNX Runtime."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx imports it later, with a longer error
    except ImportError as error:
        raise ImportError(f"ONNX needs {error.name}; pip install 'mvg-generalist[export]'") from error
    program = torch.export.export(network, inputs)
    made = torch.onnx.export(program, input_names=list(INPUTS), output_names=["painted"], dynamo=True, verbose=False)
    if made is None:
        raise ValueError("PyTorch made no ONNX program of this network")
    made.save(output, external_data=False)
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    given = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
    (painted,) = session.run(None, given)
    return float((torch.from_numpy(painted) - network(*inputs)).abs().max())


def facts(
    network: InContextModel, config: dict[str, Any], inputs: Sequence[Tensor], format: str, difference: float
) -> dict[str, Any]:
    """Collects what a user of the program needs to know."""
    return {
        "format": format,
        "version": mvg.__version__,
        "inputs": {name: list(tensor.shape) for name, tensor in zip(INPUTS, inputs, strict=True)},
        "outputs": {"painted": [len(inputs[0]), network.out_channels, *network.image_size]},
        "values": "float32 in [0, 1]; painted values are not clamped",
        "largest_difference": difference,
        **{name: config[name] for name in ("tasks", "sources", "origin") if name in config},
    }
