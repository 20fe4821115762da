"""A net as it was answers as functional_call does, and copies no tensor."""

import torch
from torch import nn
from torch.func import functional_call

from frostline.core.shadow import Shadows


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.5)
        self.tied = nn.Linear(4, 8)
        self.tied.weight = self.first.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.first(x) + self.tied(x))))


def made(net, weights):
    shadows = Shadows(net)
    assert shadows.of(weights) is None  # what is asked for once is not worth it
    shadow = shadows.of(weights)
    assert shadows.of(weights) is shadow
    return shadows, shadow


def test_it_answers_as_functional_call_does():
    torch.manual_seed(0)
    net, x = Net(), torch.randn(6, 4)
    weights = {name: torch.randn_like(p) for name, p in net.named_parameters() if name.startswith("first")}
    _, shadow = made(net, weights)
    net.train()
    net(x)  # moves the norm's statistics
    with torch.no_grad():
        net.head.weight.add_(1)
        weights["first.bias"].mul_(2)
        answer = shadow(x)
        assert net.training
        assert torch.equal(answer, functional_call(net.eval(), weights, (x,)))


def test_no_tensor_is_copied():
    net = Net()
    weights = {"head.weight": torch.zeros(3, 8)}
    _, shadow = made(net, weights)
    assert shadow.head.weight is weights["head.weight"]
    assert shadow.first.weight is net.first.weight
    assert shadow.norm.running_mean is net.norm.running_mean


def test_other_tensors_are_another_net():
    net, x = Net(), torch.randn(6, 4)
    weights = {"head.weight": torch.zeros(3, 8)}
    shadows, shadow = made(net, weights)
    weights["head.weight"] = torch.ones(3, 8)
    again = shadows.of(weights)
    assert again is not shadow
    assert torch.equal(again(x), functional_call(net.eval(), weights, (x,)))


def test_what_cannot_be_copied_has_none():
    net = Net()
    net.file = (line for line in ())
    shadows, weights = Shadows(net), {}
    assert shadows.of(weights) is None
    assert shadows.of(weights) is None
