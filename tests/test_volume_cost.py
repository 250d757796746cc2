"""What is measured of volumes: examples read from disk, and rows that name both sides."""

from benchmarks import volume_cost
from benchmarks.speed import LONG, MEASUREMENTS
from benchmarks.volume_cost import StoredPairs, classes_work, measure_pairs, store_volumes, stream_work


def test_examples_on_disk_are_the_same_whenever_they_are_read(tmp_path):
    store_volumes(str(tmp_path), 2, 4)
    first, again = (list(StoredPairs(str(tmp_path), 2)) for _ in range(2))
    assert all(a[0].equal(b[0]) and a[1].equal(b[1]) for a, b in zip(first, again, strict=True))
    assert not first[0][0].equal(first[1][0])
    assert first[0][0].shape == (1, 1, 4, 4, 4)


def test_the_least_peak_of_each_side_counts(monkeypatch):
    peaks = iter([90.0, 120.0, 150.0, 80.0, 100.0, 130.0])
    monkeypatch.setattr(volume_cost, "memory_of", lambda prepare: next(peaks))
    many, mean = measure_pairs(2, name="pairs", width=1)
    assert (many.base, many.ours, many.ratio) == (("2 pairs", 100.0), ("16 pairs", 130.0), 1.3)
    assert (mean.base, mean.ours, mean.ratio) == (("1 pair", 80.0), ("2 pairs", 100.0), 1.25)


def test_what_is_measured_answers_after_all_examples_and_for_all_classes(tmp_path):
    store_volumes(str(tmp_path), 2, 64)
    one, two = (stream_work(str(tmp_path), pairs, 1, 64)() for pairs in (1, 2))
    assert one.shape == (1, 1, 64, 64, 64)
    assert not one.equal(two)
    assert set(classes_work(3, 1, 64, 64)().voxels) == {1, 2, 3}


def test_long_measurements_are_known():
    assert set(LONG) <= set(MEASUREMENTS)
