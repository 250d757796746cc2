"""Items as columns, what preparation leaves behind, and draws whose cost does not depend on the size of the data."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import folder_of_volumes, source_of

from benchmarks import cache as formats
from benchmarks import index as benchmark
from mvg.data import EpisodeDataset, Index, Item
from mvg.data.facts import Facts, join
from mvg.data.items import Items
from mvg.data.store import Store
from tasks import Segmentation

KEYS = ("image", "labels", "labels=1", "labels=2")
ITEMS = st.lists(
    st.builds(
        lambda case, keys, place: Item(f"c{case}", f"p{case // 2}", frozenset(keys), (place or 0) / 3, place),
        st.integers(0, 5),
        st.sets(st.sampled_from(KEYS)),
        st.none() | st.integers(0, 3),
    ),
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(items=ITEMS, wanted=st.sets(st.sampled_from([*KEYS, "t1"])))
def test_columns_hold_the_items_and_find_what_they_offer(items, wanted):
    index = Index(items)
    assert list(index.columns) == items
    assert index.find(tuple(wanted)).tolist() == [n for n, item in enumerate(items) if wanted <= item.keys]
    assert index.keys == frozenset().union(*(item.keys for item in items))
    assert [index.columns.groups[n] for n in index.groups] == [item.group for item in items]


@settings(max_examples=60, deadline=None)
@given(items=ITEMS.filter(bool), query=ITEMS.filter(bool), near=st.none() | st.floats(0, 1), same=st.booleans())
def test_context_is_allowed_by_patient_place_and_distance(items, query, near, same):
    query = query[0]
    other = [(i.case, i.slice) != (query.case, query.slice) if same else i.group != query.group for i in items]
    close = [near is None or abs(item.position - query.position) <= near for item in items]
    found = Items.gather(items).allowed(np.arange(len(items)), query, near, same)
    assert found.tolist() == [a and b for a, b in zip(other, close, strict=True)]


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_facts_of_cases_survive_being_joined(counts, seed):
    rng = np.random.default_rng(seed)
    parts = [Facts.of({"t1": rng.random(n)}, {"labels": {"3": rng.integers(0, 2, n)}}) for n in counts]
    joined, start = join(list(zip(counts, parts, strict=True))), 0
    for count, part in zip(counts, parts, strict=True):
        again = joined.part(start, start + count)
        assert np.array_equal(again.content["t1"], part.content["t1"])
        numbers = again.marks["labels=3"][0].tolist() if "labels=3" in again.marks else []
        assert numbers == part.marks["labels=3"][0].tolist()
        start += count


def simulated(tmp_path, cases):
    manifest = benchmark.simulate(tmp_path / str(cases), cases, 30, 6)
    source = benchmark.open_source(manifest)
    return EpisodeDataset({"s": source}, {"t": Segmentation()}, "train", 1 << 20, (16, 16), context_size=4, near=0.2)


@pytest.mark.parametrize("cases", [100, 1000])
def test_a_draw_looks_at_as_many_items_whatever_their_number(tmp_path, monkeypatch, cases):
    looked, allowed, episodes = [], Items.allowed, simulated(tmp_path, cases)
    monkeypatch.setattr("mvg.data.choice._TRIES", 1)
    monkeypatch.setattr("mvg.data.choice._MANY", (16, 64, 256))
    monkeypatch.setattr(Items, "allowed", lambda *args: (looked.append(len(args[1])), allowed(*args))[1])
    plans = [episodes.plan(index, np.random.default_rng(index)) for index in range(300)]
    assert all(len(set(plan.items)) == 5 for plan in plans)
    assert 4 < max(looked) <= 256 < len(episodes.sources["s"].items("train")) // 6


def test_plans_depend_on_seed_epoch_and_index_alone(tmp_path):
    first, again = simulated(tmp_path, 100), None
    again = EpisodeDataset(first.sources, first.tasks, "train", 9, (16, 16), context_size=4, near=0.2)
    drawn = [first.plan(n, first._rng(n, 0)) for n in range(9)]
    assert drawn == [again.plan(n, again._rng(n, 0)) for n in reversed(range(9))][::-1]
    again.set_epoch(1)
    assert drawn != [again.plan(n, again._rng(n, 0)) for n in range(9)]


def test_cases_prepared_before_a_crash_are_not_prepared_again(tmp_path, monkeypatch):
    source, done = source_of(folder_of_volumes(tmp_path)), []
    prepare = type(source)._prepare

    def crash(self, case, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(case)
        return prepare(self, case, *rest)

    monkeypatch.setattr(type(source), "_prepare", crash)
    with pytest.raises(KeyboardInterrupt):
        source.items("train")
    monkeypatch.setattr(
        type(source), "_prepare", lambda self, case, *rest: (done.append(case), prepare(self, case, *rest))[1]
    )
    items = source_of(tmp_path).items("train")
    assert sorted(done) == ["p0", "p1", "p2", "p3"]
    fresh = source_of(tmp_path, cache=str(tmp_path / "other"))
    assert list(items) == list(fresh.items("train"))
    assert not [name for name in os.listdir(source.folder) if name.endswith(".json") and name != "index.json"]


def test_one_case_more_keeps_what_is_known_of_the_others(tmp_path):
    source_of(folder_of_volumes(tmp_path, cases=3)).items("train")
    folder_of_volumes(tmp_path, cases=4)
    items = source_of(tmp_path).items("train")
    assert list(items) == list(source_of(tmp_path, cache=str(tmp_path / "other")).items("train"))


@pytest.mark.parametrize("how", ["cut", "flip", "gone"])
def test_a_damaged_index_is_made_again(tmp_path, how):
    source = source_of(folder_of_volumes(tmp_path))
    before = list(source.items("train"))
    (path,) = source.folder.glob("facts-*.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink() if how == "gone" else path.write_bytes(content if how == "flip" else content[:-100])
    assert Store(source.folder).find("p0", source.records()["p0"]["stamp"]) is None
    assert list(source_of(tmp_path).items("train")) == before


@pytest.mark.parametrize("kind", ["nii.gz", "parts", "map", "zarr", "blosc2"])
def test_every_format_of_the_cache_benchmark_returns_what_was_written(tmp_path, kind, monkeypatch):
    pytest.importorskip(formats.FORMATS[kind].needs, reason="the package of this format is optional")
    monkeypatch.setattr(formats, "SHAPE", (70, 66, 65))
    found = formats.measure(kind, tmp_path, reads=3, shape=(70, 66, 65))
    assert min(found["size"], found["write"], found["slice"], found["patch"]) > 0
    assert " 1 |" in formats.table({"nii.gz": found, kind: found})
