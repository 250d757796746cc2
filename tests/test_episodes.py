"""Episodes: purity, context, checks before training, loaders and resume."""

import pickle

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from mvg.data import Augmentation, EpisodeDataModule, EpisodeDataset, EpisodeLoader, Index, Item, Source, Subject
from mvg.episode import Answer, Pair
from mvg.task import Task


class Cards(Source):
    """Patients with five slices each; the image states patient and slice, the class is 1 or 2."""

    def __init__(self, patients=6, cohort_count=1, channels=1):
        self.name, self.class_names, self.patients = "cards", {}, patients
        self.cohort_count, self.channels = cohort_count, channels

    def cohorts(self, split):
        return self.cohort_count

    def items(self, split, cohort=0):
        return [
            Item(
                f"{split}{cohort}p{p}",
                f"{split}{cohort}p{p}",
                frozenset({"image", "labels", f"labels={1 + k % 2}"}),
                k / 4,
                k,
            )
            for p in range(self.patients)
            for k in range(5)
        ]

    def read(self, item):
        label = torch.zeros(12, 12, dtype=torch.int64)
        label[2 + item.slice : 6 + item.slice, 3:7] = 1 + item.slice % 2
        return Subject(
            {"image": 0.2 + 0.3 * label[None].repeat(self.channels, 1, 1).float()}, {"labels": label}, item, (1.0, 1.0)
        )


class Mark(Task):
    """Paints one class white."""

    is_label, metrics, primary, mim = True, {"dice": True}, "dice", 0.5

    def __init__(self, role="labels", only=None):
        self.role, self.only = role, only

    def accepts(self, index):
        return f"{self.role}={self.only or 1}" in index.keys

    def draw(self, index, rng, training):
        wanted = self.only or int(rng.integers(1, 3))
        keys = ["image", self.role, f"{self.role}={wanted}"]
        return {"query": keys, "context": keys, "class": wanted}

    def encode(self, subject, spec, rng):
        return Pair(subject.images["image"], (subject.labels[self.role] == spec["class"])[None].float())

    def decode(self, painted, spec):
        return Answer(labels=(painted[0] > 0.5).long())

    def score(self, painted, pair, spec):
        return {"dice": 1.0}

    def swap(self, spec, subjects, rng):
        return {**spec, "class": 3 - spec["class"]} if spec["class"] == 1 else None


def dataset(split="train", **options):
    defaults = {"length": 32, "image_size": (8, 8), "context_size": (1, 3), "batch_size": 4, "seed": 3}
    tasks = options.pop("tasks", {"mark": Mark()})
    sources = options.pop("sources", {"cards": Cards()})
    return EpisodeDataset(sources, tasks, split, **{**defaults, **options})


def module(**options):
    defaults = {"image_size": [8, 8], "sources": {"cards": Cards()}, "tasks": {"mark": Mark()}, "batch_size": 4}
    lengths = {"epoch_length": 32, "val_length": 10, "test_length": 8, "context_size": [1, 3], "seed": 3}
    return EpisodeDataModule(**{**defaults, **lengths, **options})


def same(first, second):
    tensors = {name for name, value in vars(first).items() if isinstance(value, torch.Tensor)}
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in tensors) and (
        first.cases == second.cases and first.context_cases == second.context_cases and first.specs == second.specs
    )


def test_an_episode_depends_on_seed_epoch_and_index_alone():
    first, second = (dataset(augmentation=Augmentation(), crop=(0.6, 1.0)) for _ in range(2))
    backwards = [second[index] for index in reversed(range(32))][::-1]
    assert all(same(first[index], backwards[index]) for index in range(32))
    assert not same(first[0], first[1])
    assert not same(first[0], dataset(augmentation=Augmentation(), crop=(0.6, 1.0), seed=4)[0])


def test_a_block_shares_its_cohort_and_nothing_else():
    episodes, backwards = (dataset(cohort_block=4, sources={"cards": Cards(cohort_count=1000)}) for _ in range(2))
    drawn = [episodes[index] for index in range(32)]
    assert all(same(drawn[index], backwards[index]) for index in reversed(range(32)))
    cohorts = [episode.cases[0].split("p")[0] for episode in drawn]
    assert cohorts == [cohort for cohort in cohorts[::4] for _ in range(4)]
    assert len(set(cohorts)) > 6
    assert all(len({(e.cases[0], str(e.specs[0])) for e in drawn[start : start + 4]}) > 1 for start in range(0, 32, 4))


def test_evaluation_draws_a_cohort_for_each_episode():
    sources = {"cards": Cards(cohort_count=1000)}
    pairs = zip(dataset("val", sources=sources), dataset("val", sources=sources, cohort_block=4), strict=True)
    assert all(same(one, other) for one, other in pairs)


def test_epochs_differ_in_training_only():
    for split, changes in (("train", True), ("val", False)):
        episodes = dataset(split)
        before = [episodes[index] for index in range(8)]
        episodes.set_epoch(1)
        assert changes != all(same(before[index], episodes[index]) for index in range(8))


def test_a_batch_has_one_context_size_and_all_sizes_occur():
    sizes = np.array([dataset()[index].context_size for index in range(32)]).reshape(8, 4)
    assert (sizes == sizes[:, :1]).all()
    assert set(sizes[:, 0]) == {1, 2, 3}


def test_context_is_distinct_and_of_other_patients():
    episodes = dataset(context_size=4, sources={"cards": Cards(patients=2)}, tasks={"mark": Mark(only=2)}, near=0.1)
    with pytest.raises(ValueError, match="other patients"):
        episodes[0]
    episodes = dataset(context_size=3, sources={"cards": Cards(patients=3)}, near=0.1)
    for index in range(32):
        plan = episodes.plan(index, np.random.default_rng(index))
        assert len(set(plan.items)) == 4
        assert plan.items[0].group not in {item.group for item in plan.items[1:]}


def test_context_is_near_where_it_can_be():
    episodes = dataset(context_size=5, near=0.0)
    plans = [episodes.plan(index, np.random.default_rng(index)) for index in range(32)]
    assert {item.position == plan.items[0].position for plan in plans for item in plan.items} == {True}
    scarce = dataset(context_size=7, near=0.0).plan(0, np.random.default_rng(0))
    assert sum(item.position == scarce.items[0].position for item in scarce.items) == 6


def test_same_patient_may_be_allowed():
    episodes = dataset(
        sources={"cards": Cards(patients=1)}, tasks={"mark": Mark(only=1)}, context_size=2, same_patient=True
    )
    plan = episodes.plan(0, np.random.default_rng(0))
    assert len(set(plan.items)) == 3


def test_context_split_and_cohorts():
    episode = dataset("test", context_split="train")[0]
    assert episode.cases[0].startswith("test")
    assert episode.context_cases[0][0].startswith("train")
    episode = dataset("test", context_split="train", sources={"cards": Cards(cohort_count=3)})[0]
    assert {case[:5] for case in episode.context_cases[0]} == {episode.cases[0][:5]}


def test_weights_decide_how_often_a_task_is_drawn():
    tasks = {"one": Mark(only=1), "two": Mark(only=2), "never": Mark()}
    episodes = dataset(tasks=tasks, length=600, weights={"two": 3.0, "cards/never": 0.0})
    drawn = [episodes.plan(index, np.random.default_rng(index)).task for index in range(600)]
    assert 0.68 < drawn.count("two") / 600 < 0.82
    assert "never" not in drawn
    with pytest.raises(ValueError, match="three"):
        dataset(tasks=tasks, weights={"three": 1.0})


def test_evaluation_goes_round_all_tasks():
    episodes = dataset("val", tasks={"one": Mark(only=1), "two": Mark(only=2)})
    assert [episodes[index].tasks[0] for index in range(4)] == ["cards/one", "cards/two"] * 2


def test_masked_episodes_occur_in_training_only():
    assert 0.3 < np.mean([bool(dataset(length=200)[index].mim) for index in range(200)]) < 0.7
    assert not any(bool(dataset("val")[index].mim) for index in range(32))


def test_channels_are_repeated_or_refused():
    episode = dataset(in_channels=3, out_channels=2)[0]
    assert episode.image.shape == (1, 3, 8, 8)
    assert episode.target.shape == (1, 2, 8, 8)
    assert torch.equal(episode.image[:, 0], episode.image[:, 2])
    with pytest.raises(ValueError, match="2 channels, but the network takes 3"):
        dataset(in_channels=3, sources={"cards": Cards(channels=2)})[0]


def test_controls_ask_the_same_images_for_another_structure():
    episodes = dataset("test", controls=True)
    plain = dataset("test")
    for index in range(8):
        episode = episodes[index]
        assert torch.equal(episode.target, plain[index].target)
        assert bool(episode.swappable) == (episode.specs[0]["class"] == 1)
        assert (not episode.swappable) == torch.equal(episode.swap_targets, episode.context_targets)
        assert episode.swap_specs[0]["class"] == 2


def test_cropped_queries_still_show_what_is_asked():
    episodes = dataset(crop=(0.3, 0.6), image_size=(12, 12))
    assert all(episodes[index].target.sum() > 0 for index in range(32))
    assert all((episodes[index].context_targets.sum((2, 3, 4)) > 0).all() for index in range(32))


def test_a_block_of_no_episodes_is_refused():
    with pytest.raises(ValueError, match="`cohort_block` must be at least 1, got 0"):
        dataset(cohort_block=0)


@pytest.mark.parametrize("size", [0, [2, 1], [0, 3], [1, 2, 3]])
def test_wrong_context_size_is_refused(size):
    with pytest.raises(ValueError, match="context_size"):
        dataset(context_size=size)


def test_workers_change_nothing_and_see_the_epoch():
    loaders = [EpisodeLoader(dataset(), workers=workers) for workers in (0, 2)]
    for epoch in range(2):
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        batches = [list(loader) for loader in loaders]
        assert len(batches[0]) == len(batches[1]) == 8
        assert all(same(first, second) for first, second in zip(*batches, strict=True))


def test_data_set_survives_pickling():
    assert same(pickle.loads(pickle.dumps(dataset()))[5], dataset()[5])


@pytest.mark.parametrize(("split", "expected"), [("train", 32), ("val", 34)])
def test_ranks_share_the_batches_of_one_process(split, expected):
    episodes = dataset(split, length=34)
    ranks = [list(EpisodeLoader(episodes, ranks=2, rank=rank).sampler) for rank in range(2)]
    assert sorted(index for index in ranks[0] + ranks[1] if index is not None) == list(range(expected))
    assert all(len({index // 4 for index in ranks[0][start : start + 4]}) == 1 for start in range(0, len(ranks[0]), 4))
    assert all(len(EpisodeLoader(episodes, ranks=2, rank=rank).sampler) == len(ranks[rank]) for rank in range(2))


class Recorder(pl.LightningModule):
    """Records the seeds of the training episodes."""

    def __init__(self):
        super().__init__()
        self.seen, self.factor = [], torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, _):
        self.seen.append((self.current_epoch, *batch.seed.tolist()))
        return self.factor**2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def train(folder, resume=None):
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    keep = pl.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    recorder = Recorder()
    trainer = pl.Trainer(max_steps=20, default_root_dir=folder, callbacks=[keep], **options)
    trainer.fit(recorder, datamodule=module(val_length=0), ckpt_path=resume)
    return recorder.seen


@pytest.mark.filterwarnings("ignore")
def test_resume_sees_the_episodes_of_an_uninterrupted_run(tmp_path):
    whole = train(tmp_path / "whole")
    assert [epoch for epoch, *_ in whole] == [0] * 8 + [1] * 8 + [2] * 4
    for step in (3, 8, 11, 16):
        assert train(tmp_path / "again", tmp_path / "whole" / f"step={step}.ckpt") == whole[step:]


def test_module_hands_out_checked_episodes():
    data = module(in_channels=3, test_context_size=2)
    data.setup("fit")
    data.setup("test")
    batch = next(iter(data.train_dataloader()))
    assert batch.image.shape == (4, 3, 8, 8)
    assert sum(len(batch) for batch in data.val_dataloader()) == 10
    assert next(iter(data.test_dataloader())).context_size == 2
    assert next(iter(data.test_dataloader())).swappable is not None
    assert data.names == ("cards/mark",)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sources": {}}, "at least one source"),
        ({"tasks": {}}, "at least one source and one task"),
        ({"image_size": [8, 8, 8]}, "2 axes"),
        ({"tasks": {"mark": Mark("organs")}}, "no task accepts"),
        ({"tasks": {"mark": Mark(), "other": Mark("organs")}}, "no source suits the task 'other'"),
        ({"sources": {"cards": Cards(patients=0)}}, "no task accepts"),
        ({"sources": {"cards": Cards(patients=1)}}, "other patients"),
        ({"context_from_train": True, "sources": {"cards": Cards(patients=1)}}, "other patients"),
        ({"sources": {"cards": Cards(channels=2)}}, "'cards/mark' have 2 channels, but the network takes 1"),
        ({"crop": [0.9]}, r"`crop`.* got \[0.9\]"),
        ({"aspect": "squash"}, "squash"),
        ({"near": -0.1}, "`near` .* -0.1"),
        ({"seed": -1}, "`seed` must not be negative"),
        ({"workers": -1}, "`workers` must not be negative"),
        ({"weights": {"mark": -2.0}}, "-2.0 for 'mark'"),
        ({"tasks": {"a/b": Mark()}}, "'a/b'; rename"),
        ({"sources": {"a.b": Cards()}}, "'a.b'; rename"),
    ],
)
def test_wrong_data_is_found_before_training(options, match):
    with pytest.raises(ValueError, match=match):
        module(**options).setup("fit")


@pytest.mark.parametrize("split", ["epoch", "test"])
def test_nothing_to_draw_is_said_in_one_sentence(split):
    data = module(**{f"{split}_length": 0})
    data.setup("fit" if split == "epoch" else "test")
    with pytest.raises(ValueError, match=f"`{split}_length` is 0"):
        (data.train_dataloader if split == "epoch" else data.test_dataloader)()


@pytest.mark.parametrize("length", [1, 5, 8, 9, 23])
def test_every_device_gets_as_many_batches_of_validation_and_every_episode_comes_once(length):
    loaders = [EpisodeLoader(dataset(split="val", length=length, batch_size=4), 3, rank) for rank in range(3)]
    assert len({len(loader) for loader in loaders}) == 1
    dealt = [index for loader in loaders for index in loader.sampler]
    assert [len(list(loader.batch_sampler)) for loader in loaders] == [len(loader) for loader in loaders]
    assert sorted(index for index in dealt if index is not None) == list(range(length))


def test_episode_that_fills_a_batch_counts_nowhere():
    filler = dataset(split="val")[None]
    assert filler.image.shape == dataset(split="val")[0].image.shape
    assert filler.tasks == filler.cases == filler.specs == ()


def test_index_of_plans_is_not_read(monkeypatch):
    episodes = dataset()
    monkeypatch.setattr(Cards, "read", lambda *_: pytest.fail("a pixel was read"))
    assert isinstance(episodes.plan(0, np.random.default_rng(0)).items[0], Item)
    assert len(Index(Cards().items("train")).items) == 30
