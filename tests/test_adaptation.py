"""Adaptation of networks: methods, files, and training by `mvg fit`."""

import pytest
import pytorch_lightning as pl
import torch
from test_generalist import Toy
from torch import nn

from mvg import weights
from mvg.adaptation.methods import (
    ADAPTER,
    FACTS,
    Adaptation,
    changed,
    describe_adapter,
    fingerprint,
    load_adapter,
    merge,
    prepare,
    restore,
    save_adapter,
)
from mvg.generalist import Generalist
from mvg.models import CanvasViT, ConvStem, InContextModel, UNetDecoder
from mvg.saving import SaveAdapter, SaveWeights

SIZE = (16, 16)
METHODS = ("prompt", "lora", "head", "full")


class Volumes(InContextModel):
    """A network of three-dimensional convolutions that is no CanvasViT and names no head."""

    def __init__(self, image_size=(8, 8, 8)):
        super().__init__()
        self.image_size, self.in_channels, self.out_channels = tuple(image_size), 1, 1
        self.first, self.second = nn.Conv3d(3, 4, 3, padding=1), nn.ConvTranspose3d(4, 1, 3, padding=1)

    def remember(self, context_images, context_targets):
        return context_images.mean(1), context_targets.mean(1)

    def answer(self, image, memory, coarse=None):
        return self.second(self.first(torch.cat([image, *memory], 1)).relu())

    def loss(self, episode):
        painted = self(episode.image, episode.context_images, episode.context_targets)
        return {"loss": (painted - episode.target).square().mean()}


def network(kind="vit", seed=0):
    torch.manual_seed(seed)
    if kind == "volumes":
        return Volumes()
    parts = {"stem": ConvStem(widths=[16, 16]), "decoder": UNetDecoder()} if kind == "unet" else {}
    made = CanvasViT(image_size=SIZE, width=16, depth=2, heads=1, **parts)
    for parameter in made.parameters():  # no branch is zero, so that every change is seen
        nn.init.normal_(parameter, std=0.1)
    return made.eval()


def ask(net):
    generator = torch.Generator().manual_seed(1)
    image, images = (torch.rand(2, *lead, 1, *net.image_size, generator=generator) for lead in ((), (2,)))
    with torch.no_grad():
        return net(image, images, (images > 0.5).float())


def trained(kind, adaptation):
    """A prepared network whose trained part was moved far from its start."""
    made = network(kind)
    prepare(made, adaptation)
    torch.manual_seed(2)
    restore(made, {name: value + 0.1 * torch.randn_like(value) for name, value in changed(made).items()})
    return made


CASES = [(kind, method) for kind in ("vit", "unet") for method in METHODS] + [("volumes", "lora"), ("volumes", "full")]


@pytest.mark.parametrize(("kind", "method"), CASES)
class TestMethods:
    def test_nothing_changes_before_training(self, kind, method):
        made = network(kind)
        before = ask(made)
        prepare(made, Adaptation(method))
        assert (ask(made) - before).abs().max() < 1e-6

    def test_the_base_stays_as_it_is_bit_by_bit_and_what_is_trained_moves(self, kind, method):
        made = network(kind)
        base = {id(parameter): parameter.detach().clone() for parameter in made.parameters()}
        old = dict(made.named_parameters())
        prepare(made, Adaptation(method))
        free = [parameter for parameter in made.parameters() if parameter.requires_grad]
        start = [parameter.detach().clone() for parameter in free]
        optimizer = torch.optim.AdamW(free, lr=0.01)
        for _ in range(2):  # what multiplies zeros has no gradient at the first step
            optimizer.zero_grad()
            made(
                torch.rand(1, 1, *made.image_size), *torch.rand(2, 1, 2, 1, *made.image_size)
            ).square().sum().backward()
            optimizer.step()
        for parameter in old.values():
            assert parameter.requires_grad or torch.equal(parameter, base[id(parameter)])
        moved = [not torch.equal(now, then) for now, then in zip(free, start, strict=True)]
        assert all(moved) if method in ("prompt", "lora") else any(moved)

    def test_a_merged_network_answers_as_the_trained_one(self, kind, method):
        made = trained(kind, Adaptation(method))
        before, base = ask(made), ask(network(kind))
        merge(made)
        assert (ask(made) - before).abs().max() < 1e-6
        assert (before - base).abs().max() > 1e-4
        assert all(parameter.requires_grad for parameter in made.parameters())

    def test_an_adapter_comes_back_from_its_files(self, kind, method, tmp_path):
        adaptation = Adaptation(method, rank=3, tokens=5)
        made, other = trained(kind, adaptation), network(kind)
        save_adapter(tmp_path / "adapter", made, adaptation, fingerprint(other), facts={"cases": 3})
        load_adapter(other, tmp_path / "adapter")
        assert (ask(other) - ask(made)).abs().max() < 1e-6
        assert describe_adapter(tmp_path / "adapter")["cases"] == 3
        assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [FACTS, ADAPTER]


def test_layers_are_found_by_name_and_rank_stays_within_them():
    made = network("unet")
    prepare(made, Adaptation("lora", rank=1000, layers=r"attn\.proj"))
    assert {name.split(".parametrizations")[0] for name in changed(made)} == {f"blocks.{i}.attn.proj" for i in (0, 1)}
    assert all(min(value.shape) == 16 for value in changed(made).values())


def test_only_full_adaptation_keeps_all_tensors():
    made = network()
    whole = made.state_dict().keys()
    prepare(made, Adaptation("head"))
    assert {name.partition(".")[0] for name in changed(made)} == {"decoder"}
    prepare(made, Adaptation("full"))
    assert changed(made).keys() == whole


def test_adapters_of_other_weights_and_networks_are_refused(tmp_path):
    adaptation = Adaptation("lora")
    save_adapter(tmp_path / "a", trained("vit", adaptation), adaptation, fingerprint(network()))
    before = network(seed=1)
    with pytest.raises(ValueError, match="adapts other weights"):
        load_adapter(before, tmp_path / "a")
    assert fingerprint(before) == fingerprint(network(seed=1))
    with pytest.raises(ValueError, match=r"adapts a mvg\.models\.canvas_vit\.CanvasViT, not a .*Volumes"):
        load_adapter(Volumes(), tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="`mvg adapt` wrote"):
        load_adapter(network(), tmp_path / "b")
    (tmp_path / "a" / FACTS).write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        load_adapter(network(), tmp_path / "a")


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"method": "tune"}, "vit", "`method` must be one of prompt, lora, head, full, got 'tune'"),
        ({"rank": 0}, "vit", "must be at least 1"),
        ({"layers": "("}, "vit", "no regular expression"),
        ({"layers": "nowhere"}, "vit", "is named like 'nowhere'; it has"),
        ({"method": "prompt"}, "volumes", "no place for prompts"),
        ({"method": "head"}, "volumes", "names no head"),
    ],
)
def test_what_cannot_be_adapted_is_said_in_a_sentence(options, kind, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        prepare(network(kind), Adaptation(**options))


def test_running_statistics_and_a_second_adaptation_are_refused():
    made = Volumes()
    made.norm = nn.BatchNorm3d(4)
    with pytest.raises(ValueError, match="norm keeps running statistics"):
        prepare(made, Adaptation())
    prepare(made := network(), Adaptation())
    with pytest.raises(ValueError, match="adapted already"):
        prepare(made, Adaptation())


# ---------------------------------------------------------------------- fit


def fit(folder, adaptation, callbacks=(), **options):
    torch.manual_seed(0)
    made = CanvasViT(SIZE, width=16, depth=2, heads=1)
    module = Generalist(made, weights=str(folder / "base"), adaptation=adaptation)
    trainer = pl.Trainer(
        max_steps=2,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        callbacks=[SaveAdapter(), SaveWeights(), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )
    trainer.fit(module, datamodule=Toy())
    return module


def test_fit_leaves_an_adapter_that_changes_its_base_into_what_was_trained(tmp_path):
    weights.save(tmp_path / "base", network())
    module = fit(tmp_path, adaptation=Adaptation("lora", rank=2))
    assert not (tmp_path / "weights").exists()
    loaded = weights.load(tmp_path / "base")
    load_adapter(loaded, tmp_path / "adapter")
    assert (ask(loaded) - ask(module.network.eval())).abs().max() < 1e-6
    assert (ask(loaded) - ask(network())).abs().max() > 0


def test_fit_continues_an_adaptation_from_its_checkpoint(tmp_path):
    weights.save(tmp_path / "base", network())
    module = fit(tmp_path, adaptation=Adaptation("prompt"))
    module.trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = Generalist(network(seed=3), adaptation=Adaptation("prompt"))
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)
    resumed.on_load_checkpoint(state)
    resumed.load_state_dict(state["state_dict"], strict=False)
    assert resumed.base == module.base == fingerprint(network())
    assert (ask(resumed.network.eval()) - ask(module.network.eval())).abs().max() < 1e-6


def test_an_adaptation_without_weights_is_refused(tmp_path):
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="`adaptation` changes a trained network"):
        trainer.fit(Generalist(network(), adaptation=Adaptation()), datamodule=Toy())


class Keep(pl.Callback):
    """Writes what a process has at the end of training."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.network.state_dict(), self.folder / f"end{trainer.global_rank}.pt")


def test_two_processes_train_one_adapter(tmp_path):
    weights.save(tmp_path / "base", network())
    fit(tmp_path, adaptation=Adaptation("lora", rank=2), devices=2, strategy="ddp_fork", callbacks=[Keep(tmp_path)])
    one, other = (torch.load(tmp_path / f"end{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(bool(value.any()) for name, value in one.items() if name.endswith(".up"))
    assert (tmp_path / "adapter" / ADAPTER).is_file()
