"""What a few examples are worth: the same questions for all, unseen sets only at the end, runs that go on."""

import numpy as np
import pytest
from test_suites import network
from test_suites import suite as suite

from benchmarks import evidence, records
from benchmarks.evidence import chosen_sets, summary
from benchmarks.scratch import FromScratch
from benchmarks.suite import Question, load_suite
from tasks import Segmentation


def ask(suite, folder, *options):
    trained = folder / "run/weights"
    words = ["--suite", str(suite), "--output", str(folder / "out"), "--weights", str(trained)]
    if not trained.exists():
        network(trained)
    fast = ["--shots", "1", "2", "--draws", "2", "--minutes", "0.003", "--size", "16", "--threads", "1"]
    evidence.main([*words, *fast, *options])


def test_all_answer_the_same_questions_and_a_second_start_asks_nothing(suite, tmp_path, capsys, monkeypatch):
    ask(suite, tmp_path, "--datasets", "pictures")
    text = capsys.readouterr().out
    assert "| data set | patients | structures | draws | examples | network | nearest | mean | U-Net |" in text
    assert "| pictures | 3 | 1 | 2 | 1 |" in text
    assert (tmp_path / "out/curve.png").is_file()
    own = [records.read(tmp_path / "out" / name) for name in ("network", "nearest", "mean", "u-net")]
    assert len({frozenset((r.case, r.shot, r.draw, r.context_hash, r.metric) for r in found) for found in own}) == 1
    monkeypatch.setattr(FromScratch, "set_context", None)
    ask(suite, tmp_path, "--datasets", "pictures")
    assert capsys.readouterr().out == text


def test_volumes_are_cut_into_slices(suite, tmp_path, capsys):
    ask(suite, tmp_path, "--datasets", "scans", "--final", "--shots", "1", "--draws", "1", "--limit", "1")
    assert "| scans (unseen) | 1 | 2 |" in capsys.readouterr().out
    found = records.read(tmp_path / "out/u-net")
    assert {record.structure for record in found} == {"ball", "bar"}
    assert not {record.failure for record in found} & {"error", "invalid", "unanswered"}


def test_unseen_sets_are_asked_at_the_end_alone(suite):
    known = load_suite(suite)
    assert chosen_sets(known, None, final=False) == ["pictures"]
    assert chosen_sets(known, None, final=True) == ["scans", "pictures"]
    with pytest.raises(ValueError, match=r"scans may decide nothing.*--final"):
        chosen_sets(known, ["scans"], final=False)


def test_unet_learns_its_examples(tmp_path):
    rng, paths = np.random.default_rng(0), []
    for number in range(3):
        mask = np.zeros((24, 20), np.uint8)
        mask[4 + number : 14, 5:15] = 1
        paths.append((tmp_path / f"{number}.npy", tmp_path / f"{number}_target.npy"))
        np.save(paths[-1][0], (0.2 * rng.random(mask.shape) + 0.7 * mask).astype(np.float32))
        np.save(paths[-1][1], mask)
    entrant = FromScratch(minutes=0.06, size=16, batch_size=8)
    entrant.ask(Question("a", "segmentation", "", 1, "square", Segmentation()), 2, 2, 0)
    entrant.set_context(*zip(*paths[:2], strict=True))
    answer, true = entrant(paths[2][0]), np.load(paths[2][1])
    assert answer.shape == true.shape
    assert 2 * (answer * true).sum() / (answer.sum() + true.sum()) > 0.7


def record(entrant, draw, value, structure="a", patient="p"):
    words = {"suite": "s", "protocol": "1", "dataset": "d", "task": "segmentation", "variant": "", "modality": "MRI"}
    return records.Record(
        **words, structure=structure, entrant=entrant, entrant_hash="0", trained_on=(), case=patient, patient=patient,
        case_hash="0", shot=1, draw=draw, context_hash=str(draw), metric="dice", value=value, unit="",
        higher_is_better=True, failure="", unseen=(), seconds=0.0, version="0",
    )  # fmt: skip


def test_means_are_over_questions_that_all_have_answered():
    found = [record("network", draw, value) for draw, value in ((0, 0.2), (1, 0.6), (2, 1.0))]
    found += [record("mean", draw, 0.5) for draw in (0, 1)] + [record("network", 0, 0.0, structure="b")]
    rows = summary(found).set_index("entrant")
    assert rows.loc["network", "mean"] == pytest.approx(0.4)
    assert rows.loc["network", "spread"] == pytest.approx(0.2 * 2**0.5)
    assert rows.loc["network", "draws"] == 2
