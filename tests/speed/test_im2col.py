"""Convolutions whose weight gradient is one product: torch's own convolution is the oracle."""

import copy

import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from torch.nn import functional as F

from frostline.costs import StepCosts
from frostline.costs.flops import count_flops
from frostline.models import resnet18
from frostline.speed.im2col import Im2colConv2d, Im2colConvolution
from frostline.speed.layouts import with_kernels

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"), [(3, 1, 1, 5), (3, 2, 1, 8), (1, 2, 0, 5), ((3, 2), (2, 1), (0, 1), 7)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_torch(kernel, stride, padding, size, layout):
    """In double precision to the last digits, in both layouts, uneven kernels and strides included."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, kernel, stride, padding).double().to(memory_format=layout)
    x = torch.randn(3, 6, size, size, dtype=torch.double).to(memory_format=layout).requires_grad_()
    wanted = conv(x)
    arriving = torch.randn_like(wanted)
    inputs = (x, conv.weight, conv.bias)
    got = Im2colConvolution.apply(x, conv.weight, conv.bias, conv.stride, conv.padding)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, arriving), torch.autograd.grad(wanted, inputs, arriving), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
        if layout == torch.channels_last and ours.ndim == 4:  # else autograd would copy it at every step
            assert ours.is_contiguous(memory_format=layout)


def test_second_derivatives_and_gradients_of_each_sample(monkeypatch):
    """The backward pass is made of operators that have derivatives and batching rules of their own, in chunks too."""
    monkeypatch.setattr("frostline.speed.im2col.CHUNK", 100)  # a sample has 5 x 5 x 54
    torch.manual_seed(0)
    x, w = torch.randn(2, 6, 5, 5, dtype=torch.double), torch.randn(4, 6, 3, 3, dtype=torch.double)
    x, w, stride = x.requires_grad_(), w.requires_grad_(), (1, 1)
    assert torch.autograd.gradcheck(lambda *a: Im2colConvolution.apply(*a, None, stride, stride), (x, w))
    assert torch.autograd.gradgradcheck(lambda *a: Im2colConvolution.apply(*a, None, stride, stride), (x, w))

    def loss(weight, sample, convolution):
        return convolution(sample[None], weight, None, stride, stride).square().sum()

    each = [vmap(grad(loss), (None, 0, None))(w, x, kind) for kind in (Im2colConvolution.apply, F.conv2d)]
    torch.testing.assert_close(*each)


def test_wide_convolutions_change_their_kind_and_nothing_else():
    """resnet18: names, values, forward pass, copies; and on a GPU 'auto' leaves the model alone."""
    net = with_kernels(resnet18((1, 28, 28), 10), "on", CPU)
    plain = resnet18((1, 28, 28), 10)
    assert all(type(m) is not Im2colConv2d for m in with_kernels(plain, "auto", torch.device("cuda")).modules())
    plain.load_state_dict(net.state_dict())
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(net(x), plain(x), rtol=0, atol=0)
    wide = [m for m in net.modules() if type(m) is Im2colConv2d]
    assert wide
    assert all(m.in_channels >= 256 for m in wide)
    twin = copy.deepcopy(net)
    net(x)[:, 0].sum().backward()
    assert all(p.grad is None for p in twin.parameters())


def gradients(net, names=None, seed=0):
    torch.manual_seed(seed)
    for name, p in net.named_parameters():
        p.requires_grad_(names is None or name in names)
        p.grad = None
    x, y = torch.rand(8, 1, 28, 28), torch.randint(0, 10, (8,))
    net.double()
    flops = count_flops(lambda: F.cross_entropy(net(x.double()), y).backward())
    return flops, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


class Always(Im2colConv2d):
    """Takes the product in double precision too."""

    def forward(self, input):
        return Im2colConvolution.apply(input, self.weight, self.bias, self.stride, self.padding)


@pytest.mark.parametrize("partial", [False, True])
def test_a_whole_net_has_the_same_gradients_for_the_same_operations(partial):
    torch.manual_seed(1)
    plain = resnet18((1, 28, 28), 10)
    names = {n for n, _ in plain.named_parameters() if "3." in n or "head" in n} if partial else None
    ours = with_kernels(copy.deepcopy(plain), "on", CPU)
    for m in ours.modules():
        if type(m) is Im2colConv2d:
            m.__class__ = Always
    (theirs_flops, theirs), (flops, own) = gradients(plain, names), gradients(ours, names)
    assert flops == theirs_flops
    x = torch.rand(8, 1, 28, 28, dtype=torch.double)
    assert StepCosts.trace(ours, x)(frozenset(own)) == flops == StepCosts.trace(plain, x)(frozenset(own))
    assert own.keys() == theirs.keys()
    assert len(own) > 2
    for name, g in own.items():
        torch.testing.assert_close(g, theirs[name], rtol=1e-9, atol=1e-12)
