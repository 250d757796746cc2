import gzip
import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from benchmarks.commands import benchmark
from benchmarks.leaderboard.pictures import Picture, embed
from benchmarks.overall import at_every_shot, by_task, overall
from benchmarks.records import Record, read_all, to_csv, write
from benchmarks.standings import boards, to_frame
from benchmarks.statistics import (
    clustered_means,
    holm,
    kendall,
    resample,
    shared_ranks,
    sign_flip_test,
    sign_flip_tests,
)

BASE = Record(
    suite="small@000000000000", protocol="1", dataset="liver", task="segmentation", variant="", structure="liver",
    modality="CT", entrant="ours", entrant_hash="ours", trained_on=(), case="c0", patient="p0", case_hash="c0", shot=1,
    draw=0, context_hash="x", metric="dice", value=0.5, unit="", higher_is_better=True, failure="", unseen=(),
    seconds=0.1, version="0",
)  # fmt: skip


def record(entrant="ours", case=0, value=0.5, **changes):
    name = f"c{case}"
    made = {"entrant_hash": entrant, "case": name, "patient": f"p{case // 2}", "case_hash": name}
    return replace(BASE, entrant=entrant, value=value, **{**made, **changes})


def made_up(entrants=3, cases=8, seed=0, **changes):
    """Records of entrants whose quality falls with their number."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.05, cases)
    return [
        record(f"e{n}", case, float(np.clip(0.8 - 0.1 * n + hard[case] + rng.normal(0, 0.02), 0, 1)), **changes)
        for n in range(entrants)
        for case in range(cases)
    ]


def board_of(records, **options):
    (found,) = boards(records, samples=200, **options)
    return found


def facts(found):
    return [(s.entrant, s.rank, s.mean, s.low, s.high, s.rank_low, s.rank_high, s.first) for s in found.standings]


class TestStatistics:
    def test_clustered_mean_is_that_of_repeated_cases(self):
        rng = np.random.default_rng(0)
        values, patient = rng.random((9, 2)), np.array([0, 0, 1, 2, 2, 2, 3, 3, 1])
        stratum, counts = np.array([0, 1, 0, 1, 0, 0, 1, 0, 1]), resample(4, 20, rng)
        for count, found in zip(counts, clustered_means(values, patient, stratum, counts), strict=True):
            times = count[patient].astype(int)
            held, level = np.repeat(values, times, 0), np.repeat(stratum, times)
            assert found == pytest.approx(np.mean([held[level == s].mean(0) for s in set(level)], 0))

    def test_bootstrap_error_is_that_of_the_mean(self):
        rng = np.random.default_rng(1)
        values = rng.normal(size=(400, 1))
        places, one = np.arange(400), np.zeros(400, np.int64)
        spread = clustered_means(values, places, one, resample(400, 3000, rng)).std()
        assert spread == pytest.approx(stats.sem(values[:, 0]), rel=0.1)

    @pytest.mark.parametrize("number", [3, 7, 11])
    def test_exact_permutation_test_is_scipys(self, number):
        difference = np.random.default_rng(number).normal(0.5, 1, number)
        expected = stats.permutation_test(
            (difference,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
        ).pvalue
        assert sign_flip_test(difference, np.random.default_rng(0)) == pytest.approx(expected)

    def test_random_permutation_test_comes_close_to_the_t_test(self):
        difference = np.random.default_rng(5).normal(0.3, 1, 60)
        expected = stats.ttest_1samp(difference, 0).pvalue
        assert sign_flip_test(difference, np.random.default_rng(0)) == pytest.approx(expected, abs=0.02)

    @pytest.mark.parametrize("number", [1, 5, 20])
    def test_comparisons_are_tested_together_as_alone(self, number):
        differences = np.random.default_rng(number).normal(0.3, 1, (number, 4))
        alone = [sign_flip_test(column, np.random.default_rng(0)) for column in differences.T]
        assert sign_flip_tests(differences, np.random.default_rng(0)) == pytest.approx(alone)

    def test_pairs_are_tested_on_the_patients_that_both_have(self):
        records = [r for r in made_up(3, cases=12, metric="hd95", higher_is_better=False)]
        lacking = [r for r in records if (r.entrant, r.patient) != ("e1", "p0")]
        tests = board_of(lacking).tests.set_index(["first", "second"])
        assert tests["patients"].to_dict() == {("e0", "e1"): 5, ("e0", "e2"): 6, ("e1", "e2"): 5}
        rest = board_of([r for r in records if r.patient != "p0"]).tests.set_index(["first", "second"])
        for pair in (("e0", "e1"), ("e1", "e2")):
            assert tests.loc[pair, "p"] == rest.loc[pair, "p"]
            assert tests.loc[pair, "difference"] == pytest.approx(rest.loc[pair, "difference"])

    def test_permutation_test_keeps_its_level(self):
        rng = np.random.default_rng(0)
        found = [sign_flip_test(rng.normal(size=20), rng, 500) for _ in range(300)]
        assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.09

    @given(st.lists(st.floats(0, 1), max_size=8))
    def test_holm_is_the_step_down_definition(self, p):
        found = holm(p)
        order = sorted(range(len(p)), key=lambda i: p[i])
        for place, index in enumerate(order):
            steps = [(len(p) - j) * p[order[j]] for j in range(place + 1)]
            assert found[index] == pytest.approx(min(1, max(steps)))

    @given(st.lists(st.integers(0, 3), min_size=2, max_size=7), st.randoms())
    def test_kendall_is_scipys(self, ranks, random):
        other = [random.randint(0, 3) for _ in ranks]
        found = kendall(np.array([ranks], float), np.array(other, float))[0]
        assert found == pytest.approx(stats.kendalltau(ranks, other).statistic, nan_ok=True)

    def test_equal_values_share_a_rank_and_unrounded_ones_do_not(self):
        assert [*shared_ranks(np.array([0.5, 0.7, 0.7, 0.70000001]))] == [4, 2, 2, 1]
        assert [*shared_ranks(np.array([0.5, 0.7, 0.7]), higher=False, mean=True)] == [1, 2.5, 2.5]


class TestBoards:
    @settings(max_examples=10, deadline=None)
    @given(st.randoms())
    def test_order_of_the_records_changes_nothing(self, random):
        records = made_up() + made_up(2, seed=1, task="denoising", metric="psnr", unit="dB")
        shuffled = random.sample(records, len(records))
        for one, other in zip(boards(records, 50), boards(shuffled, 50), strict=True):
            assert facts(one) == facts(other)
            assert one.tests.equals(other.tests)
        assert repr(overall(boards(records, 50))) == repr(overall(boards(shuffled, 50)))  # means may be NaN

    def test_draws_are_averaged_before_cases(self):
        drawn = [record("a", 0, v, draw=d) for d, v in enumerate([0.2, 0.4])] + [record("a", 1, 0.9)]
        drawn += [record("b", 0, 0.0, draw=d) for d in range(2)] + [record("b", 1, 0.0)]
        assert board_of(drawn).standings[0].mean == pytest.approx((0.3 + 0.9) / 2)

    def test_structures_count_alike_however_many_cases_they_have(self):
        records = [record("a", n, 1.0) for n in range(9)] + [record("a", 0, 0.0, structure="tumour")]
        assert board_of(records).standings[0].mean == pytest.approx(0.5)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 23), st.sampled_from(["dice", "hd95"]))
    def test_nobody_gains_by_leaving_a_case_out(self, left_out, metric):
        records = made_up(metric=metric, higher_is_better=metric == "dice")
        name = records[left_out].entrant
        before = next(s for s in board_of(records).standings if s.entrant == name)
        after = next(s for s in board_of(records[:left_out] + records[left_out + 1 :]).standings if s.entrant == name)
        assert after.rank >= before.rank
        assert (after.mean < before.mean) if metric == "dice" else after.mean == math.inf
        assert (before.missing, after.missing) == (0, 1)

    def test_missing_draw_is_charged(self):
        records = [record(e, c, 0.6, draw=d) for e in "ab" for c in range(4) for d in range(2)]
        last = board_of(records[:-1]).standings[-1]
        assert (last.entrant, last.missing, last.mean) == ("b", 1, pytest.approx(0.6 - 0.3 / 4))

    def test_entrant_without_examples_stands_on_every_board_and_lacks_no_draw(self):
        records = [record("a", c, 0.6, shot=s, draw=d) for c in range(4) for s in (1, 4) for d in range(2)]
        records += [record("unet", c, 0.7, shot=0, context_hash="") for c in range(4)]
        for found in boards(records, 20):
            assert [(s.entrant, s.missing) for s in found.standings] == [("unet", 0), ("a", 0)]

    def test_what_nobody_was_asked_with_so_many_examples_is_missing_for_nobody(self):
        records = [record("a", c, 0.6, shot=s) for c in range(4) for s in (1, 4)]
        records += [record("a", c, 0.6, shot=1, structure="rare") for c in range(4)]
        records += [record("query", c, 0.2, shot=0, structure=s) for c in range(4) for s in (BASE.structure, "rare")]
        for found in boards(records, 20):
            assert [(s.entrant, s.missing) for s in found.standings] == [("a", 0), ("query", 0)]
            assert len(found.parts) == 2 * (1 + (found.shot == 1))

    def test_ties_share_a_rank_and_rounding_makes_none(self):
        records = [record(e, c, v) for e, v in (("a", 0.7), ("b", 0.7), ("c", 0.7 - 1e-9)) for c in range(4)]
        assert [(s.entrant, s.rank) for s in board_of(records).standings] == [("a", 1), ("b", 1), ("c", 3)]

    def test_clear_differences_are_found_and_the_leader_is_first_in_all_samples(self):
        found = board_of(made_up(cases=40))
        assert [s.entrant for s in found.standings] == ["e0", "e1", "e2"]
        assert all(s.p < 0.01 and s.low < s.mean < s.high for s in found.standings[1:])
        assert (found.standings[0].first, found.standings[2].first, found.tau) == (1.0, 0.0, pytest.approx(1.0))

    def test_more_cases_of_the_same_patients_do_not_narrow_the_interval(self):
        def width(copies):
            rows = [
                record("a", n, v, patient=f"p{n % 6}") for n, v in enumerate([0.1, 0.3, 0.5, 0.7, 0.2, 0.9] * copies)
            ]
            return board_of(rows).standings[0].high - board_of(rows).standings[0].low

        assert width(1) == pytest.approx(width(5))

    def test_contamination_and_failures_are_counted(self):
        records = [record("a", c, 0.5, trained_on=("Liver", "ct")) for c in range(3)]
        records += [record("b", c, 0.0 if c else 0.5, failure="missed" if c else "") for c in range(3)]
        found = {s.entrant: (s.contaminated, s.failures) for s in board_of(records).standings}
        assert found == {"a": (True, 0), "b": (False, 2)}

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({}, "recorded twice"),
            ({"value": 0.4}, "recorded twice"),
            ({"draw": 1, "entrant_hash": "else"}, "entrant_hash"),
            ({"draw": 1, "case_hash": "else"}, "case_hash"),
            ({"draw": 1, "higher_is_better": False}, "higher_is_better"),
        ],
    )
    def test_contradicting_records_are_refused(self, change, said):
        with pytest.raises(ValueError, match=said):
            to_frame([record(), replace(record(), **change)])

    def test_one_board_holds_those_who_saw_the_data_set_and_those_who_did_not(self):
        records = [record("a", unseen=("dataset", "organ")), record("b", unseen=("organ",))]
        (board,) = boards(records, samples=2)
        assert board.unseen == "organ"
        assert len(board.standings) == 2

    def test_protocols_and_unseen_groups_are_never_mixed(self):
        records = [record("a"), record("b", protocol="2"), record("a", 1, unseen=("centre",))]
        assert [len(found.standings) for found in boards(records, 10)] == [1, 1, 1]


class TestOverall:
    def test_mean_of_ranks_and_scores(self):
        records = made_up(cases=20) + made_up(cases=20, seed=3, dataset="spleen")
        records += [
            record(f"e{n}", c, 20.0 + 4 * n, task="denoising", metric="psnr", unit="dB")
            for n in range(3)
            for c in range(4)
        ]
        (found,) = overall(boards(records, 50))
        assert (found.boards, found.tasks) == (3, 2)
        assert {p.entrant: p.mean_rank for p in found.places} == {"e0": 2, "e1": 2, "e2": 2}
        assert {p.rank for p in found.places} == {1}
        best = next(p for p in found.places if p.entrant == "e2")
        dice = np.mean([b.standings[2].mean for b in boards(records, 50) if b.metric == "dice"])
        assert best.score == pytest.approx((dice + 28 / 40) / 2)

    def test_staying_away_from_a_board_costs_the_last_place(self):
        records = made_up(cases=6) + made_up(2, cases=6, dataset="spleen")
        (found,) = overall(boards(records, 20))
        assert found.places[-1].entrant == "e2"
        assert (found.places[-1].mean_rank, found.places[-1].boards) == (3, 1)

    def test_who_was_not_asked_a_task_is_charged_overall_and_absent_from_its_order(self):
        records = made_up(3) + [
            record(f"e{n}", c, 20.0, task="denoising", metric="psnr", unit="dB") for n in (1, 2) for c in range(4)
        ]
        made = boards(records, 20)
        (everything,) = overall(made)
        assert [(p.entrant, p.mean_rank) for p in everything.places] == [("e1", 1.75), ("e0", 2.0), ("e2", 2.25)]
        denoising, segmentation = by_task(made)
        assert (denoising.task, [place.entrant for place in denoising.places]) == ("denoising", ["e1", "e2"])
        assert segmentation.places[0].entrant == "e0"

    def test_mean_of_a_task_is_that_of_its_data_sets(self):
        made = boards(made_up(cases=6) + made_up(2, cases=6, seed=2, dataset="spleen"), 20)
        (found,) = by_task(made)
        means = [{s.entrant: s.mean for s in board.standings} for board in made]
        for place in found.places:
            assert place.mean == pytest.approx(sum(each.get(place.entrant, 0.0) for each in means) / 2)
            assert place.mean_low <= place.mean <= place.mean_high

    def test_mean_over_different_metrics_is_not_made(self):
        made = boards(made_up() + made_up(dataset="nuclei", metric="ap50"), 20)
        assert all(math.isnan(place.mean) for place in by_task(made)[0].places)

    def test_one_patient_has_no_interval(self):
        (found,) = by_task(boards(made_up(patient="p"), 20))
        assert all(math.isnan(end) for place in found.places for end in (place.mean_low, place.score_high))

    def test_scores_are_followed_over_examples_only_where_all_were_asked(self):
        records = [r for shot in (1, 4) for r in made_up(shot=shot)] + made_up(shot=1, dataset="brain")
        assert {(board.dataset, board.shot) for board in at_every_shot(boards(records, 20))} == {
            ("liver", 1),
            ("liver", 4),
        }


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    records = [r for shot in (1, 4) for r in made_up(shot=shot, trained_on=("liver",))]
    records += [record("<b>bad</b>", c, 0.3, shot=0, context_hash="") for c in range(7)]
    write(folder / "records.csv", records)
    (folder / "pictures").mkdir()
    Image.new("L", (8, 8)).save(folder / "pictures" / "a.png")
    entry = {"file": "a.png", "dataset": "liver", "task": "segmentation", "entrant": "e0", "case": "c1"}
    (folder / "pictures" / "index.json").write_text(json.dumps([{**entry, "place": "best"}]))
    return folder


@pytest.fixture(scope="module")
def board(results):
    benchmark(["leaderboard", str(results), "--output", str(results / "board"), "--samples", "100"])
    return results / "board"


class TestPage:
    def test_page_needs_no_network_and_escapes_names(self, board):
        page = (board / "leaderboard.html").read_text("utf-8")
        assert not re.search(r"https?:|//[a-z]|@import|<link|url\(|src=.(?!data:image/(?:png|webp);base64,)", page)
        assert "&lt;b&gt;bad&lt;/b&gt;" in page
        assert "<b>bad" not in page
        assert len(re.findall("data:image/(?:png|webp);", page)) == 1

    def test_page_is_well_formed(self, board):
        page = (board / "leaderboard.html").read_text("utf-8")
        ids = re.findall(r' id="([^"]+)"', page)
        assert len(ids) == len(set(ids)) >= 6
        for name in ("section", "table", "tr", "td", "th", "svg", "figure", "details", "div", "ul", "span"):
            assert len(re.findall(rf"<{name}[ >]", page)) == page.count(f"</{name}>"), name

    def test_tables_agree_with_the_page(self, board):
        table = pd.read_csv(board / "boards.csv", float_precision="round_trip")
        assert [*table[table["shot"] == 4]["entrant"]] == ["e0", "e1", "e2", "<b>bad</b>"]
        assert [*table["missing"]] == [0, 0, 0, 1] * 2
        page = (board / "leaderboard.html").read_text("utf-8")
        assert all(f'data-v="{mean!r}"' in page for mean in table["mean"].map(float))
        assert "incomplete" in page
        assert "trained on this set" in page

    def test_no_table_has_a_column_for_each_board(self, tmp_path):
        records = [r for n in range(6) for t in range(5) for r in made_up(2, 2, dataset=f"d{n}", task=f"t{t}")]
        write(tmp_path / "records.csv", records)
        benchmark(["leaderboard", str(tmp_path), "--output", str(tmp_path), "--samples", "100"])
        heads = re.findall(r"<thead><tr>(.*?)</tr>", (tmp_path / "leaderboard.html").read_text("utf-8"))
        assert sorted({head.count("<th ") for head in heads}) == [9, 5 + 6, 8 + 5]

    def test_page_says_who_leads_and_who_is_what(self, tmp_path):
        records = made_up(2, cases=4) + [record(e, c, 0.1) for e in ("nearest", "e0, swapped") for c in range(4)]
        records += [record("e0", c, 20.0, task="denoising", metric="psnr", unit="dB") for c in range(4)]
        write(tmp_path / "records.csv", records)
        benchmark(["leaderboard", str(tmp_path), "--output", str(tmp_path), "--samples", "100"])
        page = (tmp_path / "leaderboard.html").read_text("utf-8")
        assert "<b>e0</b> leads after 1 example: mean rank 1.00 of 4" in page
        assert re.search(r'e1 <span class="role">segmentation only<', page)
        assert re.search(r'<tr data-kind="trivial"[^>]*>(?:(?!</tr>).)*nearest <span', page)
        assert re.search(r'<tr data-kind="control"[^>]*>(?:(?!</tr>).)*e0, swapped <span', page)

    def test_pictures_of_leaders_come_first_and_stay_within_the_budget(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
        pictures = []
        for name in ("e1", "e0", "e2"):
            Image.fromarray(noise).save(tmp_path / f"{name}.png")
            facts = {"dataset": "liver", "task": "segmentation", "entrant": name}
            pictures += [Picture(facts, tmp_path / f"{name}.png") for _ in range(2)]
        made = boards(made_up(), 20)
        one = len(pictures[0].encode())
        shown = embed(pictures, made, 2.5 * one)
        assert [picture.facts["entrant"] for picture in shown] == ["e0", "e0"]
        assert embed(pictures, made, 0) == {}
        assert len(embed(pictures, made, 9 * one)) == 6

    def test_markdown_says_the_same(self, board):
        text = (board / "leaderboard.md").read_text("utf-8")
        assert "sha256:" in text
        assert re.search(r"\| 1 \(1-1\) \| e0 \|", text)

    def test_same_records_in_other_files_give_the_same_bytes(self, results, board, tmp_path):
        records = read_all([results / "records.csv"])
        (tmp_path / "records-1.csv.gz").write_bytes(gzip.compress(to_csv(records[::2][::-1]).encode()))
        write(tmp_path / "records-2.csv", records[1::2])
        benchmark(["leaderboard", str(tmp_path), "--output", str(tmp_path / "board"), "--samples", "100"])
        for name in ("boards.csv", "overall.csv", "tasks.csv", "tests.csv", "structures.csv", "leaderboard.md"):
            assert (tmp_path / "board" / name).read_bytes() == (board / name).read_bytes()

    def test_results_given_twice_are_refused(self, results, tmp_path):
        write(tmp_path / "records.csv", read_all([results / "records.csv"])[:1])
        with pytest.raises(ValueError, match="recorded twice"):
            benchmark(["leaderboard", str(results), str(tmp_path), "--output", str(tmp_path / "board")])
        assert not (tmp_path / "board").exists()

    @pytest.mark.parametrize("moved", [0.0, 1e-7])
    def test_what_another_process_repeated_counts_once(self, tmp_path, moved):
        records = made_up()
        again = [replace(r, value=r.value + moved, seconds=9.0) for r in records[:5]]
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
        write(tmp_path / "one/records.csv", records)
        (tmp_path / "two/records-0-of-2.csv").write_text(to_csv(records[:6])[:-9])
        (tmp_path / "two/records.csv").write_text(to_csv([*again, *records[5:]]))
        for folder in ("one", "two"):
            benchmark(["leaderboard", f"{tmp_path}/{folder}", "--output", f"{tmp_path}/{folder}", "--samples", "100"])
        clean, found = ((tmp_path / folder / "boards.csv").read_bytes() for folder in ("one", "two"))
        assert found == clean

    def test_answers_of_other_scores_in_one_folder_are_refused(self, tmp_path):
        write(tmp_path / "records-0-of-2.csv", [record()])
        write(tmp_path / "records.csv", [record(value=0.4)])
        with pytest.raises(ValueError, match=r"recorded as 0\.5 and as 0\.4"):
            benchmark(["leaderboard", str(tmp_path), "--output", str(tmp_path / "board")])

    @pytest.mark.parametrize(
        ("name", "spoil", "said"),
        [
            ("records.csv", lambda text: text.replace(b"c1", b'"c"1', 1), "row 3 is no CSV"),
            ("records.csv", lambda text: text.replace(b"c1", b'"c1', 1), "row 3 is no CSV"),
            ("records.csv.gz", lambda text: gzip.compress(text)[:-99], "cannot be read"),
            ("records.csv.gz", lambda text: b"version https://git-lfs.github.com/spec/v1\n", "cannot be read"),
            ("records.csv", lambda text: text.replace(b"c1", "é".encode("latin-1")), "cannot be read"),
        ],
    )
    def test_damaged_records_are_named(self, tmp_path, name, spoil, said):
        (tmp_path / name).write_bytes(spoil(to_csv(made_up()).encode()))
        with pytest.raises(ValueError, match=f"{name}: .*{said}"):
            benchmark(["leaderboard", str(tmp_path), "--output", str(tmp_path / "board")])

    @pytest.mark.parametrize("content", ["", "[]", '{"asked": [{"cases": 2}]}', '{"entrant": '])
    def test_damaged_run_json_is_named(self, tmp_path, content):
        write(tmp_path / "records.csv", [record()])
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(ValueError, match=r"run\.json: .*delete it"):
            benchmark(["leaderboard", str(tmp_path), "--output", str(tmp_path / "board"), "--samples", "100"])

    def test_negative_seed_is_refused(self, results, tmp_path):
        with pytest.raises(ValueError, match="`seed` must not be negative"):
            benchmark(["leaderboard", str(results), "--output", str(tmp_path / "board"), "--seed", "-1"])

    @pytest.mark.parametrize(
        ("entry", "said"),
        [({"file": "a.png"}, "lacks"), ({"file": "../records.csv"}, "no file"), ({"file": "b.png"}, "PNG")],
    )
    def test_wrong_pictures_are_refused(self, tmp_path, entry, said):
        write(tmp_path / "records.csv", [record()])
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "b.png").write_text("no picture")
        facts = {} if said == "lacks" else {n: "x" for n in ("dataset", "task", "entrant", "case", "place")}
        (tmp_path / "pictures" / "index.json").write_text(json.dumps([{**facts, **entry}]))
        with pytest.raises(ValueError, match=said):
            benchmark(["leaderboard", str(tmp_path), "--output", str(tmp_path / "board")])

    def test_folder_without_records_is_named(self, tmp_path):
        with pytest.raises(ValueError, match="there are no records"):
            benchmark(["leaderboard", str(tmp_path), "--output", str(tmp_path / "board")])
