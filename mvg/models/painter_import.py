"""State dictionaries of the public MVG, Painter and SegGPT code as configurations and weights of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mvg.models.foreign import axis, check_names, count_blocks, find

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
BLOCK = tuple(
    f"{module}.{part}"
    for module in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    for part in ("weight", "bias")
)
TYPES = ("type_token_cls", "type_token_ins")
HEAD = {"norm": "norm", "decoder_embed": "expand", "decoder_pred.0": "refine.0"}
HEAD |= {"decoder_pred.1": "refine.1", "decoder_pred.3": "refine.3"}


def convert_mvg(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Converts weights of MVG's public code.

    Args:
        state: Its state dictionary.

    Returns:
        Configuration of a CanvasViT and the state dictionary that fits it.

    Raises:
        ValueError: If a key is missing or unknown, or a shape is not the public network's.
    """
    sizes = _measure(state)
    check_names(state, _expected(sizes))
    weight = {"background": 0.1, "std": IMAGENET["std"], "beta": 0.01}
    return _canvas_vit(sizes, 0.163, weight), _translate(state, sizes["depth"])


def convert_painter(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Converts weights of Painter, whose network is that of MVG's public code; see `convert_mvg`."""
    sizes = _measure(state)
    check_names(state, _expected(sizes))
    return _canvas_vit(sizes, 0.5, {"std": IMAGENET["std"], "beta": 0.01}), _translate(state, sizes["depth"])


def convert_seggpt(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Converts weights of SegGPT to those of `SegGPT`; see `convert_mvg`."""
    sizes = _measure(state)
    check_names(state, _expected(sizes) | dict.fromkeys(TYPES, (1, 1, 1, sizes["width"])))
    names = ("image_size", "in_channels", "width", "depth", "heads", "mlp_ratio", "patch", "channels", "absolute")
    arguments = {name: sizes[name] for name in names}
    objective = {"class_path": "mvg.objective.Objective", "init_args": {"beta": 0.01, "std": IMAGENET["std"]}}
    network = {
        "class_path": "mvg.models.SegGPT",
        "init_args": {**arguments, "out_channels": sizes["in_channels"], "objective": objective, **IMAGENET},
    }
    types = torch.cat([state[name].flatten()[None] for name in TYPES])
    return network, _translate(state, sizes["depth"]) | {"types": types}


def _measure(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Reads the sizes of a network from the shapes of its weights."""
    kernel = find(state, "patch_embed.proj.weight", 4)
    width, channels, patch = kernel.shape[0], kernel.shape[1], kernel.shape[2]
    rows, columns = (axis(find(state, f"blocks.0.attn.rel_pos_{name}", 2)) for name in "hw")
    head = find(state, "blocks.0.attn.rel_pos_h", 2).shape[1]
    hidden = find(state, "blocks.0.mlp.fc1.weight", 2).shape[0]
    if rows % 2 or not head or width % head:
        raise ValueError(
            f"these weights hold no canvas of two tiles: {rows} rows of tokens, width {width} in heads of {head}; "
            "name the format that they are in"
        )
    return {
        "image_size": [rows // 2 * patch, columns * patch],
        "canvas": (rows, columns),
        "in_channels": channels,
        "width": width,
        "depth": count_blocks(state),
        "heads": width // head,
        "mlp_ratio": hidden / width,
        "patch": patch,
        "channels": find(state, "decoder_pred.0.weight", 4).shape[0],
        "absolute": math.isqrt(max(0, find(state, "pos_embed", 3).shape[1] - 1)),
    }


def _expected(sizes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Lists names and shapes of the public network of some sizes."""
    width, patch, inner, channels = (sizes[name] for name in ("width", "patch", "channels", "in_channels"))
    hidden, head = round(width * sizes["mlp_ratio"]), width // sizes["heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, channels, patch, patch),
        "patch_embed.proj.bias": (width,),
        "pos_embed": (1, 1 + sizes["absolute"] ** 2, width),
        **dict.fromkeys(("mask_token", "segment_token_x", "segment_token_y"), (1, 1, 1, width)),
        **dict.fromkeys(("norm.weight", "norm.bias"), (width,)),
        "decoder_embed.weight": (inner * patch**2, 4 * width),
        "decoder_embed.bias": (inner * patch**2,),
        "decoder_pred.0.weight": (inner, inner, 3, 3),
        **dict.fromkeys(("decoder_pred.0.bias", "decoder_pred.1.weight", "decoder_pred.1.bias"), (inner,)),
        "decoder_pred.3.weight": (channels, inner, 1, 1),
        "decoder_pred.3.bias": (channels,),
    }
    for number in range(sizes["depth"]):
        block = block_shapes(width, hidden)
        for name, side in zip("hw", sizes["canvas"], strict=True):
            block[f"attn.rel_pos_{name}"] = (2 * side - 1, head)
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    return shapes


def block_shapes(width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Lists names and shapes of a plain transformer block."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(BLOCK, (width,))
    shapes |= {"attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,), "attn.proj.weight": (width, width)}
    return shapes | {
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
    }


def _canvas_vit(sizes: Mapping[str, Any], mask_ratio: float, objective: Mapping[str, Any]) -> dict[str, Any]:
    names = ("image_size", "in_channels", "width", "depth", "heads", "mlp_ratio", "absolute")
    stem = {"class_path": "mvg.models.PatchStem", "init_args": {"patch": sizes["patch"], "shared": True}}
    head = {"channels": sizes["channels"], "number": 4, "joined": True}
    return {
        "class_path": "mvg.models.CanvasViT",
        "init_args": {
            **{name: sizes[name] for name in names},
            "out_channels": sizes["in_channels"],
            "stem": stem,
            "decoder": {"class_path": "mvg.models.TwoConvHead", "init_args": head},
            "attention": "full",
            "position": "relative",
            "roles": False,
            "merge": 3,
            "drop_path": 0.1,
            "mask_ratio": mask_ratio,
            "min_block": 16,
            "objective": {"class_path": "mvg.objective.Objective", "init_args": dict(objective)},
            **IMAGENET,
        },
    }


def _translate(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Gives weights the names that they have in CanvasViT; those of relative positions are numbered by axis."""
    made = {f"blocks.{i}.{name}": state[f"blocks.{i}.{name}"] for i in range(depth) for name in BLOCK}
    for number in range(depth):
        for position, name in enumerate("hw"):
            made[f"blocks.{number}.attn.tables.{position}"] = state[f"blocks.{number}.attn.rel_pos_{name}"]
    for part in ("weight", "bias"):
        for image in ("stem.embed_image", "stem.embed_label"):
            made[f"{image}.{part}"] = state[f"patch_embed.proj.{part}"]
        made |= {f"decoder.{ours}.{part}": state[f"{theirs}.{part}"] for theirs, ours in HEAD.items()}
    made["stem.mask_token"] = state["mask_token"].flatten()
    made["segments"] = torch.cat([state[f"segment_token_{name}"].flatten()[None] for name in "xy"])
    made["absolute"] = state["pos_embed"]
    return made
