"""Data: sources, readers, geometry, augmentation, and the episodes drawn from them; imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvg.lazy import lazy

if TYPE_CHECKING:
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
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "Augmentation": "mvg.data.augmentation",
            "EpisodeDataModule": "mvg.data.module",
            "EpisodeDataset": "mvg.data.episodes",
            "EpisodeLoader": "mvg.data.loader",
            "FolderSource": "mvg.data.folders",
            "FullScale": "mvg.data.intensity",
            "Index": "mvg.data.source",
            "Item": "mvg.data.subject",
            "ManifestSource": "mvg.data.manifest_source",
            "Percentiles": "mvg.data.intensity",
            "Source": "mvg.data.source",
            "Subject": "mvg.data.subject",
            "SubjectAugmentation": "mvg.data.augmentation",
            "SyntheticAnatomy": "mvg.data.synthetic",
            "TaskAugmentation": "mvg.data.task_augmentation",
            "TorchIOAugmentation": "mvg.data.torchio_augmentation",
            "Window": "mvg.data.intensity",
            "fit": "mvg.data.geometry",
            "from_slices": "mvg.data.geometry",
            "place": "mvg.data.geometry",
            "place_crop": "mvg.data.geometry",
            "restore": "mvg.data.geometry",
            "to_slices": "mvg.data.geometry",
        },
    )

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
