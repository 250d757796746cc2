"""Properties of the networks of others: SegGPT and UniverSeg."""

import pytest
import torch
from test_canvas_vit import close, draw, paint

from mvg.episode import Pair
from mvg.models import SegGPT, UniverSeg, ViTEncoder

VIT = {"image_size": (16, 16), "width": 24, "depth": 4, "heads": 2, "mlp_ratio": 2.0, "patch": 4, "channels": 8}
NETWORKS = {
    "seggpt": lambda **changes: SegGPT(**VIT | {"absolute": 3, "min_block": 1} | changes),
    "seggpt of one stream": lambda **changes: SegGPT(**VIT | {"absolute": 0, "merge": 0, "kind": "semantic"} | changes),
    "universeg": lambda **changes: UniverSeg(**{"image_size": (16, 24), "width": 8, "depth": 3} | changes),
    "universeg colours": lambda **changes: UniverSeg((16, 16), 2, 3, **{"width": 8, "depth": 2} | changes),
}


def make(name, **changes):
    torch.manual_seed(0)
    network = NETWORKS[name](**changes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture(params=NETWORKS)
def network(request):
    return make(request.param)


class TestContract:
    @pytest.mark.parametrize("context", [1, 4])
    def test_batch_equals_one_by_one(self, network, context):
        episode = draw(network, batch=2, context=context)
        images, targets = episode.context_images, episode.context_targets
        with torch.inference_mode():
            single = [network(episode.image[i : i + 1], images[i : i + 1], targets[i : i + 1]) for i in range(2)]
        close(paint(network, episode), torch.cat(single), 1e-5)

    def test_one_memory_serves_many_queries(self, network):
        episode = draw(network, batch=3)
        images, targets = episode.context_images[:1], episode.context_targets[:1]
        with torch.inference_mode():
            shared = network.answer(episode.image, network.remember(images, targets))
            repeated = network(episode.image, images.expand(3, -1, -1, -1, -1), targets.expand(3, -1, -1, -1, -1))
        close(shared, repeated, 1e-5)

    def test_every_example_is_used(self, network):
        episode = draw(network, batch=1, context=3)
        before = paint(network, episode)
        for number in range(3):
            changed = episode.context_targets.clone()
            changed[:, number] = 1 - changed[:, number]
            with torch.inference_mode():
                assert (network(episode.image, episode.context_images, changed) - before).abs().max() > 1e-4

    @pytest.mark.parametrize("mim", [True, False])
    def test_every_parameter_gets_a_gradient(self, network, mim):
        network.loss(draw(network, mim=mim))["loss"].backward()
        assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]

    def test_coarse_answer_counts_as_one_more_example(self, network):
        episode = draw(network, batch=1, context=3)
        images, targets = episode.context_images, episode.context_targets
        with torch.inference_mode():
            memory = network.remember(images[:, :2], targets[:, :2])
            found = network.answer(episode.image, memory, Pair(images[:, 2], targets[:, 2]))
        close(found, paint(network, episode), 1e-5)

    def test_batch_is_the_mean_of_its_episodes(self, network):
        episode = draw(network, batch=2)
        both = network.loss(episode)
        assert both["episodes"].shape == (2,)
        close(network.loss(episode.first(1))["loss"], both["episodes"][0], 1e-5)

    def test_other_sizes_channels_and_empty_contexts_are_refused(self, network):
        size, channels = network.image_size, network.in_channels
        for shape, said in [((channels, 8, 8), "built for images"), ((channels + 1, *size), "image channels|takes")]:
            image = torch.rand(1, *shape)
            with pytest.raises(ValueError, match=said):
                network(image, image[None], image[None, :, : network.out_channels])
        image = torch.rand(1, 1, channels, *size)
        with pytest.raises(ValueError, match="at least 1 pair"):
            network.remember(image[:, :0], image[:, :0])


class TestSegGPT:
    def test_equal_examples_are_one(self):
        network = make("seggpt")
        episode = draw(network, batch=2, context=1)
        images, targets = (x.expand(-1, 3, -1, -1, -1) for x in (episode.context_images, episode.context_targets))
        with torch.inference_mode():
            close(network(episode.image, images, targets), paint(network, episode), 1e-5)

    def test_kind_matters(self):
        episode = draw(make("seggpt"), batch=1)
        assert (paint(make("seggpt"), episode) - paint(make("seggpt", kind="semantic"), episode)).abs().max() > 1e-4
        with pytest.raises(ValueError, match="instance or semantic, got 'both'"):
            make("seggpt", kind="both")

    def test_masked_examples_are_painted_after_their_query_alone(self):
        network = make("seggpt")
        episode = draw(network, batch=1, context=3)
        tiles = network.embed(episode.context_images, episode.context_targets, torch.zeros(1, 3, 4, 4).bool())
        with torch.inference_mode():
            assert network._full(tiles, 0)[0].shape == (1, 3, 3, 16, 16)
            close(network._full(tiles, 2)[0][:, 0], network._full(tiles, 0)[0][:, -1], 1e-5)

    def test_recomputing_blocks_gives_equal_gradients(self):
        networks = [make("seggpt", checkpointing=flag, drop_path=0.0).train() for flag in (False, True)]
        for network in networks:
            network.loss(draw(network))["loss"].backward()
        for one, other in zip(*(network.parameters() for network in networks), strict=True):
            close(one.grad, other.grad, 1e-5)


class TestUniverSeg:
    def test_order_of_examples_does_not_matter(self):
        network = make("universeg")
        episode = draw(network, batch=1, context=4)
        with torch.inference_mode():
            turned = network(episode.image, episode.context_images.flip(1), episode.context_targets.flip(1))
        close(turned, paint(network, episode), 1e-5)

    @pytest.mark.parametrize("chunk", [1, 2, 7])
    def test_answer_by_chunks_is_the_same(self, chunk):
        episode = draw(make("universeg"), batch=2, context=5)
        close(paint(make("universeg", chunk=chunk), episode), paint(make("universeg"), episode), 1e-5)

    def test_an_even_chance_is_painted_half(self):
        network = make("universeg")
        episode = draw(network, batch=1)
        with torch.inference_mode():
            logits = network.logits(episode.image, network.remember(episode.context_images, episode.context_targets))
        close(torch.sigmoid(network.objective.sharpness * (paint(network, episode) - 0.5)), logits.sigmoid(), 1e-5)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"depth": 1}, "at least 2"),
            ({"image_size": (10, 10)}, "multiples of 4"),
            ({"chunk": -1}, "not be negative"),
        ],
    )
    def test_arguments_that_do_not_fit_are_refused(self, changes, said):
        with pytest.raises(ValueError, match=said):
            make("universeg", **changes)


def test_encoder_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="multiples of 16"):
        ViTEncoder((20, 20))
    with pytest.raises(ValueError, match="multiple of `heads`"):
        ViTEncoder(width=20, heads=3)
