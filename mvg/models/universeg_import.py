"""State dictionaries of the public UniverSeg code as configurations and weights of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mvg.models.foreign import check_names, count_blocks, find

PARTS = {"cross.cross_conv": "cross", "target.vmapped.conv": "query", "support.vmapped.conv": "example"}


def convert(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Converts weights of UniverSeg.

    The support convolution of the last block is left out: nothing reads its result.

    Args:
        state: The state dictionary of the public code.

    Returns:
        Configuration of a UniverSeg and the state dictionary that fits it.

    Raises:
        ValueError: If a key is missing or unknown, or a shape is not the public network's.
    """
    depth = count_blocks(state, "enc_blocks")
    width, joined = find(state, "enc_blocks.0.cross.cross_conv.weight", 4).shape[:2]
    outputs = find(state, "out_conv.conv.weight", 4).shape[0]
    inputs = (joined - outputs) // 2
    names = [f"enc_blocks.{i}" for i in range(depth)] + [f"dec_blocks.{i}" for i in range(max(0, depth - 1))]
    given = [joined] + [2 * width] * (depth - 1) + [4 * width] * (depth - 1)
    expected: dict[str, tuple[int, ...]] = {
        "out_conv.conv.weight": (outputs, width, 1, 1),
        "out_conv.conv.bias": (outputs,),
    }
    for block, channels in zip(names, given, strict=True):
        for part in PARTS:
            expected[f"{block}.{part}.weight"] = (width, channels if part == "cross.cross_conv" else width, 3, 3)
            expected[f"{block}.{part}.bias"] = (width,)
    check_names(state, expected)
    made = {f"head.{kind}": state[f"out_conv.conv.{kind}"] for kind in ("weight", "bias")}
    for number, block in enumerate(names):
        for theirs, ours in PARTS.items():
            if not (number == len(names) - 1 and ours == "example"):
                made |= {f"blocks.{number}.{ours}.{k}": state[f"{block}.{theirs}.{k}"] for k in ("weight", "bias")}
    side = max(128, 2 ** (depth - 1))
    objective = {"class_path": "mvg.objective.Objective", "init_args": {"label_regression": 0.0, "dice": 1.0}}
    arguments = {
        "image_size": [side, side],
        "in_channels": inputs,
        "out_channels": outputs,
        "width": width,
        "depth": depth,
        "objective": objective,
    }
    return {"class_path": "mvg.models.UniverSeg", "init_args": arguments}, made
