"""Data: sources, readers, geometry, augmentation, and the episodes drawn from them; imported when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvg.lazy import lazy

if TYPE_CHECKING:
    from mvg.data.augmentation import Augmentation as Augmentation
    from mvg.data.augmentation import SubjectAugmentation as SubjectAugmentation
    from mvg.data.episodes import EpisodeDataset as EpisodeDataset
    from mvg.data.folders import FolderSource as FolderSource
    from mvg.data.geometry import fit as fit
    from mvg.data.geometry import from_slices as from_slices
    from mvg.data.geometry import place as place
    from mvg.data.geometry import place_crop as place_crop
    from mvg.data.geometry import restore as restore
    from mvg.data.geometry import to_slices as to_slices
    from mvg.data.intensity import FullScale as FullScale
    from mvg.data.intensity import Percentiles as Percentiles
    from mvg.data.intensity import Window as Window
    from mvg.data.loader import EpisodeLoader as EpisodeLoader
    from mvg.data.manifest_source import ManifestSource as ManifestSource
    from mvg.data.module import EpisodeDataModule as EpisodeDataModule
    from mvg.data.source import Index as Index
    from mvg.data.source import Source as Source
    from mvg.data.subject import Item as Item
    from mvg.data.subject import Subject as Subject
    from mvg.data.synthetic import SyntheticAnatomy as SyntheticAnatomy
    from mvg.data.task_augmentation import TaskAugmentation as TaskAugmentation
    from mvg.data.torchio_augmentation import TorchIOAugmentation as TorchIOAugmentation
else:
    __all__, __getattr__, __dir__ = lazy(__name__)
