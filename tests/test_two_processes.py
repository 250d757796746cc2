import os
import signal
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.multiprocessing import ProcessExitedException

import mvg.generalist as module
from mvg.data import EpisodeDataModule, SyntheticAnatomy
from mvg.generalist import Generalist
from mvg.models import CanvasViT
from mvg.resume import ContinueLoader, KeepBest, SaveLast
from mvg.run_folder import CompleteCheckpointIO
from tasks import Denoising, Segmentation


def data(**changes):
    source = SyntheticAnatomy([16, 16], anatomies=4, val_anatomies=4, test_anatomies=4, classes=(2, 2))
    tasks = {"segmentation": Segmentation(), "denoising": Denoising()}
    lengths = {"epoch_length": 40, "val_length": 6, "test_length": 6, "batch_size": 1}
    return EpisodeDataModule([16, 16], {"toy": source}, tasks, **(lengths | changes))


def model(**changes):
    torch.manual_seed(0)
    return Generalist(CanvasViT([16, 16], width=16, depth=1, heads=1), **changes)


@pytest.fixture
def trainer(tmp_path):
    def make(devices, **options):
        return pl.Trainer(
            accelerator="cpu",
            devices=devices,
            strategy="ddp_fork" if devices > 1 else "auto",
            default_root_dir=tmp_path / str(devices),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{"enable_checkpointing": False} | options,
        )

    return make


class Keep(pl.Callback):
    """Writes what a process has at the end of training, or of validation."""

    def __init__(self, folder):
        self.folder = folder

    def on_validation_end(self, trainer, pl_module):
        torch.save(dict(trainer.callback_metrics), self.folder / f"scores{trainer.global_rank}.pt")

    def on_train_start(self, trainer, pl_module):
        self.losses = []

    def on_train_batch_end(self, trainer, *_):
        self.losses.append(float(trainer.callback_metrics["train/loss"]))

    def on_train_end(self, trainer, pl_module):
        state = {"step": trainer.global_step, "weights": pl_module.network.state_dict(), "losses": self.losses}
        torch.save(state, self.folder / f"end{trainer.global_rank}.pt")


class Poison(pl.Callback):
    """Makes a batch of the second process unusable."""

    def on_train_batch_start(self, trainer, pl_module, batch, index):
        if trainer.global_rank == 1 and index == 1:
            batch.target.fill_(torch.nan)


class Tell(pl.Callback):
    """Tells the second process alone to end, in its third step."""

    def on_before_optimizer_step(self, trainer, *_):
        if trainer.global_rank == 1 and trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("length", [1, 7])
def test_scores_of_two_processes_are_those_of_one(trainer, tmp_path, length):
    # batches of one episode: the first process sees segmentation alone, the second denoising alone, or nothing
    expected = trainer(1).validate(model(), datamodule=data(val_length=length), verbose=False)[0]
    trainer(2, callbacks=[Keep(tmp_path)]).validate(model(), datamodule=data(val_length=length), verbose=False)
    for rank in (0, 1):
        scores = torch.load(tmp_path / f"scores{rank}.pt")
        assert {name: float(value) for name, value in scores.items()} == pytest.approx(expected, nan_ok=True)
    assert expected["val/toy/segmentation/dice"] >= 0


def test_two_processes_end_by_one_clock_with_equal_weights(trainer, tmp_path, monkeypatch):
    clock = iter(range(10_000))
    pace = {os.getpid(): 0}  # the process that tests runs no training

    def monotonic():
        return float(next(clock)) * pace.setdefault(os.getpid(), 5 if int(os.environ["LOCAL_RANK"]) else 10)

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=monotonic))
    trainer(2, max_epochs=1, limit_val_batches=0, callbacks=[Poison(), Keep(tmp_path)]).fit(
        model(minutes=1), datamodule=data()
    )
    first, second = (torch.load(tmp_path / f"end{rank}.pt") for rank in (0, 1))
    assert first["step"] == second["step"] == 6
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    assert all(torch.isfinite(value).all() for value in first["weights"].values())  # despite the poisoned batch


def test_report_of_two_processes_holds_every_case_once(trainer, tmp_path):
    for devices in (1, 2):
        trainer(devices).test(model(), datamodule=data(test_length=7), verbose=False)
    one, two = (sorted((tmp_path / name / "report.csv").read_text().splitlines()) for name in ("1", "2"))
    assert one == two


def test_two_processes_learn_as_one_and_resume_to_the_bit(trainer, tmp_path):
    def fit(name, devices, callbacks=(), **options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        callbacks = [Keep(folder), *callbacks, ContinueLoader(), SaveLast(), KeepBest(folder)]
        options = {"max_epochs": 2, "limit_val_batches": 0, "enable_checkpointing": True} | options
        made = trainer(devices, callbacks=callbacks, plugins=[CompleteCheckpointIO()], **options)
        shares = data(batch_size=4 // devices, epoch_length=16, context_size=[1, 2])
        ckpt_path = str(folder / "last.ckpt") if (folder / "last.ckpt").exists() else None
        made.fit(model(), datamodule=shares, ckpt_path=ckpt_path)
        return [torch.load(folder / f"end{rank}.pt") for rank in range(devices)]

    (alone,), two = fit("alone", 1), fit("two", 2)
    assert two[0]["losses"] == two[1]["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    with pytest.raises(ProcessExitedException) as ended:
        fit("told", 2, [Tell()])
    assert ended.value.exit_code == 143
    assert torch.load(tmp_path / "told/last.ckpt", weights_only=True)["global_step"] == 3
    for rank, resumed in enumerate(fit("told", 2)):
        assert resumed["losses"] == two[rank]["losses"][3:]
        assert all(torch.equal(resumed["weights"][name], two[rank]["weights"][name]) for name in resumed["weights"])
