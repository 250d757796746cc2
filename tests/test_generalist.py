import math
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch.optim import SGD
from torch.utils.data import DataLoader

import mvg.generalist as module
from mvg.data import SyntheticAnatomy
from mvg.episode import Episode, Pair
from mvg.generalist import Generalist
from mvg.models import CanvasViT, ConvStem, InContextModel, UNetDecoder
from mvg.saving import SaveWeights
from mvg.weights import describe, load, load_tasks, save
from tasks import Denoising, Segmentation

NAMES = ("toy/segmentation", "toy/denoising")


def network(**changes):
    torch.manual_seed(0)
    return CanvasViT(**({"image_size": [16, 16], "width": 16, "depth": 2, "heads": 1, "stem": None} | changes))


def episode(number, name=NAMES[0]):
    rng = torch.Generator().manual_seed(number)
    image, images = torch.rand(1, 1, 16, 16, generator=rng), torch.rand(1, 2, 1, 16, 16, generator=rng)
    spec = {"classes": [[1]], "colours": [[1.0]], "highest": 1, "channels": 1}
    return Episode(
        image=image,
        target=(image > 0.5).float(),
        weight=torch.ones_like(image),
        context_images=images,
        context_targets=(images > 0.5).float(),
        context_weights=torch.ones_like(images),
        is_label=torch.tensor([name == NAMES[0]]),
        mim=torch.tensor([number % 2 == 0]),
        seed=torch.tensor([number]),
        tasks=(name,),
        specs=(spec,),
        cases=(f"case{number}",),
        context_cases=(("a", "b"),),
    )


class Toy(pl.LightningDataModule):
    """Eight training and four validation episodes."""

    names = NAMES

    def __init__(self, batch_size=2, broken=None):
        super().__init__()
        self.batch_size, self.aspect = batch_size, "crop"
        self.sources = {"toy": SyntheticAnatomy([16, 16])}
        self.tasks = {"segmentation": Segmentation(), "denoising": Denoising()}
        self.training = [episode(i) for i in range(8)]
        if broken is not None:
            self.training[broken].target[:] = torch.nan

    def _loader(self, episodes):
        return DataLoader(episodes, self.batch_size, collate_fn=Episode.collate)

    def train_dataloader(self):
        return self._loader(self.training)

    def val_dataloader(self):
        return self._loader([episode(i, NAMES[i % 2]) for i in range(4)])

    def test_dataloader(self):
        return self.val_dataloader()


class Rates(pl.Callback):
    """Keeps the learning rate and the weights of every step."""

    def __init__(self):
        self.rates, self.weights = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.weights.append(copy(pl_module.network))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def copy(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def run(tmp_path):
    def start(model, data=None, epochs=1, callbacks=(), ckpt_path=None, fit=True, **options):
        trainer = pl.Trainer(
            max_epochs=epochs,
            default_root_dir=tmp_path,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=list(callbacks),
            **options,
        )
        if fit:
            trainer.fit(model, datamodule=data or Toy(), ckpt_path=ckpt_path)
        return trainer

    return start


def sgd(parameters):
    return SGD(parameters, lr=0.1)


class TestSchedule:
    def test_rate_warms_up_and_follows_half_a_cosine(self, run):
        rates = Rates()
        run(Generalist(network(), warmup=0.25), epochs=4, callbacks=[rates], limit_val_batches=0)
        progress = [step / 16 for step in range(1, 17)]
        cosine = [0.5 * (1 + math.cos(math.pi * (p - 0.25) / 0.75)) for p in progress]
        expected = [1e-3 * (p / 0.25 if p < 0.25 else c) for p, c in zip(progress, cosine, strict=True)]
        assert rates.rates == pytest.approx(expected)

    def test_accumulated_batches_count_as_one_step(self, run):
        rates = Rates()
        run(Generalist(network(), warmup=0), epochs=2, callbacks=[rates], accumulate_grad_batches=2)
        assert rates.rates == pytest.approx(
            [0.5e-3 * (1 + math.cos(math.pi * s / 4)) for s in (1, 1, 2, 2, 3, 3, 4, 4)]
        )

    def test_minutes_end_training_and_anneal_it(self, run, monkeypatch):
        clock = iter(range(0, 10_000, 20))
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
        rates = Rates()
        trainer = run(Generalist(network(), warmup=0, minutes=2), epochs=50, callbacks=[rates], limit_val_batches=0)
        assert trainer.global_step == 6
        # the clock of a step is known after it, the first two steps know nothing yet
        assert rates.rates[2:] == pytest.approx([0.5e-3 * (1 + math.cos(math.pi * i / 6)) for i in range(1, 5)])

    def test_steps_that_end_before_the_minutes_anneal_too(self, run):
        rates = Rates()
        run(Generalist(network(), minutes=600), epochs=2, callbacks=[rates])
        assert rates.rates[-1] == pytest.approx(0, abs=1e-9)

    def test_time_of_validation_is_not_counted(self, run, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
        model = Generalist(network(), minutes=1)
        step = model.validation_step
        model.validation_step = lambda *args: now.__setitem__(0, now[0] + 100) or step(*args)
        run(model, epochs=2)
        assert model._spent == 0

    def test_training_without_an_end_is_refused(self, run):
        with pytest.raises(ValueError, match="needs an end"):
            run(Generalist(network()), epochs=-1)


class TestOptimizer:
    def groups(self, run, **changes):
        model = Generalist(network(absolute=2, depth=3), weight_decay=0.3, **changes)
        trainer = run(model, epochs=1, max_steps=1, limit_val_batches=0)
        names = {id(parameter): name for name, parameter in model.network.named_parameters()}
        return {names[id(p)]: group for group in trainer.optimizers[0].param_groups for p in group["params"]}

    def test_layer_decay_grows_from_the_decoder_down_to_the_stem(self, run):
        groups = self.groups(run, layer_decay=0.5)
        scales = {name: group["initial_lr"] / 1e-3 for name, group in groups.items()}
        for name, scale in scales.items():
            layer = int(name.split(".")[1]) if name.startswith("blocks.") else 3 if name.startswith("decoder") else -1
            assert scale == pytest.approx(0.5 ** (3 - layer)), name

    @pytest.mark.parametrize("layer_decay", [1.0, 0.5])
    def test_weight_decay_spares_biases_norms_and_codes(self, run, layer_decay):
        groups = self.groups(run, layer_decay=layer_decay)
        spared = {name for name, group in groups.items() if group["weight_decay"] == 0}
        codes = {"segments", "roles", "absolute", "stem.mask_token"}
        assert (
            spared
            == {name for name in groups if name.endswith("bias") or ".norm" in name or "refine.1" in name} | codes
        )
        assert {group["weight_decay"] for group in groups.values()} == {0, 0.3}
        assert groups.keys() == dict(network(absolute=2, depth=3).named_parameters()).keys()

    @pytest.mark.parametrize("layer_decay", [1.0, 0.5])
    def test_weight_decay_spares_what_a_u_shaped_decoder_learns_of_places(self, layer_decay):
        plan = {"stem": ConvStem(widths=(16, 16)), "decoder": UNetDecoder(codes=8, matching=(2,))}
        model = Generalist(network(**plan), weight_decay=0.3, layer_decay=layer_decay)
        model.trainer = SimpleNamespace(estimated_stepping_batches=1)
        groups = model.configure_optimizers()["optimizer"].param_groups
        decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
        places = {name: decay[id(p)] for name, p in model.network.named_parameters() if name.endswith("place")}
        assert places == {"decoder.transfers.1.place": 0, "decoder.matches.1.place": 0}

    def test_accumulated_gradients_equal_a_larger_batch(self, run):
        small, large = Generalist(network(), sgd), Generalist(network(), sgd)
        run(small, Toy(batch_size=1), accumulate_grad_batches=4)
        run(large, Toy(batch_size=4))
        for one, other in zip(small.network.parameters(), large.network.parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


class TestTraining:
    def test_loss_that_is_no_number_stops_and_names_the_case(self, run):
        with pytest.raises(FloatingPointError, match=r"toy/segmentation of case case3 \(nan\) at step 1") as stopped:
            run(Generalist(network(), skips=0), Toy(broken=3))
        assert "case2" not in str(stopped.value)

    def test_broken_step_is_left_out_and_told(self, run, caplog):
        rates = Rates()
        model = Generalist(network(), warmup=0.3)
        run(model, Toy(broken=3), callbacks=[rates])
        assert equal(rates.weights[1], rates.weights[2])
        assert not equal(rates.weights[2], rates.weights[3])
        assert "step 1 is left out: no number in toy/segmentation of case case3 (nan)" in caplog.text
        assert model.steps.state() == (0, 1)

    def test_gradient_that_is_no_number_is_left_out(self, run):
        model, rates = Generalist(network(), skips=9), Rates()
        model.network.roles.register_hook(lambda gradient: gradient * math.nan)
        run(model, callbacks=[rates])
        assert equal(rates.weights[0], rates.weights[-1])
        assert model.steps.state() == (4, 4)

    def test_resumed_training_gives_the_same_bits(self, run, tmp_path):
        whole, cut, resumed = (Generalist(network(), warmup=0.3) for _ in range(3))
        run(whole, epochs=4)

        class Stop(pl.Callback):
            def on_train_epoch_end(self, trainer, pl_module):
                trainer.should_stop = trainer.current_epoch == 1

        run(cut, epochs=4, callbacks=[Stop()]).save_checkpoint(tmp_path / "a.ckpt")
        assert not equal(copy(whole.network), copy(cut.network))
        run(resumed, epochs=4, ckpt_path=tmp_path / "a.ckpt")
        assert equal(copy(whole.network), copy(resumed.network))

    def test_time_spent_survives_a_checkpoint(self):
        first, second, checkpoint = Generalist(network()), Generalist(network()), {}
        first._spent = 12.5
        first.on_save_checkpoint(checkpoint)
        second.on_load_checkpoint(checkpoint)
        assert second._spent == 12.5

    def test_averaged_weights_are_what_is_saved(self, run, tmp_path):
        steps = []

        class Record(pl.Callback):
            def on_train_batch_end(self, trainer, pl_module, *_):
                steps.append(copy(pl_module.network))

        run(Generalist(network()), callbacks=[Record(), EMAWeightAveraging(decay=0.6), SaveWeights()])
        average = steps[0]
        for weights in steps[1:]:
            average = {name: 0.6 * average[name] + 0.4 * weights[name] for name in weights}
        saved = load(tmp_path / "weights").state_dict()
        for name in saved:
            torch.testing.assert_close(saved[name], average[name])
        assert not equal(saved, steps[-1])

    def test_every_fit_leaves_its_network_and_tasks(self, run, tmp_path):
        model = Generalist(network())
        run(model, callbacks=[SaveWeights()])
        assert equal(load(tmp_path / "weights").state_dict(), copy(model.network))
        assert load_tasks(tmp_path / "weights").keys() == {"segmentation", "denoising"}
        assert describe(tmp_path / "weights")["sources"]["toy"]["aspect"] == "crop"

    @pytest.mark.parametrize("steps", [3, 4])
    def test_the_card_states_the_metrics_of_the_weights_that_are_left(self, run, tmp_path, steps, monkeypatch):
        class Stop(pl.Callback):
            def on_train_batch_end(self, trainer, *_):
                trainer.should_stop = trainer.global_step == steps

        saver, model = SaveWeights(), Generalist(network())
        trainer = run(model, epochs=4, callbacks=[Stop(), saver])
        saver.measure(trainer, model, Toy())
        stated = describe(tmp_path / "weights")["metrics"]
        assert f"{stated['val/score']:.4f}" in (tmp_path / "weights" / "README.md").read_text()
        (found,) = trainer.validate(model, datamodule=Toy(), verbose=False)
        assert stated == pytest.approx({name: value for name, value in found.items() if math.isfinite(value)})
        monkeypatch.setattr(saver, "_validated", trainer.global_step)
        monkeypatch.setattr(trainer, "validate", None)
        saver.measure(trainer, model, Toy())

    def test_training_stopped_by_hand_leaves_its_network_too(self, run, tmp_path):
        class Interrupt(pl.Callback):
            def on_train_batch_end(self, trainer, *_):
                if trainer.global_step == 2:
                    raise KeyboardInterrupt

        model = Generalist(network())
        with pytest.raises(SystemExit):
            run(model, callbacks=[Interrupt(), SaveWeights()])
        assert equal(load(tmp_path / "weights").state_dict(), copy(model.network))


class TestStart:
    @pytest.fixture
    def trained(self, tmp_path):
        torch.manual_seed(5)
        other = CanvasViT([16, 16], width=16, depth=2, heads=1)
        save(tmp_path / "trained", other)
        return tmp_path / "trained", copy(other)

    def test_training_starts_from_weights(self, run, trained):
        rates = Rates()
        run(Generalist(network(), weights=str(trained[0])), callbacks=[rates])
        assert equal(rates.weights[0], trained[1])

    def test_validation_alone_uses_weights(self, run, trained):
        model = Generalist(network(), weights=str(trained[0]))
        run(model, fit=False).validate(model, datamodule=Toy(), verbose=False)
        assert equal(copy(model.network), trained[1])

    def test_test_after_training_keeps_what_was_trained(self, run, trained):
        model = Generalist(network(), weights=str(trained[0]))
        trainer = run(model)
        after = copy(model.network)
        trainer.test(model, datamodule=Toy(), verbose=False)
        assert equal(copy(model.network), after)
        assert not equal(after, trained[1])

    def test_resumed_training_ignores_weights(self, run, trained, tmp_path):
        first = Generalist(network())
        run(first).save_checkpoint(tmp_path / "a.ckpt")
        rates = Rates()
        run(Generalist(network(), weights=str(trained[0])), epochs=2, callbacks=[rates], ckpt_path=tmp_path / "a.ckpt")
        assert equal(rates.weights[0], copy(first.network))

    def test_two_starts_are_refused(self):
        with pytest.raises(ValueError, match="not from both"):
            Generalist(network(), pretrained="vit_tiny_patch16_224", weights="a")

    @pytest.mark.parametrize("minutes", [0, -1.0])
    def test_minutes_out_of_range_are_refused(self, minutes):
        with pytest.raises(ValueError, match=rf"`minutes` must be greater than 0, .* got {minutes}"):
            Generalist(network(), minutes=minutes)

    @pytest.mark.parametrize("warmup", [-0.1, 1.0])
    def test_warmup_out_of_range_is_refused(self, warmup):
        with pytest.raises(ValueError, match=rf"`warmup` must be in \[0, 1\), got {warmup}"):
            Generalist(network(), warmup=warmup)


class Echo(InContextModel):
    """Paints `factor` times the query image."""

    def __init__(self, factor=0.5):
        super().__init__()
        self.image_size, self.in_channels, self.out_channels, self.factor = (16, 16), 1, 1, factor

    def remember(self, context_images, context_targets):
        return ()

    def answer(self, image, memory, coarse=None):
        return self.factor * image

    def loss(self, episode):
        return {"loss": episode.image.mean()}


def test_score_is_the_mean_of_primaries(run):
    model, data = Generalist(Echo()), Toy()
    logged = run(model, fit=False).validate(model, datamodule=data, verbose=False)[0]
    values = {name: [] for name in NAMES}
    for number in range(4):
        one = episode(number, NAMES[number % 2])
        task, pair = data.tasks[one.tasks[0].split("/")[1]], Pair(one.image[0], one.target[0], one.weight[0])
        values[one.tasks[0]].append(task.score(0.5 * one.image[0], pair, one.specs[0])[task.primary])
    dice, psnr = (sum(values[name]) / 2 for name in NAMES)
    assert logged["val/toy/segmentation/dice"] == pytest.approx(dice)
    assert logged["val/toy/denoising/psnr"] == pytest.approx(psnr)
    assert logged["val/score"] == pytest.approx((dice + psnr / 40) / 2)


def test_network_that_paints_no_numbers_scores_as_one_that_paints_nothing(run):
    def validate(factor):
        model = Generalist(Echo(factor))
        return run(model, fit=False).validate(model, datamodule=Toy(), verbose=False)[0]

    assert validate(math.nan) == validate(0.0)
