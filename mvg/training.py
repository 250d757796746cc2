"""Training, validation and test by LightningCLI, in run folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionYesNo, Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import CheckpointIO

import mvg
from mvg import data, models, run_folder
from mvg.data import EpisodeDataModule
from mvg.generalist import Generalist
from mvg.progress import Progress
from mvg.resume import ContinueLoader, KeepBest, SaveLast, SeedBatches
from mvg.saving import SaveAdapter, SaveWeights

RUNS = Path("runs")
logger = logging.getLogger(__name__)


class TrainingCLI(LightningCLI):
    """`fit`, `validate` and `test`: what every run needs, in one folder.

    Args:
        args: The words after `mvg`.
    """

    def __init__(self, args: Sequence[str]) -> None:
        for room in (data, models):
            for name in room.__all__:
                getattr(room, name)  # what is imported is listed by --help and may be named without its path
        super().__init__(
            Generalist,
            EpisodeDataModule,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={
                "parser_mode": "omegaconf",
                "prog": "mvg",
                "description": "Trains and evaluates in-context generalist models.",
                "exit_on_error": False,
                "version": mvg.__version__,
            },
            save_config_kwargs={"overwrite": True},
            args=list(args),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Names the methods of the trainer that are commands, each with the arguments that are not options."""
        commands = LightningCLI.subcommands()
        return {name: commands[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Links what must agree and adds the callbacks that every run has."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="Name of the run, by default that of the first --config file."
        )
        parser.add_argument(
            "--resume", action=ActionYesNo, default=False, help="In fit: continue the newest run of this name, if any."
        )
        parser.add_argument(
            "--report", action=ActionYesNo, default=False, help="In fit: test the final weights after training."
        )
        for name in ("image_size", "in_channels", "out_channels"):
            parser.link_arguments(f"model.network.init_args.{name}", f"data.{name}")
        parser.add_lightning_class_args(SaveLast, "last")
        parser.add_lightning_class_args(SaveWeights, "milestones")
        parser.add_lightning_class_args(KeepBest, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/score",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.save_last": True,
                "checkpoint.enable_version_counter": False,
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the words and settles the folder of the run."""
        self.config = parser.parse_args(args)
        options = self.config[self.config.subcommand]
        options.name = options.name or (Path(str(options.config[0])).stem if options.config else "run")
        training = self.config.subcommand == "fit"
        self.folder = settle_folder(options, training)
        if options.resume and training and not options.ckpt_path:
            last = run_folder.last_checkpoint(self.folder)
            options.ckpt_path = str(last) if last else None
        if not training and not (options.ckpt_path or options.model.get("weights") or options.model.get("pretrained")):
            options.ckpt_path = str(trained_checkpoint(self.folder))

    def _parse_ckpt_path(self) -> None:
        """Lets the options of a training that goes on count; Lightning replaces them by those of its checkpoint."""
        if self.config.subcommand != "fit":
            super()._parse_ckpt_path()

    def after_instantiate_classes(self) -> None:
        """Keeps out of the stored configuration that this start continues another."""
        options = self.config[self.subcommand]
        self.report = options.report
        if self.subcommand == "fit":
            self.datamodule.tested = self.report
            options.resume, options.ckpt_path = False, None
            logger.info("The run is written to %s", self.folder)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the trainer, with loggers, callbacks and checkpoints of this run."""
        given = self._get(self.config_init, "trainer")
        training = self.subcommand == "fit"
        if not training:
            self.save_config_callback = None
        loggers = given.logger
        if loggers is None or loggers is True:
            loggers = default_loggers(self.folder) if training else False
        callbacks = [
            *as_list(given.callbacks),
            SaveAdapter(),
            ContinueLoader(),
        ]
        if self._get(self.config, "seed_everything") is not False:
            callbacks.append(SeedBatches(int(os.environ["PL_GLOBAL_SEED"])))
        if training and loggers:
            callbacks.append(LearningRateMonitor(logging_interval="step"))
        if given.enable_progress_bar is not False and not any(isinstance(each, ProgressBar) for each in callbacks):
            callbacks.append(Progress())
        checkpoint = self._get(self.config_init, "checkpoint")
        checkpoint.dirpath = checkpoint.dirpath or str((self.folder / "checkpoints").resolve())
        plugins = as_list(given.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, run_folder.CompleteCheckpointIO()]
        return super().instantiate_trainer(
            default_root_dir=str(self.folder), logger=loggers, callbacks=callbacks, plugins=plugins, **kwargs
        )

    def after_fit(self) -> None:
        """Validates the weights that the run leaves in `weights/`; tests them and prints the table, if asked to."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SaveWeights):
                callback.measure(self.trainer, self.model, self.datamodule)
        if self.report:
            self.trainer.test(self.model, datamodule=self.datamodule)


def as_list(value: Any) -> list[Any]:
    """Returns a list of one value, of several, or of none."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def default_loggers(folder: Path) -> list[Any]:
    """Returns the loggers of a run that configures none."""
    tensorboard = TensorBoardLogger(str(folder), name="", version="", sub_dir="tensorboard")
    return [run_folder.MetricsLogger(str(folder)), tensorboard]


def trained_checkpoint(folder: Path) -> Path:
    """Returns the best checkpoint of a run, else the last: what there is to evaluate.

    Raises:
        FileNotFoundError: If there is neither, as nobody wants to evaluate an untrained network without notice.
    """
    for name in ("best.ckpt", "last.ckpt"):
        if (path := folder / "checkpoints" / name).is_file():
            return path
    raise FileNotFoundError(f"there is nothing trained in {folder}; name a checkpoint with --ckpt_path")


def settle_folder(options: Namespace, training: bool) -> Path:
    """Decides where a run is written.

    A folder that was asked for is taken as it is; a checkpoint that is continued keeps its own; else it is
    `runs/NAME`, or `runs/NAME-2` and so on where a run is already.

    Args:
        options: The options of one command.
        training: Whether the command is `fit`; the others keep to the newest run.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the folder that was asked for holds another run.
    """
    if options.ckpt_path and not Path(options.ckpt_path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {options.ckpt_path!r}; those of a run are in its checkpoints/")
    asked = options.trainer.default_root_dir
    if asked:
        if training and not (options.resume or options.ckpt_path) and run_folder.is_taken(Path(asked)):
            raise ValueError(f"folder {asked} holds a run already; add --resume to continue it, or name another")
        return Path(asked)
    if options.ckpt_path and (own := run_folder.run_of(Path(options.ckpt_path))):
        return own
    newest, free = run_folder.numbered(RUNS / options.name)
    return newest if newest and (options.resume or not training) else free
