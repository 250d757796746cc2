"""Recipes for public data sets: from the downloaded folder to a manifest, and to a configuration for `mvg fit`."""

from mvg.data.datasets import abdomen, brain, chest, decathlon, heart, pelvis
from mvg.data.datasets.card import PublicSet, Terms, Tree, Unread
from mvg.data.datasets.unread import UNREAD

DATASETS: dict[str, PublicSet] = {
    public.name: public for room in (abdomen, pelvis, heart, brain, chest, decathlon) for public in room.SETS
}
"""Name to recipe."""

__all__ = ["DATASETS", "UNREAD", "PublicSet", "Terms", "Tree", "Unread"]
