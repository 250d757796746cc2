import csv
import gc
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

import tasks
from mvg.cli import main
from mvg.data import EpisodeDataModule, EpisodeDataset, EpisodeLoader, FolderSource
from mvg.data.loader import start_worker
from mvg.data.quarantine import Quarantine
from mvg.episode import Episode
from mvg.models import CanvasViT
from mvg.objective import Objective

CASES = 20
LOOKS = {"constant": lambda rng: np.full((12, 12, 3), 7.0), "noise": lambda rng: rng.normal(100, 20, (12, 12, 3))}


def write_scans(root, look="noise", labels=True):
    rng = np.random.default_rng(0)
    for number in range(CASES):
        mask = np.zeros((12, 12, 3))
        mask[3:8, 4:9] = labels
        for role, values in (("images", LOOKS[look](rng)), ("labels", mask)):
            (root / role).mkdir(parents=True, exist_ok=True)
            nibabel.save(
                nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), root / role / f"p{number:02}.nii.gz"
            )
    return root


def source(root, **changes):
    names = {"labels": {1: "organ"}}
    return FolderSource(str(root), name="scans", class_names=names, cache=str(root / "cache"), **changes)


def damage(root, how, most=1):
    """Damages prepared arrays of cases that are trained on, after they were verified."""
    folder = next((root / "cache").iterdir())
    wanted = sorted({item.case for item in source(root).items("train")})[:most]
    records = source(root).records()
    for case in wanted:
        for name in records[case]["files"].values():
            how(folder / name)
    return wanted


DAMAGES = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "gone": lambda path: path.unlink(),
    "text": lambda path: path.write_text("not an array" * 200),
    "wrong size": lambda path: np.save(path, np.zeros((3, 5, 5), np.uint16)),
}


def episodes(root, **changes):
    options = {"length": 40, "batch_size": 4} | changes
    return EpisodeDataset(
        {"scans": source(root)}, {"denoising": tasks.Denoising()}, "train", image_size=[16, 16], **options
    )


@pytest.fixture
def scans(tmp_path):
    return write_scans(tmp_path)


class TestQuarantine:
    @pytest.mark.parametrize("kind", DAMAGES)
    def test_damaged_case_is_left_out_once_and_listed(self, scans, kind, caplog):
        drawn = episodes(scans, quarantine=Quarantine(0.2, scans / "quarantine.csv"), remembered=0)
        drawn[0]
        (case,) = damage(scans, DAMAGES[kind])
        made = [drawn[index] for index in range(40)]
        assert case not in {name for episode in made for name in (*episode.cases, *episode.context_cases[0])}
        rows = list(csv.reader((scans / "quarantine.csv").open()))
        assert [row[:2] for row in rows] == [["scans", case]]
        assert caplog.text.count("left out from now on") == 1

    def test_other_episodes_stay_as_they_were(self, scans):
        before = [episodes(scans)[index] for index in range(20)]
        (case,) = damage(scans, DAMAGES["cut"])
        drawn = episodes(scans, quarantine=Quarantine(0.2))
        for index, episode in enumerate(before):
            if case not in (*episode.cases, *episode.context_cases[0]):
                assert torch.equal(drawn[index].image, episode.image)

    def test_too_many_stop(self, scans):
        drawn = episodes(scans, quarantine=Quarantine(0.1))
        damage(scans, DAMAGES["cut"], 5)
        with pytest.raises(
            ValueError, match=r"2 of \d+ cases of this source cannot be read, more than `quarantine` 0.1"
        ):
            [drawn[index] for index in range(40)]

    def test_strict_by_choice(self, scans):
        drawn = episodes(scans, quarantine=Quarantine(0.0))
        damage(scans, DAMAGES["gone"])
        with pytest.raises(ValueError, match="1 of"):
            [drawn[index] for index in range(40)]

    def test_every_rank_and_worker_takes_as_many_steps(self, scans):
        sound = [len(EpisodeLoader(episodes(scans), 2, rank)) for rank in range(2)]
        damage(scans, DAMAGES["cut"])
        table = scans / "quarantine.csv"
        for rank in range(2):
            drawn = episodes(scans, quarantine=Quarantine(0.2, table))
            assert len(list(EpisodeLoader(drawn, 2, rank, workers=1))) == sound[rank]
        assert len({tuple(row[:2]) for row in csv.reader(table.open())}) == 1

    def test_tests_leave_out_nothing(self, scans):
        data = EpisodeDataModule([16, 16], {"scans": source(scans)}, {"denoising": tasks.Denoising()}, quarantine=1.0)
        assert data.make_dataset("train").quarantine.limit == 1
        assert data.make_dataset("test").quarantine.limit == 0


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("task", [tasks.Segmentation(negatives=0.5), tasks.Denoising(), tasks.Inpainting()])
def test_constant_images_and_empty_masks_train_to_finite_numbers(tmp_path, look, labels, task):
    data = {"scans": source(write_scans(tmp_path, look, labels), min_content=0.0)}
    drawn = EpisodeDataset(data, {"task": task}, "train", 4, [16, 16])
    if not labels and task.is_label:
        assert drawn.pairs == []
        return
    batch = Episode.collate([drawn[index] for index in range(4)])
    objective = Objective(label_regression=1, cross_entropy=1, dice=1, gradient=1)
    network = CanvasViT([16, 16], width=16, depth=1, heads=1, objective=objective)
    loss = network.loss(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


class Crashing(EpisodeDataset):
    """Does to the process of the loader what it is told."""

    how = None

    def __getitem__(self, index):
        if index == 13:
            self.how()
        return super().__getitem__(index)


def fail():
    raise RuntimeError("the child's own words")


def leave():
    os._exit(1)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def words(log, loader, between):
    """Writes what an epoch raises, between its batches or in them."""
    try:
        for _ in loader:
            between()
    except Exception as error:
        log.write_text(f"{type(error).__name__}: {error}")


def said(log, loader, between=lambda: None):
    """Runs an epoch in a process of its own, as a signal handler that is left behind could end the test run."""
    process = multiprocessing.get_context("fork").Process(target=words, args=(log, loader, between), daemon=False)
    process.start()
    process.join(60)
    process.kill()
    assert process.exitcode == 0
    return log.read_text()


def kill_one():
    """Kills a process of the loader while nobody waits for it."""
    for child in multiprocessing.active_children()[:1]:
        child.kill()
    time.sleep(0.5)


class TestWorkers:
    @pytest.mark.slow
    @pytest.mark.parametrize("start_method", ["fork", "spawn"])
    @pytest.mark.parametrize(
        ("how", "expected"),
        [(fail, "RuntimeError: .*the child's own words"), (leave, "exited with status 1"), (die, "killed by SIGKILL")],
    )
    def test_crash_ends_soon_and_says_why(self, scans, how, expected, start_method):
        drawn = episodes(scans)
        drawn.__class__, drawn.how = Crashing, how
        text = said(scans / "said.txt", EpisodeLoader(drawn, workers=1, start_method=start_method))
        assert re.search(expected, text, re.DOTALL)
        assert (how is fail) or re.match(r"LostProcess: process \d+ of the data loader .*`data.workers`", text)

    @pytest.mark.slow
    @pytest.mark.parametrize("start_method", ["fork", "spawn"])
    def test_death_between_batches_is_told_by_the_next(self, scans, start_method):
        loader = EpisodeLoader(episodes(scans), workers=1, start_method=start_method)
        assert said(scans / "said.txt", loader, kill_one).startswith("LostProcess: process ")

    def test_signal_handler_is_put_back(self, scans):
        before = signal.getsignal(signal.SIGCHLD)
        assert len(list(EpisodeLoader(episodes(scans, length=8), workers=1))) == 2
        assert signal.getsignal(signal.SIGCHLD) is before

    @pytest.mark.slow
    def test_spawned_processes_make_the_same_episodes(self, scans):
        drawn = episodes(scans, length=8)
        here, there = EpisodeLoader(drawn), EpisodeLoader(drawn, workers=1, start_method="spawn")
        for one, other in zip(here, there, strict=True):
            assert torch.equal(one.image, other.image)

    def test_memory_and_handles_do_not_grow(self, scans):
        loader = EpisodeLoader(episodes(scans, length=400, remembered=4))
        used = []
        for number, _ in enumerate(loader):
            if number in (40, 99):
                gc.collect()
                resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
                used.append((resident, len(os.listdir("/proc/self/fd"))))
        assert used[1][0] - used[0][0] < 8 << 20
        assert used[1][1] <= used[0][1]

    def test_unknown_start_method_is_refused(self):
        with pytest.raises(ValueError, match="`start_method` must be one of"):
            EpisodeDataModule([16, 16], {}, {}, start_method="thread")


def test_full_disk_is_loud_and_the_checkpoint_before_stays(scans, monkeypatch, capsys):
    """A limit on the size of files stands in for a full disk: writing fails in the same place."""
    monkeypatch.chdir(scans)
    Path("tiny.yaml").write_text(CONFIG)
    main(["fit", "--config", "tiny.yaml"])
    before = Path("runs/tiny/checkpoints/last.ckpt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(SystemExit) as ended:
            main(["fit", "--config", "tiny.yaml", "--resume", "--trainer.max_epochs=2"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert ended.value.code == 2
    assert "could not be written" in capsys.readouterr().err
    assert Path("runs/tiny/checkpoints/last.ckpt").read_bytes() == before


CONFIG = """
trainer: {max_epochs: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false, logger: false}
model:
  network: {class_path: mvg.models.CanvasViT, init_args: {image_size: [16, 16], width: 16, depth: 1, heads: 1}}
data:
  sources:
    scans: {class_path: mvg.data.FolderSource, init_args: {root: ., class_names: {labels: {1: organ}}, cache: cache}}
  tasks: {denoising: {class_path: tasks.Denoising}}
  batch_size: 4
  epoch_length: 8
  val_length: 2
"""


def test_forked_workers_leave_when_their_own_process_says_so_and_no_other():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    child = context.Process(target=idle_worker, args=(ready,))
    child.start()
    assert ready.wait(120)
    subprocess.run(["kill", "-TERM", str(child.pid)], check=True)
    child.join(1)
    assert child.is_alive()
    child.terminate()
    child.join(60)
    assert child.exitcode == 0


def idle_worker(ready):
    start_worker(0)
    ready.set()
    time.sleep(300)
