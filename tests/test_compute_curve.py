"""Scores against minutes of training: what is asked, what is drawn, and that nothing is asked twice."""

import re

import pytest
from test_suites import network
from test_suites import suite as suite

from benchmarks import compute_curve, records
from benchmarks.compute_curve import read_moments
from benchmarks.trained import Trained


def ask(suite, folder, *options):
    moments = []
    for minutes in (30, 5):
        if not (place := folder / f"run-{minutes}/weights").exists():
            network(place)
        moments.append(f"{minutes}={place}")
    words = ["--suite", str(suite), "--output", str(folder / "out"), "--precision", "32", "--shot", "1"]
    compute_curve.main([*moments, *words, *options])


def test_a_column_for_each_moment_in_order_and_a_second_start_asks_nothing(suite, tmp_path, capsys, monkeypatch):
    ask(suite, tmp_path, "--datasets", "pictures", "--tasks", "segmentation")
    text = capsys.readouterr().out
    head, _, row = text.splitlines()
    assert head == "| task | data set | metric | 5 min | 30 min |"
    assert re.fullmatch(r"\| segmentation \| pictures \| dice \| [\d.]+ \| [\d.]+ \|", row)
    assert (tmp_path / "out/curve.png").stat().st_size > 1000
    assert (tmp_path / "out/table.md").read_text() == text
    found = [record.value for record in records.read(tmp_path / "out/5") if record.metric == "dice"]
    assert row.split("|")[4].strip() == f"{sum(found) / len(found):.3f}"
    monkeypatch.setattr(Trained, "set_context", None)
    ask(suite, tmp_path, "--datasets", "pictures", "--tasks", "segmentation")
    assert capsys.readouterr().out == text


def test_unseen_sets_are_asked_at_the_end_alone(suite, tmp_path, capsys):
    with pytest.raises(SystemExit):
        ask(suite, tmp_path, "--datasets", "scans")
    assert "scans may decide nothing" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["weights"], ["x=weights"], ["-1=weights"], ["5="], ["inf=a"], ["5=a", "5.0=b"]])
def test_moments_that_mean_nothing_are_refused(words):
    with pytest.raises(ValueError, match=r"MINUTES=FOLDER|twice"):
        read_moments(words)
