"""The folder of a run: which one it is, its `metrics.csv`, and checkpoints that are complete or absent.

Everything that a `fit` writes lies in one folder, `runs/NAME` by default::

    config.yaml    what was asked, complete; `mvg fit --config` takes it again
    metrics.csv    one row for each logged step; TensorBoard's events are under `tensorboard/`
    checkpoints/   `last.ckpt` to continue from, and the best one
    weights/       the trained network, for `--weights`
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

HERE = "<checkpoints>"
"""Stands in a checkpoint for the folder that the checkpoint lies in."""


def is_taken(folder: Path) -> bool:
    """Says whether a folder holds a run."""
    return (folder / "config.yaml").exists()


def numbered(folder: Path) -> tuple[Path | None, Path]:
    """Finds the newest run among `NAME`, `NAME-2`, `NAME-3`, ... and the first free folder after it.

    Args:
        folder: The first of them.

    Returns:
        The newest run, None if there is none yet, and the free folder.
    """
    newest, free, number = None, folder, 1
    while is_taken(free):
        number += 1
        newest, free = free, folder.with_name(f"{folder.name}-{number}")
    return newest, free


def last_checkpoint(folder: Path) -> Path | None:
    """Returns `checkpoints/last.ckpt` of a run, None if there is none."""
    path = folder / "checkpoints" / "last.ckpt"
    return path if path.exists() else None


def run_of(checkpoint: Path) -> Path | None:
    """Returns the folder of the run that a checkpoint belongs to, None if it lies elsewhere."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else None


class AppendingWriter(ExperimentWriter):
    """Writes `metrics.csv` after the rows that are already there."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.exists():
            with path.open(newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])


class MetricsLogger(CSVLogger):
    """Logs to `metrics.csv` in the folder itself; a run that continues adds its rows.

    Args:
        folder: The folder of the run.
        flush_logs_every_n_steps: How often the file is written, in steps.
    """

    def __init__(self, folder: str, flush_logs_every_n_steps: int = 50) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps)

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer, made when it is first asked for."""
        if self._experiment is None:
            self._experiment = AppendingWriter(log_dir=self.log_dir)
        return cast(ExperimentWriter, self._experiment)


class CompleteCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are complete or absent, name no folder of this machine, and run no code when read.

    A file is written under a temporary name, read back in length, and moved over the previous one, which stays usable
    until then. Whatever goes wrong is an error: permission denied as well as a full disk. Paths below the folder of
    the checkpoint are stored relative to it, so that a run can be moved and continued.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: What Lightning collected.
            path: Where it goes, on a local disk.
            storage_options: Not supported, must be None.

        Raises:
            OSError: If the file cannot be written completely; the previous one is then untouched.
            ValueError: If `storage_options` are given or the path is not local.
        """
        if storage_options is not None or "://" in str(path):
            raise ValueError(f"a checkpoint must go to a local file without storage options, got {str(path)!r}")
        path = Path(path).absolute()
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(replace_text(checkpoint, lambda text: text.replace(str(path.parent), HERE)), file)
                file.flush()
                os.fsync(file.fileno())
                length = file.tell()
            if temporary.stat().st_size != length:
                raise OSError(f"wrote {temporary.stat().st_size} of {length} bytes")
            temporary.replace(path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise OSError(f"checkpoint {path} could not be written ({error}); a previous one is untouched") from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Reads a checkpoint of `save_checkpoint`; without code unless `weights_only` is False.

        Raises:
            FileNotFoundError: If there is none.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no checkpoint {str(path)!r}; those of a run are in its checkpoints/")
        loaded = torch.load(path, map_location=map_location, weights_only=weights_only is not False)
        folder = os.path.realpath(Path(path).parent)
        return dict(replace_text(loaded, lambda text: text.replace(HERE, folder)))


def replace_text(value: Any, replace: Callable[[str], str]) -> Any:
    """Applies `replace` to every string inside plain dictionaries, lists and tuples, keys included."""
    if isinstance(value, str):
        return replace(value)
    if type(value) is dict:
        return {replace_text(key, replace): replace_text(entry, replace) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(replace_text(entry, replace) for entry in value)
    return value
