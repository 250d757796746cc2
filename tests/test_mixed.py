"""Pictures and volumes in one run: batches of one size, and a network for both."""

import pytest
import torch

import mvg
from mvg.cli import main
from mvg.data import EpisodeDataset, EpisodeLoader, SyntheticAnatomy
from mvg.models import CanvasViT, Mixed
from tasks import Denoising, Segmentation

SIZES = {2: (16, 16), 3: (16, 16, 16)}


def episodes(split="train", **changes):
    sources = {f"{dims}d": SyntheticAnatomy(size, subjects=4) for dims, size in SIZES.items()}
    options = {"length": 48, "batch_size": 2, "flat_size": SIZES[2]} | changes
    return EpisodeDataset(sources, {"s": Segmentation(), "d": Denoising()}, split, image_size=SIZES[3], **options)


def network(shared=("blocks",), **changes):
    flat = CanvasViT(SIZES[2], width=24, depth=1, heads=2)
    return Mixed(flat, CanvasViT(SIZES[3], **{"width": 24, "depth": 1, "heads": 2} | changes), SIZES[3], shared=shared)


@pytest.mark.parametrize("split", ["train", "val"])
def test_batches_of_one_step_are_of_one_size_on_all_processes(split):
    loaders = [EpisodeLoader(episodes(split, ranks=2), 2, rank) for rank in range(2)]
    steps = [{len(batch.image.shape) for batch in step} for step in zip(*loaders, strict=True)]
    assert {len(kinds) for kinds in steps} == {1}
    assert set.union(*steps) == {4, 5}


def test_validation_goes_round_all_pairs():
    drawn = episodes("val", length=16)
    names = [drawn[index].tasks[0] for index in range(16)]
    assert sorted(names) == sorted(["2d/s", "2d/d", "3d/s", "3d/d"] * 4)


def test_weights_say_how_often_pictures_come():
    drawn = episodes(length=600, weights={"2d": 3.0})
    names = [drawn.plan(index, drawn._rng(index, 0)).source for index in range(0, 600, 2)]
    assert names.count("2d") / len(names) == pytest.approx(0.75, abs=0.08)


def test_without_pictures_nothing_changes():
    one = [episodes(flat_size=size, weights={"2d": 0.0})[3] for size in (None, SIZES[2])]
    assert torch.equal(one[0].image, one[1].image)


def test_shared_blocks_learn_from_both_and_count_once():
    made = network()
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in network(()).parameters())
    for batch in EpisodeLoader(episodes(length=8)):
        made.zero_grad()
        made.loss(batch)["loss"].backward()
        assert all(p.grad.abs().sum() > 0 for p in made.flat.blocks.parameters())


def test_both_parts_answer_as_alone():
    made = network().eval()
    for part, dims in ((made.flat, 2), (made.deep, 3)):
        image, context = torch.rand(1, 1, *SIZES[dims]), torch.rand(1, 2, 1, *SIZES[dims])
        assert torch.equal(made(image, context, context), part(image, context, context))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"width": 48}, "differs between"), ({"shared": ("stems",)}, "does not have"), ({"in_channels": 3}, "channels")],
)
def test_parts_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        network(**changes)


def test_one_run_leaves_weights_for_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mixed.yaml").write_text(CONFIG)
    main(["fit", "--config", "mixed.yaml"])
    loaded = mvg.load("runs/mixed/weights")
    assert loaded.flat.blocks[0] is loaded.deep.blocks[0]
    header = (tmp_path / "runs/mixed/metrics.csv").read_text().splitlines()[0]
    assert {"val/2d/s/dice", "val/3d/s/dice"} <= set(header.split(","))


PART = "{class_path: mvg.models.CanvasViT, init_args: {image_size: %s, width: 24, depth: 1, heads: 2}}"
SOURCE = "{class_path: mvg.data.SyntheticAnatomy, init_args: {image_size: %s, subjects: 4}}"
CONFIG = f"""
trainer: {{max_steps: 4, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}}
model:
  network:
    class_path: mvg.models.Mixed
    init_args:
      {{image_size: [16, 16, 16], shared: [blocks], flat: {PART % [16, 16]}, deep: {PART % [16, 16, 16]}}}
data:
  flat_size: [16, 16]
  sources: {{2d: {SOURCE % [16, 16]}, 3d: {SOURCE % [16, 16, 16]}}}
  tasks: {{s: {{class_path: tasks.Segmentation}}, d: {{class_path: tasks.Denoising}}}}
  batch_size: 2
  epoch_length: 8
  val_length: 8
"""
