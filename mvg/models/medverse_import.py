"""Importers of the released weights of Neuroverse3D and Medverse.

What is known. The names and shapes of Neuroverse3D are those of its public code (MIT), against which its outputs are
checked. Those of Medverse, and the order of channels where maps are joined, were read in a public copy of its inference
code, and its outputs are checked against a plain re-implementation of what was read: neither its code nor its weights
were run. Inferred is the size of training volumes, 128 along each axis, which no tensor tells (any size that fits the
stride is answered), and that the released weights need `grouping: lattice`, as that code groups voxels so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mvg.models.foreign import check_names, find
from mvg.models.medverse import Medverse

SIZE = 128
"""Side of the volumes that both networks were trained on."""
PREFIXES = ("", "net.", "model.net.", "module.net.")
"""What checkpoints put before the names of the network; Lightning checkpoints of both have "net."."""
FIRST = "target_encoder.target_embedding.weight"
"""A name that both have."""

Converted = tuple[dict[str, Any], dict[str, Tensor]]
"""A network's configuration (`class_path`, `init_args`) and its state."""


def convert(state: Mapping[str, Tensor]) -> Converted:
    """Converts the state of either network; see `from_medverse` and `from_neuroverse3d`.

    Raises:
        ValueError: If names or shapes are those of neither.
    """
    return (from_medverse if "target_code" in _without_prefix(state) else from_neuroverse3d)(state)


def from_neuroverse3d(state: Mapping[str, Tensor]) -> Converted:
    """Converts the state of a Neuroverse3D, of any widths.

    Args:
        state: Tensors by name, the `state_dict` of its Lightning checkpoint.

    Returns:
        Configuration and state of a `Medverse` with `fusion: concat`, which paints the same.

    Raises:
        ValueError: If names or shapes are not those of a Neuroverse3D.
    """
    return _convert(state, {})


def from_medverse(state: Mapping[str, Tensor]) -> Converted:
    """Converts the state of a Medverse, of any widths and number of blocks.

    Args:
        state: Tensors by name, the `state_dict` of its Lightning checkpoint.

    Returns:
        Configuration and state of a `Medverse` with `fusion: blockwise` and `grouping: lattice`.

    Raises:
        ValueError: If names or shapes are not those of a Medverse.
    """
    renamed = {
        "sincos_pos_embed": "position",
        "target_code": "target_code",
        "image_context_code": "coarse_code",
        "image_context_embedding": "coarse_mark",
    }
    return _convert(state, renamed)


def _convert(state: Mapping[str, Tensor], renamed: Mapping[str, str]) -> Converted:
    """Checks every name and shape, then renames tensors and takes those of joined convolutions apart."""
    given = _without_prefix(state)
    arguments = _arguments(given, bool(renamed))
    with torch.device("meta"):
        wanted = Medverse(**arguments).state_dict()
    modules = dict(_modules(len(arguments["widths"]), bool(renamed)))
    check_names(given, _shapes(wanted, modules, renamed))
    made = {own: given[theirs].reshape(wanted[own].shape) for theirs, own in renamed.items()}
    for theirs, ours in modules.items():
        weights = [wanted[f"{module}.weight"] for module in ours]
        parts = given[f"{theirs}.weight"].split([weight.shape[1] for weight in weights], 1)
        for module, weight, part in zip(ours, weights, parts, strict=True):
            made[f"{module}.weight"] = part.reshape(weight.shape)
            if f"{module}.bias" in wanted:
                made[f"{module}.bias"] = given[f"{theirs}.bias"]
    return {"class_path": "mvg.models.Medverse", "init_args": arguments}, made


def _shapes(
    wanted: Mapping[str, Tensor], modules: Mapping[str, Sequence[str]], renamed: Mapping[str, str]
) -> dict[str, tuple[int, ...]]:
    """Lists the names that their code gives to the tensors of our network, with their shapes there."""
    shapes = {theirs: tuple(wanted[own].shape) for theirs, own in renamed.items()}
    if renamed:
        shapes["sincos_pos_embed"] = (1, *shapes["sincos_pos_embed"])
    for theirs, ours in modules.items():
        weights = [wanted[f"{module}.weight"] for module in ours]
        kernel = tuple(weights[0].shape[2:]) or (() if theirs.endswith("_proj") else (1, 1, 1))
        shapes[f"{theirs}.weight"] = (len(weights[0]), sum(weight.shape[1] for weight in weights), *kernel)
        shapes[f"{theirs}.bias"] = (len(weights[0]),)
    return shapes


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strips what a checkpoint puts before the names."""
    prefix = next((prefix for prefix in PREFIXES if prefix + FIRST in state), "")
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _arguments(given: Mapping[str, Tensor], blockwise: bool) -> dict[str, Any]:
    """Reads the arguments of the network off the shapes."""
    embedding = find(given, FIRST, 5)
    widths = [embedding.shape[0]]
    while (down := f"target_encoder.downsample_blocks.{len(widths) - 1}.target_linear_layer.weight") in given:
        widths.append(find(given, down, 5).shape[0])
    arguments = {
        "image_size": [SIZE] * 3,
        "in_channels": embedding.shape[1],
        "out_channels": find(given, "target_decoder.output_block.block.1.weight", 5).shape[0],
        "widths": widths,
        "fusion": "blockwise" if blockwise else "concat",
    }
    if blockwise:
        tokens, code = find(given, "sincos_pos_embed", 3).shape[1:]
        arguments |= {"grouping": "lattice", "blocks": round(tokens ** (1 / 3)), "code": code}
    return arguments


def _modules(stages: int, blockwise: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields the names of their modules, each with those of ours that hold its channels in order."""
    yield "target_encoder.target_embedding", ("target_encoder.embed",)
    yield "context_unet.context_embedding.module", ("context_unet.embed",)
    yield "target_decoder.output_block.block.1", ("target_decoder.paint",)
    yield from _unit("target_decoder.output_block.block.0", "target_decoder.last")
    for stage in range(stages - 1):
        down, up, block = f"downsample_blocks.{stage}", f"upsample_blocks.{stage}", f"enc_blocks.{stage}"
        yield f"target_encoder.{down}.target_linear_layer", (f"target_encoder.downs.{stage}",)
        yield f"context_unet.{down}.context_linear_layer.module", (f"context_unet.downs.{stage}",)
        for theirs, part in (("context_conv_layer.module", "context_unet"), ("target_conv_layer", "target_decoder")):
            yield f"{part}.{up}.{theirs}", (f"{part}.ups.{stage}.deep", f"{part}.ups.{stage}.skip")
        yield from _unit(f"target_encoder.{block}.target_conv", f"target_encoder.units.{stage}")
        yield from _unit(f"context_unet.dec_blocks.{stage}.context_conv.module", f"context_unet.up_units.{stage}")
        joined = "final_conv.module" if blockwise else "combine_conv_context.module"
        yield from _fusion(
            f"context_unet.{block}", joined, f"context_unet.fusions.{stage}", ("own", "other"), blockwise
        )
    for stage in range(stages):
        yield from _unit(f"context_unet.enc_blocks.{stage}.context_conv.module", f"context_unet.units.{stage}")
        block = f"target_decoder.dec_blocks.{stage - 1}" if stage else "target_decoder.enc_blocks.0"
        yield from _unit(f"{block}.target_conv", f"target_decoder.units.{stage}")
        joined = "final_conv" if blockwise else "combine_conv_target.module"
        yield from _fusion(block, joined, f"target_decoder.fusions.{stage}", ("other", "own"), blockwise)


def _unit(theirs: str, ours: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields the two convolutions of a residual unit."""
    yield f"{theirs}.layers.0", (f"{ours}.first",)
    yield f"{theirs}.layers.2", (f"{ours}.second",)


def _fusion(
    theirs: str, joined: str, ours: str, order: tuple[str, str], blockwise: bool
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields the convolution over both streams, in the order in which their code joins them, and the projections."""
    yield f"{theirs}.{joined}", (f"{ours}.{order[0]}", f"{ours}.{order[1]}")
    if blockwise:
        yield f"{theirs}.cross_attention.q_proj", (f"{ours}.query",)
        yield f"{theirs}.cross_attention.k_proj", (f"{ours}.key",)
