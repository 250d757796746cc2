import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from mvg.canvas import enlarge, episode_masks
from mvg.configuration import TRUSTED, find_class
from mvg.episode import Episode, Pair
from mvg.models import CanvasViT, ConvStem, PatchStem, TwoConvHead, UNetDecoder
from mvg.models.transfer import CodeTransfer, Pool, PrototypeTransfer
from mvg.objective import Objective
from mvg.weights import build

ROOT = Path(__file__).parents[1]
CANVASES = [path for path in sorted(ROOT.glob("configs/network/*.yaml")) if "models.CanvasViT" in path.read_text()]
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def small(size=(16, 16), conv=False, depth=3, **changes):
    """Arguments of a tiny network with patches or convolutions."""
    arguments = {"image_size": size, "width": 24, "depth": depth, "heads": 2, "mlp_ratio": 2.0, "min_block": 1}
    stem = ConvStem(widths=[16, 16]) if conv else PatchStem(patch=4)
    return arguments | {"stem": stem, "decoder": TwoConvHead(channels=8, number=2)} | changes


def u(size=(16, 16), skips="codes", matching=(), supervision=0.0, **changes):
    """Arguments of a tiny network with a U-shaped decoder."""
    decoder = UNetDecoder(skips=skips, codes=4, matching=matching, supervision=supervision)
    return small(size, conv=True, decoder=decoder, **changes)


def released(**changes):
    """Arguments of the released network, smaller."""
    channels = {"in_channels": 3, "out_channels": 3, **IMAGENET}
    kind = {"attention": "full", "position": "relative", "absolute": 3, "roles": False, "merge": 3}
    return small(stem=PatchStem(patch=4, shared=True), depth=4) | channels | kind | changes


PRESETS = {
    "released": released(),
    "joined": released(decoder=TwoConvHead(channels=8, number=2, joined=True)),
    "paper": small(absolute=2, zero_shot=1.0),
    "full": small(attention="full"),
    "colour": small(in_channels=2, out_channels=3),
    "head on convolutions": small(conv=True),
    "plain": u(skips="plain"),
    "prototype": u(skips="prototype"),
    "codes": u(),
    "matching": u(matching=[2], zero_shot=1.0),
    "full prototype": u(skips="prototype", attention="full"),
    "full codes": u(attention="full", matching=[2], out_channels=3),
    "relative codes": u(attention="full", position="relative"),
    "released 3D": small((8, 8, 8), attention="full", position="relative", absolute=2, merge=1),
    "sketch": u(supervision=0.5, out_channels=2),
    "full sketch": u(supervision=0.5, attention="full"),
    "sketch 3D": u((8, 8, 8), supervision=0.5),
    "codes 3D": u((8, 8, 8), matching=[2]),
    "prototype 3D": u((8, 8, 8), skips="prototype", attention="full"),
}
ORDERED = [name for name, arguments in PRESETS.items() if arguments.get("attention", "ordered") == "ordered"]
FULL = [name for name in PRESETS if name not in ORDERED]


def make(name, seed=0, **changes):
    """A network whose parameters are all at work, none at zero."""
    torch.manual_seed(seed)
    network = CanvasViT(**(PRESETS[name] | changes))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def draw(network, batch=2, context=3, mim=False, seed=0):
    rng = torch.Generator().manual_seed(seed)
    inputs, outputs, size = network.in_channels, network.out_channels, network.image_size
    return Episode(
        image=torch.rand(batch, inputs, *size, generator=rng),
        target=torch.rand(batch, outputs, *size, generator=rng),
        weight=torch.rand(batch, 1, *size, generator=rng),
        context_images=torch.rand(batch, context, inputs, *size, generator=rng),
        context_targets=torch.rand(batch, context, outputs, *size, generator=rng),
        context_weights=torch.rand(batch, context, 1, *size, generator=rng),
        is_label=torch.arange(batch) % 2 == 0,
        mim=torch.full((batch,), mim) if isinstance(mim, bool) else torch.tensor(mim),
        seed=torch.arange(batch) + seed,
    )


def paint(network, episode):
    return network(episode.image, episode.context_images, episode.context_targets)


def single(episode, number):
    values = {name: value for name, value in vars(episode).items() if isinstance(value, torch.Tensor)}
    return replace(episode, **{name: value[number : number + 1] for name, value in values.items()})


def painted_in_training(network, episode):
    """What the loss is computed from: painted tiles `(B, K, C, *S)`."""
    seen = []
    objective = network.objective
    network.objective = lambda painted, *rest: seen.append(painted) or objective(painted, *rest)
    network.loss(episode)
    network.objective = objective
    return seen[0].unflatten(0, (len(episode), -1))


def close(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.fixture(params=PRESETS)
def network(request):
    return make(request.param)


@pytest.fixture(params=ORDERED)
def ordered(request):
    return make(request.param)


@pytest.fixture(params=FULL)
def full(request):
    return make(request.param)


class TestForward:
    @pytest.mark.parametrize("context", [1, 2, 5])
    def test_any_number_of_examples(self, network, context):
        episode = draw(network, context=context)
        painted = paint(network, episode)
        assert painted.shape == episode.target.shape
        assert torch.isfinite(painted).all()

    def test_batch_equals_one_by_one(self, network):
        episode = draw(network, batch=3)
        close(paint(network, episode), torch.cat([paint(network, single(episode, i)) for i in range(3)]))

    def test_one_memory_serves_many_queries(self, network):
        episode = draw(network, batch=1)
        queries = draw(network, batch=3, seed=1).image
        memory = network.remember(episode.context_images, episode.context_targets)
        alone = [network(image[None], episode.context_images, episode.context_targets) for image in queries]
        close(network.answer(queries, memory), torch.cat(alone))

    def test_every_example_is_used(self, network):
        episode = draw(network, batch=1)
        for number in range(3):
            for name in ("context_images", "context_targets"):
                changed = getattr(episode, name).clone()
                changed[:, number] = 1 - changed[:, number]
                assert not torch.allclose(paint(network, replace(episode, **{name: changed})), paint(network, episode))

    def test_answers_after_several_numbers_of_examples_are_those_of_each_number_alone(self, network):
        episode = draw(network, context=4)
        images, targets = episode.context_images, episode.context_targets
        asked = [(3, None), (1, Pair(images[:, 3], targets[:, 3])), (1, None)]
        with torch.inference_mode():
            painted = network.answer_after(episode.image, images, targets, asked)
            for answer, (count, coarse) in zip(painted, asked, strict=True):
                memory = network.remember(images[:, :count], targets[:, :count])
                close(answer, network.answer(episode.image, memory, coarse))

    def test_coarse_answer_counts_as_one_more_example(self, network):
        episode = draw(network, batch=2)
        first = network.remember(episode.context_images[:1, :2], episode.context_targets[:1, :2])
        coarse = Pair(episode.context_images[:, 2], episode.context_targets[:, 2])
        images = torch.cat(
            [episode.context_images[:1, :2].expand(2, -1, *[-1] * (episode.image.ndim - 1)), coarse.image[:, None]], 1
        )
        targets = torch.cat(
            [episode.context_targets[:1, :2].expand(2, -1, *[-1] * (episode.image.ndim - 1)), coarse.target[:, None]], 1
        )
        close(network.answer(episode.image, first, coarse), network(episode.image, images, targets))

    @pytest.mark.parametrize("name", [name for name in FULL if PRESETS[name].get("position") != "relative"])
    def test_order_of_examples_does_not_matter_under_full_attention(self, name):
        network = make(name)
        episode = draw(network)
        turned = replace(
            episode, context_images=episode.context_images.flip(1), context_targets=episode.context_targets.flip(1)
        )
        close(paint(network, turned), paint(network, episode))

    def test_ordered_memory_of_the_first_examples_ignores_the_last(self, ordered):
        episode, other = draw(ordered), draw(ordered, seed=9)
        images, targets = episode.context_images.clone(), episode.context_targets.clone()
        images[:, -1], targets[:, -1] = other.context_images[:, -1], other.context_targets[:, -1]
        before = ordered.remember(episode.context_images, episode.context_targets).keys_values
        after = ordered.remember(images, targets).keys_values
        for (k, v), (k_after, v_after) in zip(before, after, strict=True):
            close(k[:, :, :2], k_after[:, :, :2], 1e-6)
            close(v[:, :, :2], v_after[:, :, :2], 1e-6)
            assert not torch.allclose(v[:, :, 2], v_after[:, :, 2])

    def test_bfloat16_is_close(self, network):
        episode = draw(network)
        exact = paint(network, episode)
        with torch.autocast("cpu", torch.bfloat16):
            rough = paint(network, episode)
        assert rough.dtype == torch.float32
        assert (rough - exact).abs().mean() < 0.05 * exact.std()

    @pytest.mark.parametrize("mean", [0.0, 0.5])
    def test_copy_gate_paints_the_query_image_in_its_own_units(self, mean):
        network = make("codes", mean=[mean], std=[0.5])
        torch.nn.init.zeros_(network.decoder.last.weight)
        episode = draw(network)
        network.decoder.last.bias.data = torch.tensor([0.0, 9.0])
        close(paint(network, episode), episode.image, 1e-6)
        network.decoder.last.bias.data = torch.tensor([0.25, -9.0])
        close(paint(network, episode), torch.full_like(episode.image, mean + 0.125), 1e-6)


class TestLoss:
    def test_supervision_adds_the_cost_of_what_the_tokens_paint(self):
        network, losses = make("sketch").train(), []
        episode = draw(network)
        for weight in (0.0, 1.0, 2.0):
            network.decoder.supervision = weight
            losses.append(network.loss(episode)["loss"].item())
        assert losses[1] > losses[0]
        assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4)
        torch.nn.init.zeros_(network.decoder.last.weight)
        network.loss(episode)["loss"].backward()
        assert all(block.attn.qkv.weight.grad.any() for block in network.blocks)

    @pytest.mark.parametrize("mim", [True, False])
    def test_every_parameter_gets_a_gradient(self, network, mim):
        network.loss(draw(network, mim=mim))["loss"].backward()
        idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
        # a patch's label that is hidden leaves its own trace in the mask token, every other parameter is always at work
        assert idle == []

    @pytest.mark.parametrize("mim", [[True, False, True], [False, False, False]])
    def test_batch_is_the_mean_of_its_episodes(self, network, mim):
        episode = draw(network, batch=3, mim=mim)
        losses = network.loss(episode)
        alone = torch.stack([network.loss(single(episode, i))["loss"] for i in range(3)])
        close(losses["loss"], alone.mean(), 1e-5)
        close(losses["episodes"], alone, 1e-5)

    def test_full_autoregression_trains_what_inference_does(self, full):
        episode = draw(full)
        close(painted_in_training(full, episode)[:, -1], paint(full, episode))

    def test_ordered_training_pass_answers_after_every_number_of_examples(self, ordered):
        episode = draw(ordered)
        painted = painted_in_training(ordered, episode)
        images = torch.cat([episode.context_images, episode.image[:, None]], 1)
        for shown in range(1, 4):
            context = episode.context_images[:, :shown], episode.context_targets[:, :shown]
            close(painted[:, shown - 4], ordered(images[:, shown], *context))
        assert painted.shape[1] == (4 if ordered.zero_shot else 3)

    @pytest.mark.parametrize("mim", [True, False])
    def test_what_is_hidden_never_leaks_into_the_paint(self, network, mim):
        episode, other = draw(network, mim=mim), draw(network, seed=5)
        masks = self.masks(network, episode)
        targets, changed = self.targets(episode), self.targets(other)
        before = painted_in_training(network, episode)
        tiles, first = masks.shape[1], masks.shape[1] - before.shape[1]
        for tile in range(first, tiles):
            hidden = enlarge(masks[:, tile], network.image_size) > 0
            mixed = targets.clone()
            mixed[:, tile] = torch.where(hidden, changed[:, tile], targets[:, tile])
            after = painted_in_training(network, self.with_targets(episode, mixed))
            # in an ordered canvas later tiles may see this one, as it is an example for them
            upto = tile + 1 - first if network.ordered else tiles
            close(after[:, :upto], before[:, :upto], 1e-6)

    def test_what_is_visible_does_reach_the_paint(self, network):
        episode, other = draw(network, mim=True), draw(network, seed=5)
        hidden = enlarge(self.masks(network, episode)[:, -1], network.image_size) > 0
        changed = replace(episode, target=torch.where(hidden, episode.target, other.target))
        before, after = painted_in_training(network, episode), painted_in_training(network, changed)
        assert not torch.allclose(before[:, -1], after[:, -1])

    def test_only_hidden_pixels_count(self, full):
        episode = draw(full, mim=True)
        seen = []
        full.objective = lambda painted, target, weight, kind: (
            seen.append(weight) or Objective()(painted, target, weight, kind)
        )
        full.loss(episode)
        weights = torch.cat([episode.context_weights, episode.weight[:, None]], 1)
        masks = enlarge(self.masks(full, episode).flatten(0, 1), full.image_size)
        close(seen[0], weights.flatten(0, 1) * masks)

    def test_answer_without_an_example_counts_by_its_weight(self):
        without, half, whole = (
            make("codes", zero_shot=weight).loss(draw(make("codes")))["loss"] for weight in (0.0, 0.5, 1.0)
        )
        # three answers with examples, and one without
        first = 4 * whole - 3 * without
        close(half, (3 * without + 0.5 * first) / 3.5, 1e-5)

    def test_recomputing_blocks_gives_equal_gradients(self, network):
        gradients = []
        for recompute in (False, True):
            network.checkpointing = recompute
            network.train().zero_grad()
            network.loss(draw(network, mim=True))["loss"].backward()
            gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        for one, other in zip(*gradients, strict=True):
            close(one, other, 1e-6)

    @pytest.mark.parametrize("name", ["released", "codes"])
    def test_stochastic_depth_acts_in_training_only(self, name):
        network = make(name, drop_path=0.9)
        episode = draw(network)
        assert torch.equal(paint(network, episode), paint(network, episode))
        network.train()
        assert not torch.equal(paint(network, episode), paint(network, episode))

    @staticmethod
    def masks(network, episode):
        return episode_masks(
            episode.mim, episode.seed, network.grid, 4, network.mask_ratio, network.min_block, network.ordered
        )

    @staticmethod
    def targets(episode):
        return torch.cat([episode.context_targets, episode.target[:, None]], 1)

    @staticmethod
    def with_targets(episode, targets):
        return replace(episode, context_targets=targets[:, :-1], target=targets[:, -1])


class TestMistakes:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"image_size": (16,)}, "`image_size`"),
            ({"image_size": (18, 16)}, "stride 4"),
            ({"heads": 5}, "multiple of `heads`"),
            ({"heads": 8}, "`head_dim`"),
            ({"heads": 0}, "`heads` must be at least 1, got 0"),
            ({"depth": 0}, "`depth` must be at least 1, got 0"),
            ({"min_block": 0}, "`min_block` must be at least 1, got 0"),
            ({"mask_ratio": 0.0}, "`mask_ratio` must be"),
            ({"mask_ratio": 1.5}, "got 1.5"),
            ({"drop_path": 1.0}, "`drop_path` must be"),
            ({"attention": "causal"}, "ordered or full"),
            ({"position": "none"}, "rotary or relative"),
            ({"position": "relative"}, "`ordered` attention"),
            ({"merge": 1}, "`ordered` attention"),
            ({"stem": PatchStem(4, shared=True), "out_channels": 3}, "`shared: false`"),
            ({"mean": [0.1, 0.2], "in_channels": 2}, r"`mean` needs one value.* \(2\) and targets \(1\), got 2"),
            ({"std": [1.0, 2.0, 3.0]}, r"`std` needs one value.* got 3"),
            ({"decoder": UNetDecoder()}, "ConvStem"),
            ({"stem": ConvStem([16, 16]), "decoder": UNetDecoder(matching=[8])}, "`matching`"),
            ({"stem": ConvStem([16, 16]), "decoder": UNetDecoder(widths=[16])}, "one width a level"),
        ],
    )
    def test_arguments_that_do_not_fit_are_refused(self, changes, said):
        with pytest.raises(ValueError, match=said):
            CanvasViT(**(small() | changes))

    def test_parts_refuse_what_they_cannot_be(self):
        with pytest.raises(ValueError, match="`patch` must be at least 1, got 0"):
            PatchStem(0)
        with pytest.raises(ValueError, match="multiples of 16"):
            ConvStem([20])
        with pytest.raises(ValueError, match="`skips`"):
            UNetDecoder(skips="none")

    def test_other_sizes_channels_and_empty_contexts_are_refused(self):
        network = make("full")
        image = torch.rand(1, 1, 24, 16)
        with pytest.raises(ValueError, match=r"\(16, 16\), got \(24, 16\)"):
            network(image, image[None], image[None])
        image = torch.rand(1, 3, 16, 16)
        with pytest.raises(ValueError, match="1 image and 1 target channels, got 3 and 1"):
            network(image, image[None], image[None, :, :1])
        image = torch.rand(1, 1, 16, 16)
        with pytest.raises(ValueError, match="at least 1 pair"):
            network(image, image[None, :0], image[None, :0])


@pytest.mark.parametrize("path", CANVASES, ids=lambda path: path.name)
def test_shipped_network_paints_when_made_small(path):
    plain = yaml.safe_load(path.read_text())
    if len(plain["init_args"]["image_size"]) == 3:
        pytest.skip("networks for volumes are tested with their own kind")
    small = {"image_size": [64, 64], "width": 48, "depth": 4, "heads": 2}
    known = inspect.signature(find_class(plain["class_path"], TRUSTED).__init__).parameters
    network = build(path, **{name: value for name, value in small.items() if name in known})
    episode = draw(network, batch=1, context=2)
    assert torch.isfinite(paint(network, episode)).all()
    assert torch.isfinite(network.loss(episode)["loss"])


@pytest.mark.parametrize("transfer", [CodeTransfer(2, 4, 8, 1, codes=1, place=0), PrototypeTransfer(2, 4, 1)])
def test_half_precision_carries_over_from_many_pixels(transfer):
    size = (288, 288)  # more pixels than float16 can count
    images, labels, ones = torch.rand(1, 1, 4, *size) + 1, torch.rand(1, 1, 8, *size), torch.ones(1, 1, 1, *size)
    pool = Pool((images,), (labels,), torch.rand(1, 1, 1, *size), ones)
    inputs = torch.rand(1, 4, *size), images, labels, pool, [(0,)]
    with torch.no_grad():
        full = transfer(*inputs)
        with torch.autocast("cpu", torch.float16):
            half = transfer(inputs[0].half(), images.half(), *inputs[2:])
    torch.testing.assert_close(half.float(), full, atol=5e-3, rtol=1e-2)
