"""Heads that are worked out: built again from what describes them, they answer the same."""

import json

import pytest
import torch
from torch import nn

from frostline.core.checks import UsageError
from frostline.core.heads import Mahalanobis, Normalised, Random, described, linear, rebuilt

HEADS = {
    "linear": lambda: linear(torch.randn(3, 5), torch.randn(3)),
    "without bias": lambda: linear(torch.randn(3, 5)),
    "normalised": lambda: Normalised(linear(torch.randn(3, 5), torch.randn(3))),
    "random features": lambda: nn.Sequential(Random(torch.randn(5, 7)), linear(torch.randn(3, 7))),
    "mahalanobis": lambda: Mahalanobis(torch.randn(3, 5), torch.randn(3, 5, 5), torch.tensor([1, 0, 1]) > 0, 0.5, True),
    "one metric": lambda: Mahalanobis(torch.randn(3, 5), torch.randn(1, 5, 5), torch.tensor([1, 0, 1]) > 0, 1.0, False),
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_built_again_answers_the_same(kind):
    torch.manual_seed(0)
    head, z = HEADS[kind](), torch.randn(4, 5)
    again = rebuilt(json.loads(json.dumps(described(head))))
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(z), head(z))


def test_another_kind_is_named():
    with pytest.raises(UsageError, match="kind Bilinear"):
        rebuilt(described(nn.Sequential(nn.Bilinear(2, 2, 2))))
