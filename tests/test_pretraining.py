"""Long runs in parts: a clock that goes on, milestones, averaged weights, and pairs that are taken apart late."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback

import mvg.generalist
from mvg.cli import main
from mvg.episode import Episode
from mvg.unpairing import unpair
from mvg.weights import load

TINY = """
trainer:
  max_epochs: -1
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  num_sanity_val_steps: 0
  callbacks:
    - {class_path: pytorch_lightning.callbacks.EMAWeightAveraging, init_args: {decay: 0.7}}
    - {class_path: test_pretraining.Clock}
model:
  network:
    class_path: mvg.models.CanvasViT
    init_args: {image_size: [16, 16], width: 16, depth: 1, heads: 1}
  minutes: 0.1
data:
  sources: {anatomy: {class_path: mvg.data.synthetic.SyntheticAnatomy, init_args: {image_size: [16, 16]}}}
  tasks: {segmentation: {class_path: tasks.Segmentation}}
  batch_size: 2
  context_size: 2
  epoch_length: 8
  val_length: 2
last.minutes: null
milestones.minutes: [0.05, 0.1]
"""
FIT = ["fit", "--config", "tiny.yaml", "--allow-class-path", "test_pretraining"]


class Clock(Callback):
    """A clock on which every step takes a second, and validation an hour."""

    now = 0.0

    def on_before_optimizer_step(self, *_):
        Clock.now += 1

    def on_validation_batch_start(self, *_):
        Clock.now += 3600


class Tell(Callback):
    """Tells its own process to end in the middle of a step."""

    def on_before_optimizer_step(self, trainer, *_):
        if trainer.global_step in (1, 3):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mvg.generalist, "time", SimpleNamespace(monotonic=lambda: Clock.now))
    Path("tiny.yaml").write_text(TINY)


def final(name):
    kept = torch.load(f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
    return kept["spent"], kept["global_step"], kept["lr_schedulers"], load(f"runs/{name}/weights").state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def test_schedule_by_minutes_goes_on_exactly_where_a_run_was_ended(here):
    main([*FIT, "--name", "whole"])
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main([*FIT, "--name", "cut", "--resume", "--trainer.callbacks+=test_pretraining.Tell"])
        assert ended.value.code == 143
        Clock.now += 7
    main([*FIT, "--name", "cut", "--resume"])
    assert final("whole")[:3] == final("cut")[:3]
    assert final("whole")[1] == 6
    for name in ("weights", "milestones/0.05min", "milestones/0.1min"):
        assert same(*(load(f"runs/{run}/{name}").state_dict() for run in ("whole", "cut")))
    ends = [load(f"runs/whole/{name}").state_dict() for name in ("milestones/0.1min", "weights", "milestones/0.05min")]
    assert same(ends[0], ends[1])
    assert not same(ends[1], ends[2])


def test_weights_are_the_averaged_ones(here):
    main([*FIT, "--name", "run"])
    kept = torch.load("runs/run/checkpoints/last.ckpt", weights_only=True)
    assert same(
        load("runs/run/weights").state_dict(),
        {name.removeprefix("network."): value for name, value in kept["state_dict"].items() if "network." in name},
    )


@pytest.mark.parametrize("number", [2, 3, 5])
def test_unpaired_targets_change_places_and_only_the_query_is_learnt(number):
    episode = Episode.collate([draw(number, seed) for seed in range(20)])
    changed = unpair(episode)
    marks = episode.context_targets.flatten(2)[..., 0]
    moved = changed.context_targets.flatten(2)[..., 0]
    assert (moved != marks).all()
    assert torch.equal(moved.sort(1).values, marks)
    assert not changed.context_weights.any()
    assert torch.equal(changed.weight, episode.weight)
    assert len({tuple(row.tolist()) for row in moved}) == number - 1
    assert unpair(draw(1, 0)).context_weights.all()


def draw(number, seed):
    targets = torch.linspace(0, 1, number).reshape(1, number, 1, 1, 1).expand(1, number, 1, 4, 4)
    image = torch.rand(1, 1, 4, 4)
    return Episode(
        image, image, torch.ones_like(image), targets, targets, torch.ones_like(targets), torch.tensor([True]),
        torch.tensor([False]), torch.tensor([seed]),
    )  # fmt: skip


@pytest.mark.parametrize(("shares", "steps"), [([0.5, 1.0], {3, 4}), ([0.0, 0.5], {1, 2})])
def test_pairs_are_taken_apart_in_the_shares_of_training_that_are_asked_for(here, monkeypatch, shares, steps):
    seen = []
    monkeypatch.setattr(mvg.generalist, "unpair", lambda batch: seen.append(Clock.now) or batch)
    Clock.now = 0.0
    words = ["--model.minutes=null", "--trainer.max_steps=4", f"--model.unpairing={shares}", "--data.val_length=0"]
    main([*FIT, "--name", "run", *words, "--milestones.minutes=null"])
    assert {now + 1 for now in seen} == steps


@pytest.mark.parametrize("shares", ["[0.5]", "[1.0,0.5]", "[0.5,1.5]"])
def test_shares_that_are_none_are_refused(here, shares, capsys):
    with pytest.raises(SystemExit):
        main([*FIT, f"--model.unpairing={shares}"])
    assert "two ascending shares" in capsys.readouterr().err
