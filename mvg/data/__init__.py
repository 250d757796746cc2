"""Data: sources, readers, geometry, augmentation, and the episodes drawn from them."""

from mvg.data.augmentation import Augmentation, SubjectAugmentation
from mvg.data.episodes import EpisodeDataset
from mvg.data.folders import FolderSource
from mvg.data.geometry import fit, from_slices, place, place_crop, restore, to_slices
from mvg.data.intensity import FullScale, Percentiles, Window
from mvg.data.loader import EpisodeLoader
from mvg.data.manifest_source import ManifestSource
from mvg.data.module import EpisodeDataModule
from mvg.data.source import Index, Source
from mvg.data.subject import Item, Subject
from mvg.data.synthetic import SyntheticAnatomy
from mvg.data.task_augmentation import TaskAugmentation
from mvg.data.torchio_augmentation import TorchIOAugmentation

__all__ = [
    "Augmentation",
    "EpisodeDataModule",
    "EpisodeDataset",
    "EpisodeLoader",
    "FolderSource",
    "FullScale",
    "Index",
    "Item",
    "ManifestSource",
    "Percentiles",
    "Source",
    "Subject",
    "SubjectAugmentation",
    "SyntheticAnatomy",
    "TaskAugmentation",
    "TorchIOAugmentation",
    "Window",
    "fit",
    "from_slices",
    "place",
    "place_crop",
    "restore",
    "to_slices",
]
