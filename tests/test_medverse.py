"""Medverse and Neuroverse3D: one by one as in batches, contexts as streams, and what learns."""

import weakref
from pathlib import Path

import pytest
import torch
from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding
from torch.nn import functional as F

from mvg import weights
from mvg.episode import Episode, Pair
from mvg.models import Medverse
from mvg.models.blockwise import BlockwiseFusion, block_means, group, sincos_position
from mvg.weights import build

ROOT = Path(__file__).parents[1]
WIDTHS, SIZE = (4, 6, 8), (16, 16, 16)
MODES = ["concat", "blockwise"]


def make(fusion="blockwise", seed=0, size=SIZE, **options):
    torch.manual_seed(seed)
    network = Medverse(size, widths=options.pop("widths", WIDTHS), fusion=fusion, **{"blocks": 2, "code": 12} | options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)  # answers that vary
    return network.eval()


def data(batch=2, pairs=3, size=SIZE, seed=1):
    rng = torch.Generator().manual_seed(seed)
    image, coarse = torch.rand(2, batch, 1, *size, generator=rng)
    context = torch.rand(batch, pairs, 1, *size, generator=rng)
    return image, context, (context > 0.5).float(), Pair(coarse, (coarse > 0.5).float())


def close(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def episode(size=SIZE, coarse=False):
    image, images, targets, pair = data(size=size)
    return Episode(
        image,
        (image > 0.5).float(),
        torch.ones_like(image),
        images,
        targets,
        torch.ones_like(targets),
        torch.ones(2, dtype=torch.bool),
        torch.zeros(2, dtype=torch.bool),
        torch.arange(2),
        coarse_image=pair.image if coarse else None,
        coarse_target=pair.target if coarse else None,
    )


# ---------------------------------------------------------------------- parts


@pytest.mark.parametrize(("name", "count"), [("medverse", 71_050_569), ("neuroverse3d", 70_854_913)])
def test_parameters_are_those_of_the_released_networks(name, count):
    with torch.device("meta"):
        network = build(ROOT / f"configs/network/{name}.yaml")
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("grouping", ["lattice", "block"])
@pytest.mark.parametrize("size", [(4, 8), (4, 8, 12)])
def test_groups_hold_every_voxel_once(size, grouping):
    maps = torch.rand(2, 3, *size)
    view, copy = group(maps, 4, grouping), torch.empty_like(maps)
    group(copy, 4, grouping).copy_(view)
    assert torch.equal(copy, maps)
    dims = len(size)
    assert view.shape == (2, *[4] * dims, *[side // 4 for side in size], 3)


def test_lattice_tokens_interleave_and_blocks_do_not():
    maps = torch.arange(64).view(1, 1, 8, 8).float()
    lattice, block = (group(maps, 4, grouping)[0, 0, 1].flatten() for grouping in ("lattice", "block"))
    assert lattice.tolist() == [1, 5, 33, 37]
    assert block.tolist() == [2, 3, 10, 11]


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_positions_are_those_of_monai():
    for blocks, width, dims in ((4, 66, 3), (3, 16, 2)):
        expected = build_sincos_position_embedding(blocks, width, dims)[0].detach()
        close(sincos_position(blocks, width, dims), expected, 1e-6)


@pytest.mark.parametrize("grouping", ["lattice", "block"])
def test_a_token_that_all_attend_to_is_read_by_all(grouping):
    fusion, place = BlockwiseFusion(2, 2, grouping, 4), torch.zeros(4, 4)
    with torch.no_grad():
        fusion.own.weight.copy_(-torch.eye(2))
        fusion.own.bias.zero_()
        fusion.other.weight.copy_(torch.eye(2))
        fusion.query.weight.zero_()
        fusion.query.bias.fill_(1)
        fusion.key.weight.zero_()
        place[3] = 1e4
        other = torch.rand(1, 2, 4, 6)
        read = fusion(torch.rand(1, 2, 4, 6), [fusion.offer(other, place)], torch.zeros(4, 4))
    chosen = F.gelu(group(other, 2, grouping)[:, 1:, 1:])
    close(group(read, 2, grouping), chosen.expand_as(group(read, 2, grouping)))


@pytest.mark.parametrize("grouping", ["lattice", "block"])
@pytest.mark.parametrize("size", [(4, 8), (4, 8, 12)])
def test_means_are_those_of_the_voxels_of_each_token(size, grouping):
    maps, dims = torch.rand(2, 3, *size), len(size)
    expected = group(maps, 2, grouping).mean(tuple(range(1 + dims, 1 + 2 * dims))).flatten(1, dims)
    close(block_means(maps, 2, grouping), expected)


# ---------------------------------------------------------------------- behaviour


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("fusion", MODES)
def test_a_batch_is_answered_as_its_episodes_are_one_by_one(fusion, coarse):
    network, (image, images, targets, pair) = make(fusion, mini_context=2, keep=2), data()
    with torch.inference_mode():
        painted = network.answer(image, network.remember(images, targets), pair if coarse else None)
        alone = [
            network.answer(
                image[[i]],
                network.remember(images[[i]], targets[[i]]),
                Pair(pair.image[[i]], pair.target[[i]]) if coarse else None,
            )
            for i in range(2)
        ]
    close(painted, torch.cat(alone))
    assert painted.std() > 1e-2


@pytest.mark.parametrize("fusion", MODES)
def test_one_context_serves_a_batch_of_queries(fusion):
    network, (image, images, targets, pair) = make(fusion, mini_context=2), data()
    same = [context[:1].expand_as(context) for context in (images, targets)]
    with torch.inference_mode():
        memory = network.remember(images[:1], targets[:1])
        close(network.answer(image, memory, pair), network.answer(image, network.remember(*same), pair))


@pytest.mark.parametrize("size", [(16, 16, 24), (16, 24)])
@pytest.mark.parametrize("fusion", MODES)
def test_neither_mini_contexts_nor_keeping_nor_gradients_change_the_answer(fusion, size):
    image, images, targets, _ = data(pairs=4, size=size)
    expected = make(fusion, mini_context=4, size=size)(image, images, targets)
    for options in ({"mini_context": 1}, {"mini_context": 3, "keep": 2}, {"gradient": "all"}):
        network = make(fusion, size=size, **options)
        with torch.inference_mode():
            close(network(image, images, targets), expected)
            memory = network.remember(images, targets)
            assert len(memory.begun) == options.get("keep", 1)
            for _ in range(2):
                close(network.answer(image, memory), expected)


@pytest.mark.parametrize("fusion", MODES)
def test_order_of_the_context_does_not_matter_but_pairing_does(fusion):
    network, (image, images, targets, _) = make(fusion, mini_context=1), data()
    with torch.inference_mode():
        painted = network(image, images, targets)
        close(network(image, images.flip(1), targets.flip(1)), painted)
        assert (network(image, images.flip(1), targets) - painted).abs().max() > 1e-3


def test_the_coarser_scale_is_no_further_example():
    network, (image, images, targets, pair) = make(), data()
    with torch.inference_mode():
        memory = network.remember(images, targets)
        led = network.answer(image, memory, pair)
        assert (led - network.answer(image, memory)).abs().max() > 1e-3
        more = [torch.cat([a, b[:, None]], 1) for a, b in ((images, pair.image), (targets, pair.target))]
        assert (led - network(image, *more)).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", MODES)
def test_answers_after_several_numbers_of_pairs_are_those_of_each_number_alone(fusion):
    network, (image, images, targets, pair) = make(fusion, mini_context=2), data(pairs=5)
    asked = [(5, None), (1, pair), (3, pair), (1, None)]
    with torch.inference_mode():
        painted = network.answer_after(image, images, targets, asked)
        for answer, (count, coarse) in zip(painted, asked, strict=True):
            close(answer, network.answer(image, network.remember(images[:, :count], targets[:, :count]), coarse))


class Stream:
    """Pairs made when they are asked for; notes how many are alive."""

    def __init__(self, pairs):
        self.pairs, self.alive, self.most = pairs, weakref.WeakSet(), 0

    def __iter__(self):
        for pair in self.pairs:
            made = tuple(part.clone() for part in pair)
            self.alive.add(made[0])
            self.most = max(self.most, len(self.alive))
            yield made
            del made


def test_a_context_may_be_a_stream_of_which_few_pairs_are_held():
    network, (image, images, targets, _) = make(mini_context=2), data(1, 12)
    stream = Stream(list(zip(images.unbind(1), targets.unbind(1), strict=True)))
    with torch.inference_mode():
        memory = network.remember_pairs(stream)
        for _ in range(2):
            close(network.answer(image, memory), network(image, images, targets))
        assert stream.most <= 6
        once = network.remember_pairs(pair for pair in stream)
        close(network.answer(image, once), network(image, images, targets))
        with pytest.raises(ValueError, match="a generator serves one answer"):
            network.answer(image, once)


# ---------------------------------------------------------------------- the gate that copies


@pytest.mark.parametrize("fusion", MODES)
def test_an_open_gate_paints_the_query_itself_and_a_closed_one_the_paint_alone(fusion):
    network, (image, images, targets, pair) = make(fusion, copy=True), data()
    assert (network(image, images, targets) - image).abs().max() < 0.03  # before training
    decoder, other = network.target_decoder, make(fusion)
    with torch.no_grad():
        decoder.gate.bias.fill_(100)
        assert torch.equal(network(image, images, targets), image)
        other.load_state_dict({name: value for name, value in network.state_dict().items() if ".gate." not in name})
        for part in (decoder.paint, other.target_decoder.paint):
            part.weight.copy_(torch.linspace(-1, 1, WIDTHS[0])[None])
        decoder.gate.bias.fill_(-100)
        memory = network.remember(images, targets)
        assert torch.equal(network.answer(image, memory, pair), other.answer(image, memory, pair))


def test_the_gate_copies_the_mean_of_several_contrasts_to_every_channel_of_the_answer():
    network, (image, images, targets, _) = make(copy=True, in_channels=2, out_channels=3), data()
    image, images, targets = (
        torch.cat([image, 1 - image], 1),
        images.repeat(1, 1, 2, 1, 1, 1),
        targets.repeat(1, 1, 3, 1, 1, 1),
    )
    with torch.no_grad():
        network.target_decoder.gate.bias.fill_(100)
        close(network(image, images, targets), torch.full((2, 3, *SIZE), 0.5))


def test_the_gate_is_no_part_of_the_released_networks():
    names = [set(make(copy=copy).state_dict()) for copy in (False, True)]
    assert names[1] - names[0] == {"target_decoder.gate.weight", "target_decoder.gate.bias"}
    assert names[0] <= names[1]


def test_every_weight_learns_behind_the_gate():
    network, given = make(copy=True).train(), episode(coarse=True)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(3):
        optimizer.zero_grad()
        network.loss(given)["loss"].backward()
        optimizer.step()
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0] == []


# ---------------------------------------------------------------------- learning


@pytest.mark.parametrize("fusion", MODES)
def test_the_last_mini_context_learns_for_all(fusion):
    gradients = {}
    for mode in ("last", "all"):
        image, images, targets, pair = data()
        network = make(fusion, mini_context=1, gradient=mode)
        images.requires_grad_()
        memory = network.remember_pairs(list(zip(images.unbind(1), targets.unbind(1), strict=True)))
        network.answer(image, memory, pair).square().sum().backward()
        gradients[mode] = images.grad
    assert gradients["all"][:, 0].abs().max() > 1e-4
    assert gradients["last"][:, 1].abs().max() == 0
    close(gradients["last"][:, 2], 3 * gradients["all"][:, 2], 1e-4)


def test_every_weight_learns_under_autocast_though_first_pairs_are_read_without_gradient():
    network = make(mini_context=1).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = network.loss(episode(coarse=True))["loss"]
    loss.backward()
    still = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().max() > 0]
    assert still == []


def test_recomputing_gives_the_same_gradient():
    gradients = []
    for checkpointing in (False, True):
        network = make(checkpointing=checkpointing).train()
        network.loss(episode())["loss"].backward()
        gradients.append(network.target_encoder.embed.weight.grad)
    close(*gradients)


@pytest.mark.parametrize("size", [SIZE, (16, 16)])
def test_it_learns_one_episode(size):
    network = make(size=size).train()
    optimizer, given, losses = torch.optim.Adam(network.parameters(), 3e-3), episode(size), []
    for _ in range(25):
        result = network.loss(given)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        losses.append(result["loss"].item())
    assert result["episodes"].mean() == pytest.approx(result["loss"].item())
    assert losses[-1] < 0.6 * losses[0]


def test_a_saved_network_paints_the_same(tmp_path):
    network, (image, images, targets, pair) = make(grouping="block"), data()
    loaded = weights.load(weights.save(tmp_path / "weights", network))
    with torch.inference_mode():
        expected = network.answer(image, network.remember(images, targets), pair)
        assert torch.equal(loaded.answer(image, loaded.remember(images, targets), pair), expected)


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (20, 16, 16)}, "multiples of 8 .* got \\(20, 16, 16\\)"),
        ({"image_size": (16,)}, "`image_size` must be"),
        ({"fusion": "sum"}, "`fusion` must be blockwise or concat, got 'sum'"),
        ({"grouping": "rows"}, "`grouping` must be lattice or block"),
        ({"gradient": "none"}, "`gradient` must be last or all"),
        ({"mini_context": 0}, "`mini_context` must be at least 1, got 0"),
        ({"keep": -1}, "`keep` must be at least 0"),
        ({"widths": (4,)}, "`stages` must be at least 2"),
        ({"code": 10}, "`code` must be a multiple of 6"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Medverse(**{"image_size": SIZE, "widths": WIDTHS, "blocks": 2, "code": 12} | options)


def test_inputs_are_checked():
    network, (image, images, targets, _) = make(), data()
    memory = network.remember(images, targets)
    cases = [
        (image[:, :, :12], memory, "multiples of 8"),
        (image[..., 0], memory, "3 axes"),
        (image.expand(-1, 2, -1, -1, -1), memory, "query must have 1 channels"),
        (image[:, :, :8], memory, "context image must have the query's size"),
        (image[:1], memory, "batch size 1 or 1|batch size 1, got 2"),
        (image, network.remember_pairs([]), "at least 1 pair"),
    ]
    for query, context, message in cases:
        with pytest.raises(ValueError, match=message):
            network.answer(query, context)


@pytest.mark.parametrize("name", ["medverse", "medverse_small", "neuroverse3d"])
def test_shipped_networks_paint_when_made_small(name):
    network = build(ROOT / f"configs/network/{name}.yaml", image_size=SIZE, widths=WIDTHS, blocks=2, code=12)
    assert torch.isfinite(network(*data()[:3])).all()
    assert torch.isfinite(network.loss(episode())["loss"])


def test_normalised_units_keep_their_scale_however_large_the_weights():
    torch.manual_seed(0)
    image, context, target = torch.rand(1, 1, 16, 16), torch.rand(1, 2, 1, 16, 16), torch.rand(1, 2, 1, 16, 16)
    sizes = {}
    for normalise in (False, True):
        network = Medverse([16, 16], widths=(8, 16), blocks=2, code=8, normalise=normalise)
        for name, weight in network.named_parameters():
            if name.endswith(("first.weight", "second.weight")):
                weight.data.mul_(100)
        sizes[normalise] = network(image, context, target).abs().max().item()
    assert sizes[True] < 1e3 < sizes[False]
