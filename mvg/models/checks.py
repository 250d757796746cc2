"""Checks of what a network is built from."""

from __future__ import annotations

from collections.abc import Sequence


def check_numbers(mask_ratio: float, drop_path: float, **counts: int) -> None:
    """Raises ValueError unless the shares are shares and each count is at least 1."""
    if not 0 < mask_ratio <= 1:
        raise ValueError(f"`mask_ratio` must be in (0, 1], got {mask_ratio}; for no masked episodes set `mim: 0`")
    if not 0 <= drop_path < 1:
        raise ValueError(f"`drop_path` must be in [0, 1), got {drop_path}")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, got {count}")


def check_statistics(in_channels: int, out_channels: int, **statistics: Sequence[float]) -> None:
    """Raises ValueError unless each statistic has one value, or one for each channel of images and of targets alike."""
    for name, values in statistics.items():
        if len(values) != 1 and not len(values) == in_channels == out_channels:
            raise ValueError(
                f"`{name}` needs one value, or one a channel of both images ({in_channels}) and targets "
                f"({out_channels}), got {len(values)}"
            )
