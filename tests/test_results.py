"""The records that are kept here can be read, belong to the suite of now, and hold what every entrant was asked."""

from pathlib import Path

import pytest

from benchmarks.contest import GROUPS, VOLUME_SETS, VOLUME_TASKS, names
from benchmarks.records import read_all
from benchmarks.standings import to_frame
from benchmarks.suite import load_suite

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks/results/open_small"


@pytest.fixture(scope="module")
def frame():
    return to_frame(read_all([KEPT]))


def test_records_do_not_contradict_each_other_and_are_of_the_suite_of_now(frame):
    assert set(frame["suite"]) == {load_suite(ROOT / "configs/suites/open_small.yaml").name}
    assert set(frame["shot"]) == {0, 1, 4}


def test_every_entrant_of_the_contest_is_there_with_what_it_was_asked(frame):
    assert {path.name for path in KEPT.iterdir()} >= set(names())
    unit = ["dataset", "task", "variant", "structure", "case"]
    for shot in (1, 4):
        asked = {
            entrant: set(map(tuple, rows[unit].drop_duplicates().to_numpy()))
            for entrant, rows in frame[frame["shot"] == shot].groupby("entrant")
        }
        everything = asked["mean"]
        for entrant in ("ours", "painter", "lvm", "mvg_released", "mvg_paper", "nearest"):
            assert asked[entrant] == everything
        for group, kinds in GROUPS.items():
            assert asked[f"ours-{group}"] == {each for each in everything if each[1] in kinds}
        for entrant in ("ours_volumes", "medverse", "neuroverse3d"):
            assert asked[entrant] == {e for e in everything if e[0] in VOLUME_SETS and e[1] in VOLUME_TASKS}


def test_nobody_was_trained_on_what_is_unseen(frame):
    rows = frame[frame["dataset"].isin(["spine", "nuclei"])]
    assert not any(set(words.split(";")) & {"spine", "nuclei"} for words in rows["trained_on"])
