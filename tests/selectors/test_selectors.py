import pytest
import torch

from frostline.core.importance import mean_by_layer, squared_gradients
from frostline.core.structure import block_modules, blocks, everything, head, layers
from frostline.costs import TaskCosts
from frostline.models import decoder, mlp, slim_resnet18, vit
from frostline.selectors import FirstK, HeadOnly, LastK, Pattern, TopGradient

no_cost = TaskCosts(trace=None, epochs=96, samples=100)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return slim_resnet18((1, 8, 8), 10, filters=4)


def test_depth_rules(net, digits):
    task = digits[1]
    assert HeadOnly()(net, task, no_cost) == head(net)
    assert LastK(k=0)(net, task, no_cost) == head(net)
    assert LastK(k=2)(net, task, no_cost) == head(net) | blocks(net)[-1] | blocks(net)[-2]
    assert FirstK(k=1)(net, task, no_cost) == head(net) | blocks(net)[0]
    assert LastK(k=9)(net, task, no_cost) == everything(net)


def test_warm_up_trains_everything(net, digits):
    rule = HeadOnly(warmup_tasks=2)
    assert [rule(net, digits[t], no_cost) == everything(net) for t in range(4)] == [True, True, False, False]


def test_k_larger_than_the_net(net):
    LastK(k=9).check(net, no_cost)
    with pytest.raises(ValueError, match="nearest valid value is 9"):
        LastK(k=10).check(net, no_cost)
    with pytest.raises(ValueError, match="nearest valid value is 0"):
        LastK(k=-1)


def test_pattern(net, digits):
    rule = Pattern(include=["block[78]", "head"], exclude=["bn"])
    chosen = rule(net, digits[0], no_cost)
    assert "backbone.block7.conv1.weight" in chosen
    assert not any("bn" in n or "block6" in n for n in chosen)
    with pytest.raises(ValueError, match="'blok' matches no parameter"):
        Pattern(include=["blok"]).check(net, no_cost)
    with pytest.raises(ValueError, match="not a regular expression"):
        Pattern(include=["("])
    with pytest.raises(ValueError, match="leaves nothing"):
        Pattern(include=["head"], exclude=["head"]).check(net, no_cost)


def test_top_gradient_takes_the_best_layers_that_fit(digits):
    torch.manual_seed(0)
    net, task = mlp(digits.shape, digits.classes, hidden=[32, 16, 8]), digits[1]
    rule = TopGradient(fraction=0.5, samples=len(task.train))
    chosen = rule(net, task, no_cost)
    sizes = {n: p.numel() for n, p in net.named_parameters()}
    assert head(net) <= chosen
    assert sum(sizes[n] for n in chosen) <= 0.5 * sum(sizes.values())
    squares = squared_gradients(net, task, task.train.batches(200), labels="empirical")
    scores = mean_by_layer(layers(net), squares)
    left_out = [n for n, own in layers(net).items() if not set(own) <= chosen]
    room = 0.5 * sum(sizes.values()) - sum(sizes[n] for n in chosen)
    for name in left_out:  # what was left out did not fit, or scored less than all that was taken
        too_big = sum(sizes[n] for n in layers(net)[name]) > room
        assert too_big or scores[name] <= min(scores[n] for n, own in layers(net).items() if set(own) <= chosen)


def test_top_gradient_does_not_disturb_the_global_random_numbers(digits):
    net = mlp(digits.shape, digits.classes, hidden=[8])
    before = torch.get_rng_state()
    one = TopGradient(fraction=0.9, seed=3)(net, digits[0], no_cost)
    assert torch.equal(before, torch.get_rng_state())
    assert one == TopGradient(fraction=0.9, seed=3)(net, digits[0], no_cost)


def test_top_gradient_with_too_small_a_share(digits):
    net = mlp(digits.shape, digits.classes, hidden=[8])
    with pytest.raises(ValueError, match="the head alone holds"):
        TopGradient(fraction=0.01).check(net, no_cost)
    with pytest.raises(ValueError, match="> 0 and <= 1"):
        TopGradient(fraction=0.0)


@pytest.mark.parametrize("model", [decoder, vit])
def test_the_last_norm_is_a_part_of_the_last_block(model):
    """It was a block of its own: last_k with k=1 trained it alone, and a decoder with a tied head learned nothing."""
    net = (
        decoder((16,), 61, 16, 3, 2, 1, 24)
        if model is decoder
        else vit((1, 8, 8), 5, patch=4, width=16, depth=3, heads=2)
    )
    groups, modules = blocks(net), block_modules(net)
    assert modules[-1] == "backbone.block3"
    assert all(any(net.get_parameter(name).ndim > 1 for name in group) for group in groups)
    thawed = LastK(k=1).choose(net, None, None) - head(net)  # type: ignore[arg-type]
    assert any("block3" in name or ".2." in name for name in thawed)
    assert any("norm" in name and "block" not in name for name in thawed) or model is vit
    assert frozenset().union(*groups) | head(net) == everything(net)
