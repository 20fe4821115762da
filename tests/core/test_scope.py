import pytest
import torch
from torch import nn

from frostline.core.scope import Scope, evaluating
from frostline.core.structure import blocks, everything, head, layers
from frostline.models import mlp, resnet18, slim_resnet18


def test_blocks_partition_all_but_the_head():
    for net in (mlp((4,), 2), slim_resnet18((1, 8, 8), 3, filters=2), resnet18((3, 8, 8), 3)):
        groups = blocks(net)
        assert frozenset().union(*groups) | head(net) == everything(net)
        assert sum(map(len, groups)) + len(head(net)) == len(everything(net))
    assert len(blocks(slim_resnet18((1, 8, 8), 3, filters=2))) == 9  # the stem and eight residual blocks


def test_models_that_say_nothing_have_a_block_a_layer():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    assert blocks(net) == [frozenset({"0.weight", "0.bias"})]
    assert head(net) == {"2.weight", "2.bias"}
    assert list(layers(net)) == ["0", "2"]


def test_thawed_is_a_context_not_a_lasting_flag():
    net = slim_resnet18((1, 8, 8), 2, filters=2).eval()
    flags = [p.requires_grad for p in net.parameters()]
    with Scope(net, head(net)).thawed() as scope:
        assert {n for n, p in net.named_parameters() if p.requires_grad} == head(net)
        assert list(scope.parameters) == ["head.weight", "head.bias"]
        assert scope.size == net.head.weight.numel() + 2
        assert net.head.training
        assert not net.backbone.stem[1].training  # frozen batch-norm
    assert [p.requires_grad for p in net.parameters()] == flags
    assert not any(m.training for m in net.modules())


def test_thawed_is_undone_after_an_error():
    net = mlp((4,), 2)
    with pytest.raises(KeyError), Scope(net, head(net)).thawed():
        raise KeyError
    assert all(p.requires_grad for p in net.parameters())


def test_a_norm_without_parameters_follows_what_is_around_it():
    net = nn.Sequential(
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)),
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)),
    )
    with Scope(net, frozenset({"1.0.weight"})).thawed():
        assert not net[0][1].training
        assert net[1][1].training


def test_partly_frozen_norm_still_learns():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with Scope(net, frozenset({"1.bias"})).thawed():
        assert net[1].training


def test_unknown_names_are_refused():
    net = mlp((4,), 2)
    with pytest.raises(ValueError, match=r"Did you mean 'head\.weight'"):
        Scope(net, frozenset({"head.weigt"}))


def test_evaluating_gives_every_module_its_own_mode_back():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    net[1].eval()
    with evaluating(net):
        assert not net.training
    assert net.training
    assert not net[1].training


def test_frozen_prefix_receives_no_gradient():
    net = mlp((4,), 2, hidden=[3, 3])
    with Scope(net, head(net)).thawed():
        net(torch.randn(5, 4)).sum().backward()
        assert net.backbone.layer1[0].weight.grad is None
        assert net.head.weight.grad is not None
