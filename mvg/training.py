"""Training, validation and test by LightningCLI, in run folders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionYesNo, Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import CheckpointIO

import mvg
from mvg import run_folder
from mvg.data import EpisodeDataModule
from mvg.generalist import Generalist
from mvg.weights import SaveWeights

RUNS = Path("runs")
logger = logging.getLogger(__name__)


class TrainingCLI(LightningCLI):
    """`fit`, `validate` and `test`: what every run needs, in one folder.

    Args:
        args: The words after `mvg`.
    """

    def __init__(self, args: Sequence[str]) -> None:
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
        for name in ("image_size", "in_channels", "out_channels"):
            parser.link_arguments(f"model.network.init_args.{name}", f"data.{name}")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/score",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.save_last": True,
                "checkpoint.enable_version_counter": False,
            }
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                "--resume", action=ActionYesNo, default=False, help="Continue the newest run of this name, if any."
            )
            parser.add_argument(
                "--report", action=ActionYesNo, default=False, help="Test the best weights after training."
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the words and settles the folder of the run."""
        self.config = parser.parse_args(args)
        options = self.config[self.config.subcommand]
        options.name = options.name or (Path(str(options.config[0])).stem if options.config else "run")
        self.folder = settle_folder(options, training=self.config.subcommand == "fit")
        if options.get("resume") and not options.ckpt_path:
            last = run_folder.last_checkpoint(self.folder)
            options.ckpt_path = str(last) if last else None

    def after_instantiate_classes(self) -> None:
        """Keeps out of the stored configuration that this start continues another."""
        options = self.config[self.subcommand]
        self.report = bool(options.get("report"))
        if self.subcommand == "fit":
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
        callbacks = [*as_list(given.callbacks), SaveWeights()]
        if training and loggers:
            callbacks.append(LearningRateMonitor(logging_interval="step"))
        checkpoint = self._get(self.config_init, "checkpoint")
        checkpoint.dirpath = checkpoint.dirpath or str((self.folder / "checkpoints").resolve())
        plugins = as_list(given.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, run_folder.CompleteCheckpointIO()]
        return super().instantiate_trainer(
            default_root_dir=str(self.folder), logger=loggers, callbacks=callbacks, plugins=plugins, **kwargs
        )

    def after_fit(self) -> None:
        """Tests the best weights and prints the table, if asked to."""
        if self.report:
            best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
            self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path="best" if best else None)


def as_list(value: Any) -> list[Any]:
    """Returns a list of one value, of several, or of none."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def default_loggers(folder: Path) -> list[Any]:
    """Returns the loggers of a run that configures none."""
    tensorboard = TensorBoardLogger(str(folder), name="", version="", sub_dir="tensorboard")
    return [run_folder.MetricsLogger(str(folder)), tensorboard]


def settle_folder(options: Namespace, training: bool) -> Path:
    """Decides where a run is written.

    A folder that was asked for is taken as it is; a checkpoint that is continued keeps its own; else it is
    `runs/NAME`, or `runs/NAME-2` and so on where a run is already.

    Args:
        options: The options of one command.
        training: Whether the command is `fit`; the others write nothing of their own.

    Raises:
        ValueError: If the folder that was asked for holds another run.
    """
    asked, continues = options.trainer.default_root_dir, options.get("resume") or options.ckpt_path
    if asked:
        if training and not continues and run_folder.is_taken(Path(asked)):
            raise ValueError(f"folder {asked} holds a run already; add --resume to continue it, or name another")
        return Path(asked)
    if options.ckpt_path and (own := run_folder.run_of(Path(options.ckpt_path))):
        return own
    newest, free = run_folder.numbered(RUNS / options.name)
    return newest if newest and (continues or not training) else free
