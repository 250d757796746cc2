import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional as F

from mvg.objective import Objective, difference_loss, smooth_l1, soft_dice_loss

LABEL, IMAGE = torch.tensor([True]), torch.tensor([False])
ALL = {"cross_entropy": 1.0, "dice": 1.0, "gradient": 1.0}


def sample(batch=1, channels=1, size=(8, 8), seed=0):
    rng = torch.Generator().manual_seed(seed)
    painted, target = torch.rand(2, batch, channels, *size, generator=rng)
    return painted, (target > 0.5).float(), torch.rand(batch, 1, *size, generator=rng)


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.5])
def test_regression_is_smooth_l1(beta):
    painted, target, _ = sample(channels=3)
    expected = F.smooth_l1_loss(painted, target, beta=beta)
    assert Objective(beta=beta)(painted, target, torch.ones(1, 1, 8, 8), IMAGE).item() == pytest.approx(expected.item())
    assert torch.allclose(smooth_l1(painted - target, beta).mean(), expected)


def test_cross_entropy_is_that_of_scaled_paint():
    painted, target, weight = sample()
    loss = Objective(label_regression=0, cross_entropy=1, sharpness=5)(painted, target, weight, LABEL)
    expected = (
        F.binary_cross_entropy(torch.sigmoid(5 * (painted - 0.5)), target, weight, reduction="sum") / weight.sum()
    )
    assert torch.allclose(loss, expected)


def test_dice_agrees_with_monai():
    painted, target, _ = sample(2, 3)
    expected = (
        DiceLoss(squared_pred=True, smooth_nr=1, smooth_dr=1, reduction="none")(painted, target).flatten(1).mean(1)
    )
    assert torch.allclose(soft_dice_loss(painted, target, torch.ones(2, 1, 8, 8)), expected)


def test_gradient_term_ignores_a_constant_but_sees_an_edge():
    _, target, weight = sample()
    assert difference_loss(target + 0.3, target, weight).item() == pytest.approx(0, abs=1e-6)
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    assert difference_loss(edge, torch.zeros_like(edge), torch.ones_like(edge)).item() == pytest.approx(0.5 / 7)


def test_std_divides_the_errors_of_its_channel():
    painted, target, weight = sample(channels=3)
    std = torch.tensor([0.2, 0.5, 1.0]).view(3, 1, 1)
    assert torch.allclose(
        Objective(beta=0, std=(0.2, 0.5, 1.0))(painted, target, weight, IMAGE),
        Objective(beta=0)(painted / std, target / std, weight, IMAGE),
    )


def test_batch_is_the_list_of_its_episodes():
    painted, target, weight = sample(4)
    is_label = torch.tensor([True, False, True, False])
    together = Objective(**ALL)(painted, target, weight, is_label)
    alone = [Objective(**ALL)(*(x[i : i + 1] for x in (painted, target, weight, is_label))) for i in range(4)]
    assert torch.allclose(together, torch.cat(alone))


@pytest.mark.parametrize("kind", [LABEL, IMAGE])
def test_scale_of_the_weight_and_uncounted_pixels_do_not_matter(kind):
    painted, target, weight = sample()
    weight[..., :4, :] = 0
    expected = Objective(background=0.3)(painted, target, weight, kind)
    painted[..., :4, :] = 9
    assert torch.allclose(Objective(background=0.3)(painted, target, 7 * weight, kind), expected)


def test_label_terms_leave_images_alone():
    painted, target, weight = sample()
    assert torch.equal(
        Objective(cross_entropy=1, dice=1)(painted, target, weight, IMAGE), Objective()(painted, target, weight, IMAGE)
    )


def test_background_counts_by_its_factor():
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2] = 1
    painted = (1 - target) * 0.5
    loss = Objective(beta=0, background=0.1)(painted, target, torch.ones(1, 1, 4, 4), LABEL)
    assert loss.item() == pytest.approx((8 * 1 + 0.1 * 8 * 0.5) / (8 + 0.8))


def test_small_organ_in_a_large_image_is_learned():
    target = torch.zeros(1, 1, 448, 448)
    target[..., 100:110, 200:205] = 1
    painted = torch.full_like(target, 0.2).requires_grad_()
    Objective(cross_entropy=1, dice=1)(painted, target, torch.ones_like(target), LABEL).backward()
    inside, outside = painted.grad[target > 0], painted.grad[target == 0]
    assert (inside < 0).all()
    assert inside.abs().mean() > 50 * outside.abs().mean()


@pytest.mark.parametrize("kind", [LABEL, IMAGE])
def test_episode_in_which_nothing_counts_costs_nothing(kind):
    painted, target, weight = sample()
    painted.requires_grad_()
    loss = Objective(cross_entropy=1, gradient=1)(painted, target, 0 * weight, kind)
    loss.backward()
    assert loss.item() == 0
    assert not painted.grad.any()


@pytest.mark.parametrize("name", ["beta", "background"])
def test_negative_argument_is_refused(name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        Objective(**{name: -1.0})


def test_cubic_regression_is_smooth_at_beta_and_that_of_neuroverse3d():
    error = torch.tensor([-2.0, -0.5, 0.3, 1.5])
    expected = torch.where(error.abs() < 1, error.abs() ** 3 / 3, error.abs() - 2 / 3)
    assert torch.allclose(smooth_l1(error, 1.0, 3), expected)
    below, above = (smooth_l1(torch.tensor(0.2) + step, 0.2, 3) for step in (-1e-4, 1e-4))
    assert (above - below).item() == pytest.approx(2e-4, rel=1e-2)
    with pytest.raises(ValueError, match="`power` must be 2 or 3, got 4"):
        Objective(power=4)


def test_cubic_regression_is_weighted_like_any_other():
    painted, target, weight = sample()
    loss = Objective(beta=1, power=3, regression=50)(painted, target, weight, IMAGE)
    expected = 50 * ((painted - target).abs() ** 3 / 3 * weight).sum() / weight.sum()
    assert torch.allclose(loss, expected)
