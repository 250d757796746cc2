import multiprocessing
import os
import shutil
import signal
import subprocess
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Callback

from mvg.cli import main

TINY = """
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  num_sanity_val_steps: 0
  gradient_clip_val: 1.0
  callbacks:
    - {class_path: pytorch_lightning.callbacks.EMAWeightAveraging, init_args: {decay: 0.7}}
model:
  network:
    class_path: mvg.models.CanvasViT
    init_args: {image_size: [16, 16], width: 16, depth: 2, heads: 1, drop_path: 0.3}
data:
  sources: {anatomy: {class_path: mvg.data.synthetic.SyntheticAnatomy, init_args: {image_size: [16, 16]}}}
  tasks: {segmentation: {class_path: tasks.Segmentation}, denoising: {class_path: tasks.Denoising}}
  batch_size: 2
  context_size: [1, 2]
  epoch_length: 8
  val_length: 4
last.steps: 1
"""
FIT = ["fit", "--config", "tiny.yaml", "--allow-class-path", "test_resume"]
STEPS = 8
ENDS = ("trained4", "validation4", "trained8", "validation8", "ended")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a run that was not interrupted, and copies of it as it was after each step."""
    folder = tmp_path_factory.mktemp("resume")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("tiny.yaml").write_text(TINY)
        main([*FIT, "--name", "whole", "--trainer.callbacks+=test_resume.CopyRun"])
    return folder


@pytest.fixture(autouse=True)
def here(whole, monkeypatch):
    monkeypatch.chdir(whole)


class CopyRun(Callback):
    """Copies the run as it lies there whenever a step begins, and in the middle of validation: what kill -9 leaves."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step:
            shutil.copytree("runs/whole", f"runs/step{trainer.global_step}")

    def on_validation_start(self, trainer, *_):
        shutil.copytree("runs/whole", f"runs/trained{trainer.global_step}")

    def on_validation_epoch_end(self, trainer, *_):
        shutil.copytree("runs/whole", f"runs/validation{trainer.global_step}")

    def on_train_end(self, trainer, *_):
        shutil.copytree("runs/whole", "runs/ended")


class CopyFourth(Callback):
    """Copies the run after its first epoch, whose best weights are the last file that was written."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 4:
            shutil.copytree(trainer.default_root_dir, "runs/fourth")


class Tell(Callback):
    """Sends a signal to its own process in the middle of a step."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_before_optimizer_step(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


class TellAll(Tell):
    """Sends it to the processes of the loader, too, as `timeout` and schedulers do."""

    def on_before_optimizer_step(self, trainer, *_):
        if trainer.global_step == self.step:
            found = [str(child.pid) for child in multiprocessing.active_children()]
            subprocess.run(["kill", f"-{self.number}", *found], check=True)
        super().on_before_optimizer_step(trainer)


def final(name):
    """Everything of a run that decides how training goes on, flat."""
    kept = torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
    names = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "averaging_state", "global_step")
    return dict(flat({key: kept[key] for key in (*names, "train_loader", "skipped")}))


def flat(value, path=""):
    if isinstance(value, dict | list | tuple):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(entry, f"{path}/{key}")
    else:
        yield path, value


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name


@pytest.mark.parametrize("name", [*(f"step{step}" for step in range(1, STEPS)), *ENDS])
def test_run_killed_after_any_step_ends_in_the_same_state(name):
    shutil.copytree(f"runs/{name}", f"runs/again-{name}")
    main([*FIT, "--name", f"again-{name}", "--resume"])
    assert_same(final(f"again-{name}"), final("whole"))


def test_options_of_the_run_that_goes_on_count():
    main([*FIT, "--name", "longer", "--trainer.max_epochs=1", "--model.minutes=50", "--model.weight_decay=0.1"])
    main([*FIT, "--name", "longer", "--resume", "--model.minutes=100", "--model.weight_decay=0.2"])
    options = OmegaConf.load("runs/longer/config.yaml").model
    assert (options.minutes, options.weight_decay) == (100, 0.2)


def test_run_without_last_epoch_goes_on_with_the_next_one():
    endless = [*FIT, "--trainer.max_epochs=-1", "--trainer.max_steps=12"]
    main([*endless, "--name", "endless", "--trainer.callbacks+=test_resume.CopyFourth"])
    main([*endless, "--name", "fourth", "--resume"])
    assert_same(final("fourth"), final("endless"))


@pytest.mark.parametrize(("number", "step", "status"), [(signal.SIGTERM, 2, 143), (signal.SIGUSR1, 3, 138)])
def test_signal_ends_a_run_after_the_step_under_way(number, step, status):
    name = f"told{status}"
    tell = ["--trainer.callbacks+=test_resume.Tell", f"--trainer.callbacks.step={step}"]
    with pytest.raises(SystemExit) as ended:
        main([*FIT, "--name", name, *tell, f"--trainer.callbacks.number={int(number)}", "--last.steps=null"])
    assert ended.value.code == status
    kept = torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
    assert kept["global_step"] == step + 1
    main([*FIT, "--name", name, "--resume"])
    assert_same(final(name), final("whole"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_signal_to_all_processes_ends_a_run_alike(number, status):
    name, words = f"all{status}", ["--data.workers=2"]
    tell = ["--trainer.callbacks+=test_resume.TellAll", "--trainer.callbacks.step=2"]
    with pytest.raises(SystemExit) as ended:
        main([*FIT, *words, "--name", name, *tell, f"--trainer.callbacks.number={int(number)}"])
    assert ended.value.code == status
    main([*FIT, *words, "--name", name, "--resume"])
    assert_same(final(name), final("whole"))


@pytest.mark.parametrize("first", ["step2", "trained4", "validation4", "step5"])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_run_that_is_ended_twice_still_ends_in_the_same_state(first, workers):
    name, words = f"twice-{first}-{workers}", [f"--data.workers={workers}", "--resume"]
    shutil.copytree(f"runs/{first}", f"runs/{name}")
    tell = ["--trainer.callbacks+=test_resume.Tell", "--trainer.callbacks.step=5", "--trainer.callbacks.number=15"]
    with pytest.raises(SystemExit):
        main([*FIT, "--name", name, *words, *tell])
    main([*FIT, "--name", name, *words])
    assert_same(final(name), final("whole"))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_kill_9_at_a_random_moment(workers):
    name = f"killed{workers}"
    words = [*FIT, "--name", name, f"--data.workers={workers}"]
    for _ in range(3):
        child = get_context("fork").Process(target=main, args=([*words, "--resume"],))
        child.start()
        child.join(0.3 + np.random.default_rng().random())
        child.kill()
        child.join(60)
    main([*words, "--resume"])
    assert_same(final(name), final("whole"))
