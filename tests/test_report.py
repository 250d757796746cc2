import math

import pandas as pd
import pytest
import torch

from mvg.controls import CONTROLS, TRIVIAL, control_answers, trivial_answers
from mvg.episode import Episode
from mvg.models import InContextModel
from mvg.report import ENTRANTS, NETWORK, Report, finite, markdown
from mvg.task import Task

METRICS = ("accuracy", "error")


class Follow(InContextModel):
    """Paints the target of its first example, `factor` times."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.image_size, self.in_channels, self.out_channels, self.factor = (4, 4), 1, 1, factor

    def remember(self, context_images, context_targets):
        return context_targets[:, 0]

    def answer(self, image, memory, coarse=None):
        return self.factor * memory

    def loss(self, episode):
        return {}


class Toy(Task):
    """Accuracy of the thresholded paint, and an error that is undefined on empty targets."""

    metrics = {"accuracy": True, "error": False}  # noqa: RUF012
    primary = "accuracy"

    def accepts(self, index):
        return True

    def draw(self, index, rng, training):
        return {}

    def encode(self, subject, spec, rng):
        raise NotImplementedError

    def decode(self, painted, spec):
        raise NotImplementedError

    def score(self, painted, pair, spec):
        right = ((painted > 0.5) == (pair.target > 0.5)).float().mean()
        error = (painted - pair.target).abs().mean() if pair.target.any() else torch.tensor(math.nan)
        return {"accuracy": float(right) * spec.get("worth", 1), "error": float(error)}


TASKS = {"a/x": Toy(), "a/y": Toy()}


def draw(batch=4, context=2, swappable=(True, False, True, False)):
    rng = torch.Generator().manual_seed(0)
    image, target = torch.rand(2, batch, 1, 4, 4, generator=rng)
    images, targets, swapped = torch.rand(3, batch, context, 1, 4, 4, generator=rng)
    swap = {}
    if swappable is not None:
        swap = {
            "swap_targets": swapped.round(),
            "swap_target": swapped[:, 0].round(),
            "swappable": torch.tensor(swappable[:batch]),
            "swap_specs": ({"worth": 2},) * batch,
        }
    return Episode(
        image=image,
        target=target.round(),
        weight=torch.ones_like(image),
        context_images=images,
        context_targets=targets.round(),
        context_weights=torch.ones_like(images),
        is_label=torch.ones(batch, dtype=torch.bool),
        mim=torch.zeros(batch, dtype=torch.bool),
        seed=torch.arange(batch),
        tasks=("a/x", "a/y", "a/x", "a/y")[:batch],
        specs=({},) * batch,
        cases=("p", "q", "r", "s")[:batch],
        context_cases=(("m", "n"),) * batch,
        **swap,
    )


def frame(episode=None, factor=1.0):
    report = Report()
    report.add(Follow(factor), episode or draw(), TASKS)
    return pd.DataFrame(report.records)


class TestAnswers:
    def test_trivial_answers_need_no_network(self):
        episode = draw()
        query, first, mean = (trivial_answers(episode)[name] for name in TRIVIAL)
        assert torch.equal(query, episode.image)
        assert torch.equal(first, episode.context_targets[:, 0])
        assert torch.equal(mean, (episode.context_targets[:, 0] + episode.context_targets[:, 1]) / 2)

    def test_pair_swap_leaves_no_target_with_its_image(self):
        episode = draw(context=3)
        answer = control_answers(Follow(), episode)["pair swap"]
        assert torch.equal(answer, episode.context_targets[:, 2])

    def test_task_swap_shows_the_other_targets(self):
        episode = draw()
        answers = control_answers(Follow(), episode)
        assert torch.equal(answers["task swap"], episode.swap_targets[:, 0])
        assert torch.equal(answers["task swap, scored as swapped"], episode.swap_targets[:, 0])

    @pytest.mark.parametrize(
        ("context", "swappable", "expected"),
        [
            (1, None, set()),
            (2, None, {"pair swap"}),
            (1, (False,) * 4, set()),
            (1, (False, False, True, False), {"task swap", "task swap, scored as swapped"}),
            (2, (True,) * 4, set(CONTROLS)),
        ],
    )
    def test_controls_are_there_where_they_make_sense(self, context, swappable, expected):
        assert control_answers(Follow(), draw(context=context, swappable=swappable)).keys() == expected


class TestRecords:
    def test_one_record_for_each_case_entrant_and_metric(self):
        records = frame()
        keys = records[["case", "entrant", "metric"]].apply(tuple, axis=1)
        swapped = {(case, entrant) for case in "pr" for entrant in CONTROLS[1:]}
        plain = {(case, entrant) for case in "pqrs" for entrant in (NETWORK, *TRIVIAL, CONTROLS[0])}
        assert set(keys) == {(*both, metric) for both in swapped | plain for metric in METRICS}
        assert keys.is_unique

    def test_record_says_all_there_is(self):
        record = frame().query("case == 'q' and entrant == 'network' and metric == 'accuracy'").iloc[0]
        episode = draw()
        accuracy = float((episode.context_targets[1, 0] == episode.target[1]).float().mean())
        assert record.drop("value").to_dict() == {
            "task": "a/y", "entrant": "network", "metric": "accuracy", "case": "q", "context": "m n",
            "examples": 2, "primary": 1,
        }  # fmt: skip
        assert record["value"] == pytest.approx(accuracy)

    def test_swapped_score_is_against_the_swapped_target_with_its_own_spec(self):
        values = frame().query("metric == 'accuracy'").set_index(["case", "entrant"])["value"]
        assert values["p", "task swap, scored as swapped"] == 2
        assert values["p", "task swap"] < 1

    def test_undefined_metric_leaves_no_record(self):
        episode = draw()
        episode.target[0] = 0
        kept = frame(episode).query("case == 'p' and entrant == 'network'")["metric"]
        assert list(kept) == ["accuracy"]

    def test_paint_that_is_no_number_scores_as_nothing_painted(self, caplog):
        broken, empty = frame(factor=math.nan), frame(factor=0.0)
        pd.testing.assert_frame_equal(broken, empty)
        assert "count as 0, on p, q, r, s" in caplog.text

    def test_only_broken_pixels_are_changed(self):
        painted = torch.tensor([[[[0.5, math.nan, math.inf, -math.inf]]]])
        assert finite(painted, ["a"]).flatten().tolist() == [0.5, 0, 0, 0]
        whole = torch.rand(1, 1, 2, 2)
        assert finite(whole) is whole


class TestTable:
    def test_means_are_those_of_the_records(self):
        report = Report()
        report.add(Follow(), draw(), TASKS)
        report.add(Follow(), draw(batch=3), TASKS)
        table = report.table()
        assert list(table.columns) == list(ENTRANTS)
        for (task, metric), row in table.iterrows():
            assert metric == "accuracy"
            for entrant, value in row.items():
                values = [
                    r["value"]
                    for r in report.records
                    if (r["task"], r["entrant"], r["metric"]) == (task, entrant, metric)
                ]
                assert value == pytest.approx(sum(values) / len(values), nan_ok=True) if values else math.isnan(value)

    def test_files_hold_every_record_and_the_table(self, tmp_path, capsys):
        report = Report()
        report.add(Follow(), draw(), TASKS)
        report.write(tmp_path / "run")
        stored = pd.read_csv(tmp_path / "run" / "report.csv")
        pd.testing.assert_frame_equal(stored, pd.DataFrame(report.records))
        text = (tmp_path / "run" / "report.md").read_text()
        assert text == markdown(report.table()) + "\n"
        assert text in capsys.readouterr().out
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"report.csv", "report.md"}

    def test_markdown_leaves_a_gap_where_an_entrant_does_not_apply(self):
        report = Report()
        report.add(Follow(), draw(), TASKS)
        lines = markdown(report.table()).splitlines()
        assert [line.count("|") for line in lines] == [len(ENTRANTS) + 3] * 4
        assert lines[3].endswith("|  |  |")

    def test_test_without_an_episode_writes_nothing(self, tmp_path, caplog):
        Report().write(tmp_path)
        assert not list(tmp_path.iterdir())
        assert "no episode" in caplog.text

    def test_one_process_gathers_its_own(self):
        report = Report()
        report.add(Follow(), draw(), TASKS)
        before = list(report.records)
        report.gather()
        assert report.records == before
