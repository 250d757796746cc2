"""The speed benchmark: turns, goals, and whether each measurement measures what it says."""

import os
import platform
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from benchmarks import allocator, data_path, measurements, ranks, shipped_speed, speed
from benchmarks.measurements import Goal, Row
from mvg.data import EpisodeLoader
from mvg.models import CanvasViT

NETWORK = """
class_path: mvg.models.CanvasViT
init_args: {image_size: [16, 16], width: 16, depth: 1, heads: 1}
"""
RUN = """
trainer: {precision: bf16-mixed, gradient_clip_val: 1.0}
model: {network: network.yaml}
data:
  sources: {anatomy: {class_path: mvg.data.synthetic.SyntheticAnatomy, init_args: {image_size: [16, 16]}}}
  tasks: {segmentation: {class_path: tasks.Segmentation}}
  batch_size: 2
  epoch_length: 40
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "network.yaml").write_text(NETWORK)
    (tmp_path / "run.yaml").write_text(RUN)
    return tmp_path / "run.yaml"


def row(ratio=3.0, goal=None, difference=None):
    return Row("remember", "queries in turn", ("plain", 12.0), ("ours", 4.0), "s", ratio, "times", 5, goal, difference)


def test_sides_take_turns():
    order = []
    work = {side: lambda side=side: order.append(side) or side for side in ("plain", "ours")}
    seconds, results = measurements.take_turns(work, repeats=2)
    assert order == ["plain", "ours"] * 2
    assert {side: len(values) for side, values in seconds.items()} == {"plain": 2, "ours": 2}
    assert results == {"plain": "plain", "ours": "ours"}


def test_turns_end_with_the_budget():
    for budget, most in ((0.5, 2), (0.0, 1)):
        seconds, _ = measurements.take_turns({"plain": lambda: time.sleep(0.2)}, repeats=50, budget=budget)
        assert 1 <= len(seconds["plain"]) <= most


@pytest.mark.parametrize(
    ("ratio", "goal", "difference", "passed"),
    [
        (3.0, Goal(3), 0.0, True),
        (2.9, Goal(3), 0.0, False),
        (4.9, Goal(5, least=False), None, True),
        (5.0, Goal(5, least=False), None, False),
        (9.0, Goal(3), 0.1, False),
        (9.0, None, float("nan"), False),
        (9.0, None, 0.0, None),
    ],
)
def test_a_goal_is_passed_by_the_ratio_and_by_equal_results(ratio, goal, difference, passed):
    assert row(ratio, goal, difference).passed is passed


def test_a_line_has_a_cell_for_each_column():
    cells = speed.line(row(goal=Goal(3), difference=1e-6)).strip("| ").split(" | ")
    assert cells[:4] == ["remember: queries in turn", "at least 3", "plain 12 s", "ours 4 s"]
    assert cells[4:] == ["3.00 times", "5", "yes", "1.0e-06"]
    assert {text.count("|") for text in [*speed.HEADER.splitlines(), speed.line(row())]} == {9}


def test_a_faster_side_has_a_larger_ratio_and_unequal_results_are_seen():
    work = {
        "plain": lambda: time.sleep(0.2) or torch.zeros(3),
        "ours": lambda: time.sleep(0.02) or torch.tensor([0, 0.5, 0]),
    }
    made = measurements.speed_row("name", "title", work, repeats=3)
    assert made.ratio > 2
    assert made.base[1] > 0.2 > made.ours[1]
    assert made.difference == 0.5


def test_remembering_reads_the_context_once_and_answers_the_same():
    network, reads = CanvasViT((16, 16), width=16, depth=2, heads=1).eval(), []
    read = network.remember
    network.remember = lambda *context: reads.append(1) or read(*context)
    context = torch.rand(1, 3, 1, 16, 16), torch.rand(1, 3, 1, 16, 16)
    work = measurements.remember_work(network, context, torch.rand(5, 1, 16, 16))
    ours, once = work["ours"](), len(reads)
    torch.testing.assert_close(work["plain"](), ours, rtol=1e-5, atol=1e-5)
    assert (once, len(reads)) == (1, 6)
    assert ours.std(0).max() > 0


def take(megabytes):
    return lambda: torch.ones(megabytes * 2**20 // 4).sum()


def test_memory_is_that_of_the_work_alone():
    assert 450 < measurements.memory_of(partial(take, 512)) < 600


def test_relative_attention_is_compared_in_time_and_memory(monkeypatch):
    monkeypatch.setattr(measurements, "memory_of", lambda prepare: measurements.added_memory(prepare, 1) + 1)
    rows = measurements.measure_attention(1, name="tiny", width=16, heads=2, depth=2, grid=(4, 3))
    assert [made.name for made in rows] == ["tiny", "tiny memory"]
    assert rows[0].difference < 1e-4
    assert "64 x 48, patches of 16, 2 blocks" in rows[0].title


def wait_of(config, monkeypatch, slow, seconds=0.05):
    """Share of the time that training waits, where reading or the loss sleeps."""
    module, data, options = data_path.load_run(config)
    owner, name = (data.sources["anatomy"], "read") if slow == "read" else (module.network, "loss")
    work = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: time.sleep(seconds) or work(*args), raising=False)
    waited, total = data_path.waiting(module, data, 4, **options)
    return waited / total


@pytest.mark.filterwarnings("ignore")
def test_training_waits_for_slow_data_and_not_for_a_slow_network(config, monkeypatch):
    monkeypatch.setattr(data_path, "WARM", 2)
    assert wait_of(config, monkeypatch, "read") > 0.6
    assert wait_of(config, monkeypatch, "loss", 0.5) < 0.4


@pytest.mark.filterwarnings("ignore")
def test_the_share_of_waiting_is_per_cent_of_the_configured_run(config, monkeypatch):
    monkeypatch.setattr(data_path, "WARM", 2)
    (made,) = data_path.measure_waiting(2, name="data-path", config=config, steps=3, goal=Goal(101, least=False))
    assert made.ratio == pytest.approx(100 * made.ours[1] / made.base[1])
    assert made.passed
    assert "6 training steps of run.yaml, batches of 2, workers 0" in made.title


def test_making_episodes_is_compared_with_using_them(config):
    (made,) = data_path.measure_synthetic(1, name="synthetic", config=config, batches=4, steps=2)
    assert made.ratio == pytest.approx(made.ours[1] / made.base[1])
    assert min(made.ours[1], made.base[1]) > 0


def test_every_turn_makes_new_episodes(config):
    dataset, seen = data_path.load_run(config, epoch_length=4)[1].make_dataset("train"), []
    read = dataset.read
    dataset.read = lambda source, item: seen.append(item.case) or read(source, item)
    work = data_path.drawing_work(EpisodeLoader(dataset), dataset)
    assert [work() for _ in range(3)] == [4, 4, 4]
    assert len(set(seen)) == len(seen) == 3 * 4 * 2


def test_what_cannot_be_measured_says_so(monkeypatch, capsys):
    monkeypatch.delenv("MVG_DATA", raising=False)
    threads = torch.get_num_threads()
    speed.main(["data-path-folders", "--threads", str(threads)])
    said = capsys.readouterr().out
    assert "data-path-folders was not measured: it needs MVG_DATA" in said
    assert platform.node() not in said
    assert f"{threads} threads, torch {torch.__version__}" in said


def test_speed_names_what_it_can_measure(capsys):
    with pytest.raises(SystemExit):
        speed.main(["nonsense"])
    assert "valid names are relative-384, relative-large, remember, remember-8" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_take_steps_of_the_same_batch_on_the_same_threads(config):
    (measured,) = ranks.measure_processes(1, name="processes", config=config, steps=3)
    assert min(measured.base[1], measured.ours[1]) > 0
    assert measured.ratio == pytest.approx(measured.base[1] / measured.ours[1])


@pytest.mark.slow
def test_steps_are_timed_with_and_without_the_setting_of_the_allocator(config, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    (measured,) = allocator.measure_allocator(1, name="allocator", config=config, steps=3)
    assert measured.ratio == pytest.approx(measured.base[1] / measured.ours[1])
    assert "GLIBC_TUNABLES" not in os.environ


def test_processes_of_a_block_alone_see_its_variable(monkeypatch):
    monkeypatch.setenv("MVG_TEST", "before")
    with allocator.environment("MVG_TEST", "within"):
        code = "import os; print(os.environ['MVG_TEST'])"
        assert subprocess.check_output([sys.executable, "-c", code], text=True) == "within\n"
    assert os.environ["MVG_TEST"] == "before"


def test_another_c_library_is_not_measured(config, monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with pytest.raises(measurements.NotMeasuredError, match="glibc"):
        allocator.measure_allocator(1, name="allocator", config=config)


def test_answers_of_shipped_weights_are_timed_in_both_precisions():
    (loading,) = shipped_speed.measure_loading(1, name="shipped-loading")
    (image,) = shipped_speed.measure_image(2, name="shipped-image", side=32)
    (volume,) = shipped_speed.measure_volume(1, name="shipped-volume", side=20)
    for row in (image, volume):
        assert row.ratio > 0
        assert [side[0] for side in (row.base, row.ours)] == ["32 bits", "bf16"]
    assert min(loading.base[1], loading.ours[1]) > 0
