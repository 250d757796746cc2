"""Which of the weights that an installation ships answer where the user names none."""

from __future__ import annotations

from pathlib import Path

from mvg.hub import shipped
from mvg.prediction.rasters import images_in
from mvg.prediction.scans import is_scan


def weights_for(query: Path) -> Path:
    """Finds shipped weights for what is to be answered.

    Args:
        query: An image, a volume, or a folder of either.

    Returns:
        The folder of the weights: for pictures the 2D ones; for volumes the 3D ones, else the 2D ones, which answer
        volumes slice by slice.

    Raises:
        FileNotFoundError: If the installation ships none that suit.
    """
    found = images_in(query).values() if query.is_dir() else [query]
    if not all(map(is_scan, found)):
        return shipped("2d")
    try:
        return shipped("3d")
    except FileNotFoundError:
        return shipped("2d")
