import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvg.configuration import from_config, to_config
from mvg.episode import Episode, Pair
from mvg.models import LVM
from mvg.models.lvm import Tokenizer


def small(**changes):
    torch.manual_seed(0)
    options = {"image_size": (16, 16), "width": 32, "depth": 2, "heads": 2, "stride": 4, "code_width": 8}
    return LVM(**{**options, **changes})


@pytest.fixture
def network():
    return small().eval()


@pytest.fixture
def shown():
    torch.manual_seed(1)
    return torch.rand(2, 1, 16, 16), torch.rand(2, 3, 1, 16, 16), torch.rand(2, 3, 1, 16, 16)


def episode(number=4, examples=2):
    torch.manual_seed(2)
    images = torch.rand(number, examples + 1, 1, 16, 16)
    targets = (images > 0.5).float()
    return Episode(
        image=images[:, 0], target=targets[:, 0], weight=torch.ones(number, 1, 16, 16), context_images=images[:, 1:],
        context_targets=targets[:, 1:], context_weights=torch.ones(number, examples, 1, 16, 16),
        is_label=torch.ones(number, dtype=torch.bool), mim=torch.zeros(number, dtype=torch.bool),
        seed=torch.zeros(number, dtype=torch.long),
        tasks=("made",) * number, cases=("made",) * number, specs=({},) * number,
    )  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([3, 5, 7]), min_size=1, max_size=4))
def test_words_are_numbered_and_found_again(levels):
    tokenizer = Tokenizer(1, 2, 4, levels)
    words = torch.arange(tokenizer.words).view(-1, 1)
    codes = tokenizer.look_up(words, (1, 1))
    assert torch.equal(tokenizer.number(codes), words)
    assert codes.abs().max() <= 1


def test_a_word_depends_on_what_was_said_before_alone(network, shown):
    image, images, targets = shown
    words = network._sentence(torch.cat([images, image[:, None]], 1), torch.cat([targets, image[:, None]], 1))
    whole, _ = network._read(words, None)
    first, past = network._read(words[:, :50], None)
    rest, _ = network._read(words[:, 50:], past)
    assert torch.allclose(torch.cat([first, rest], 1), whole, atol=1e-5)
    changed = words.clone()
    changed[:, 60:] = 0
    assert torch.allclose(network._read(changed, None)[0][:, :60], whole[:, :60], atol=1e-5)


def test_answer_is_what_greedy_reading_of_the_whole_sentence_says(network, shown):
    image, images, targets = shown
    words = torch.cat([network._sentence(images, targets), network._write(image)], 1)
    for _ in range(network.length):
        tokens, _ = network._read(words, None)
        words = torch.cat([words, network.head(network.norm(tokens[:, -1:])).argmax(-1)], 1)
    said = network.tokenizer.draw(network.tokenizer.look_up(words[:, -network.length :], network.grid))
    assert torch.allclose(network(image, images, targets), said, atol=1e-5)


def test_memory_of_one_context_serves_many_queries(network, shown):
    image, images, targets = shown
    memory = network.remember(images[:1], targets[:1])
    alone = [network.answer(query[None], memory) for query in image]
    assert torch.allclose(network.answer(image, memory), torch.cat(alone), atol=1e-5)


def test_coarse_answer_counts_as_an_example(network, shown):
    image, images, targets = shown
    coarse = Pair(images[:, 2], targets[:, 2], None)
    led = network.answer(image, network.remember(images[:, :2], targets[:, :2]), coarse)
    assert torch.allclose(led, network(image, images, targets), atol=1e-5)


def test_loss_reaches_every_parameter_and_falls():
    network, shown = small(), episode()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        made = network.loss(shown)
        optimizer.zero_grad()
        made["loss"].backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
        optimizer.step()
        losses.append((float(made["next_word"]), float(made["tokenizer"])))
    assert losses[-1][0] < 0.8 * losses[0][0]
    assert losses[-1][1] < 0.8 * losses[0][1]


def test_saved_network_says_the_same(network, shown, tmp_path):
    again = LVM.from_pretrained(network.save_pretrained(tmp_path / "lvm"))
    assert torch.equal(again.eval()(*shown), network(*shown))


def test_configuration_rebuilds_the_network(network):
    assert to_config(from_config(to_config(network))) == to_config(network)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"out_channels": 3}, "must agree"),
        ({"stride": 6, "image_size": (12, 12)}, "power of two"),
        ({"levels": (4,)}, "odd"),
        ({"image_size": (18, 16)}, "multiples"),
        ({"heads": 3}, "width"),
    ],
)
def test_wrong_arguments_are_named(changes, said):
    with pytest.raises(ValueError, match=said):
        small(**changes)
