"""Losses of targets that are tokens, in pieces and as a whole."""

import pytest
import torch
from torch import nn

from frostline.core import objectives
from frostline.core.objectives import classification
from frostline.costs.flops import count_flops


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_loss_in_pieces_is_that_of_the_whole(bias, frozen, monkeypatch):
    monkeypatch.setattr(objectives, "PIECE", 40 * 16)  # sixteen tokens at once
    torch.manual_seed(0)
    head = nn.Linear(8, 40, bias=bias)
    head.weight.requires_grad_(not frozen)
    x = torch.randn(3, 25, 8, requires_grad=True)
    y = torch.randint(0, 40, (3, 25))
    y[0, :7] = -100

    def of(loss):
        x.grad = None
        head.zero_grad()
        uncounted: set[str] = set()
        flops = count_flops(lambda: loss().backward(), uncounted)
        assert not uncounted
        return loss(), x.grad, [p.grad for p in head.parameters()], flops

    whole = of(lambda: classification.loss(head(x), y))
    pieces = of(lambda: classification.loss_in_pieces(x, head, y))
    torch.testing.assert_close(pieces[:3], whole[:3])
    assert pieces[3] == whole[3] == 2 * 75 * 8 * 40 * (2 if frozen else 3)


def test_in_bfloat16_the_gradients_in_pieces_are_no_coarser_than_those_of_the_whole(monkeypatch):
    monkeypatch.setattr(objectives, "PIECE", 40 * 16)
    torch.manual_seed(0)
    head, x = nn.Linear(8, 40), torch.randn(3, 25, 8, requires_grad=True)
    y = torch.randint(0, 40, (3, 25))

    def of(loss, autocast):
        x.grad = None
        head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss()
        value.backward()
        return value.detach(), torch.cat([t.flatten() for t in (x.grad, head.weight.grad, head.bias.grad)])

    exact = of(lambda: classification.loss(head(x), y), False)
    whole = of(lambda: classification.loss(head(x), y), True)
    pieces = of(lambda: classification.loss_in_pieces(x, head, y), True)
    assert pieces[0].dtype == torch.float32
    assert pieces[0] == pytest.approx(exact[0], rel=2**-8)
    coarse = [(found[1] - exact[1]).norm() / exact[1].norm() for found in (whole, pieces)]
    assert 0 < coarse[1] < 1.5 * coarse[0] < 0.01
