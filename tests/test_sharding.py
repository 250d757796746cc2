"""Runs of two processes from a shell: DDP, fully sharded, and continued by one process; and a compiled loss."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_two_processes import data, model

import mvg
from mvg.episode import Episode

pytestmark = pytest.mark.slow
CONFIG = """
trainer: {max_steps: 4, accelerator: cpu, devices: 2, strategy: ddp, gradient_clip_val: 1.0, log_every_n_steps: 1}
model:
  network: {class_path: mvg.models.CanvasViT, init_args: {image_size: [16, 16], width: 16, depth: 2, heads: 1}}
data:
  sources: {toy: {class_path: mvg.data.SyntheticAnatomy, init_args: {image_size: [16, 16], anatomies: 4}}}
  tasks: {denoising: {class_path: tasks.Denoising}, segmentation: {class_path: tasks.Segmentation}}
  batch_size: 2
  epoch_length: 40
  val_length: 1
last: {steps: 2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.yaml").write_text(CONFIG)
    return folder


def fit(folder, name, *words):
    command = [shutil.which("lightning", path=Path(sys.executable).parent), "fit", "--config", "tiny.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, "--name", name, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return folder / "runs" / name


@pytest.fixture(scope="module")
def plain(folder):
    return fit(folder, "plain")


SHARDED = ("--config", str(Path(__file__).parents[1] / "configs/cluster/fsdp.yaml"))


KEEP = {"every_n_train_steps": 2, "save_top_k": -1, "dirpath": "kept"}


@pytest.fixture(scope="module")
def sharded(folder):
    keep = [f"--trainer.callbacks.{name}={value}" for name, value in KEEP.items()]
    return fit(folder, "sharded", *SHARDED, "--trainer.callbacks+=pytorch_lightning.callbacks.ModelCheckpoint", *keep)


def same(one, other):
    kept, others = (load_file(run / "weights/model.safetensors") for run in (one, other))
    torch.testing.assert_close(kept, others, rtol=1e-4, atol=1e-6)


def test_two_processes_from_a_shell_leave_one_folder(plain):
    assert (plain / "metrics.csv").read_text().count("\n") >= 5
    assert not plain.with_name("plain-2").exists()
    assert torch.load(plain / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 4


def test_sharded_training_leaves_the_weights_of_ddp(plain, sharded):
    same(plain, sharded)
    assert mvg.load(sharded / "weights").init_args == mvg.load(plain / "weights").init_args


@pytest.mark.parametrize(
    "words", [SHARDED, ("--trainer.strategy", "auto", "--trainer.devices", "1", "--data.batch_size", "4")]
)
def test_sharded_run_is_continued_by_any_number_of_processes(folder, plain, sharded, words):
    same(plain, fit(folder, f"again{len(words)}", *words, "--ckpt_path", "kept/epoch=0-step=2.ckpt"))


def test_run_without_sharding_is_not_continued_with_it(folder, plain):
    with pytest.raises(AssertionError, match="was written without sharding"):
        fit(folder, "plain", *SHARDED, "--resume", "--trainer.max_steps", "5")


def test_averaging_is_refused(folder):
    averaging = "--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"
    with pytest.raises(AssertionError, match="cannot be averaged; remove EMAWeightAveraging"):
        fit(folder, "averaged", *SHARDED, averaging)


def test_compiled_loss_is_the_loss():
    made = data(batch_size=2)
    made.setup("fit")
    batch = Episode.collate([made.datasets["train"][index] for index in range(2)])
    network = model().network
    losses, gradients = [], []
    for loss in (network.loss, torch.compile(network.loss)):
        network.zero_grad()
        losses.append(loss(batch)["loss"])
        losses[-1].backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)
