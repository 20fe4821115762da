"""Batch-norm whose backward pass goes row by row: torch's own operator is the oracle."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from frostline.models import resnet18, slim_resnet18
from frostline.speed.batchnorm import BatchNormFunction, UnevenBatchNorm2d
from frostline.speed.im2col import Im2colConv2d
from frostline.speed.layouts import with_kernels, with_layout
from tests.conftest import assert_as_exact

CPU, LAST = torch.device("cpu"), torch.channels_last


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """Small images are enough for the tests."""
    monkeypatch.setattr("frostline.speed.batchnorm.PIXELS", 1)


def inputs(channels=20, layout=LAST, size=(5, 7)):
    torch.manual_seed(0)
    x = (3 + torch.randn(6, channels, *size, dtype=torch.double)).to(memory_format=layout).requires_grad_()
    weight, bias = (torch.randn(channels, dtype=torch.double).requires_grad_() for _ in range(2))
    running = [torch.zeros(channels, dtype=torch.double), torch.ones(channels, dtype=torch.double)]
    return x, weight, bias, running


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_gradients_and_running_averages_are_those_of_torch(layout):
    x, weight, bias, running = inputs(layout=layout)
    theirs_running = copy.deepcopy(running)
    wanted = F.batch_norm(x, *theirs_running, weight, bias, True, 0.2, 1e-3)
    got = BatchNormFunction.apply(x, weight, bias, *running, 0.2, 1e-3)[0]
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    torch.testing.assert_close(running, theirs_running, rtol=0, atol=0)
    arriving = torch.randn_like(wanted)
    theirs = torch.autograd.grad(wanted, (x, weight, bias), arriving)
    ours = torch.autograd.grad(got, (x, weight, bias), arriving)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other)
    assert ours[0].is_contiguous(memory_format=layout)


def test_second_derivatives_are_torchs():
    x, weight, bias, running = inputs(channels=3, size=(2, 2))

    def norm(*given):
        return BatchNormFunction.apply(*given, *copy.deepcopy(running), 0.1, 1e-5)[0]

    assert torch.autograd.gradcheck(norm, (x, weight, bias))
    assert torch.autograd.gradgradcheck(norm, (x, weight, bias))


@pytest.mark.parametrize("frozen", ["", "weight", "bias", "input"])
def test_what_is_frozen_gets_no_gradient(frozen):
    """`partial` may freeze one of a layer's parameters, or all that is before it."""
    x, weight, bias, running = inputs()
    kinds = (nn.BatchNorm2d(20), UnevenBatchNorm2d(20))
    for kind in kinds:
        kind.load_state_dict(
            {"weight": weight, "bias": bias, **dict(zip(("running_mean", "running_var"), running, strict=True))},
            strict=False,
        )
        for name, p in kind.named_parameters():
            p.requires_grad_(name != frozen)
    exact = copy.deepcopy(kinds[0]).double()
    arriving = torch.randn_like(x)
    found = []
    for kind in (*kinds, exact):
        image = x.detach().to(kind.weight.dtype).to(memory_format=LAST).requires_grad_(frozen != "input")
        (kind(image) * arriving.to(image.dtype)).sum().backward()
        found.append([image.grad, kind.weight.grad, kind.bias.grad, *kind.buffers()])
    assert (found[0][0] is None) == (frozen == "input")
    for theirs, ours, reference in zip(*found, strict=True):
        assert (theirs is None) == (ours is None)
        if theirs is not None:
            assert_as_exact(ours, theirs, reference)


def test_models_seeds_at_once():
    """Under vmap, running averages stacked: every model sees what it would see alone."""
    x, weight, bias, _ = inputs()
    norm = UnevenBatchNorm2d(20)
    x, weight, bias = (torch.stack([t, 2 * t]).detach().float() for t in (x, weight, bias))
    buffers = {"running_mean": torch.zeros(2, 20), "running_var": torch.ones(2, 20)}
    buffers["num_batches_tracked"] = torch.zeros(2, dtype=torch.long)

    def loss(weight, bias, buffers, x, module):
        return functional_call(module, {"weight": weight, "bias": bias, **buffers}, (x,)).square().sum()

    both = [copy.deepcopy(buffers) for _ in range(2)]
    ours = vmap(grad(loss, (0, 1)), (0, 0, 0, 0, None))(weight, bias, both[0], x, norm)
    theirs = vmap(grad(loss, (0, 1)), (0, 0, 0, 0, None))(weight, bias, both[1], x, nn.BatchNorm2d(20))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(both[0], both[1])
    assert both[0]["num_batches_tracked"].tolist() == [1, 1]


def test_only_uneven_layers_change_their_kind():
    """slim_resnet18 has layers of 20 channels, resnet18 none such; 'auto' leaves both alone on a GPU."""
    net = with_kernels(slim_resnet18((1, 28, 28), 10), "on", CPU)
    assert {m.num_features for m in net.modules() if type(m) is UnevenBatchNorm2d} == {20}
    for model, device in ((resnet18, CPU), (slim_resnet18, torch.device("cuda"))):
        plain = with_kernels(model((1, 28, 28), 10), "auto", device)
        assert all(type(m) is not UnevenBatchNorm2d for m in plain.modules())


@pytest.mark.parametrize(
    ("processor", "norms", "convolutions"), [("AVX2", 5, 8), ("AVX512", 5, 0), ("DEFAULT", 0, 0), ("NO AVX", 0, 0)]
)
def test_auto_follows_the_processor(processor, norms, convolutions, monkeypatch):
    """Each kernel is taken where it was measured to gain: im2col's not with AVX-512, nothing on an unknown processor."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    narrow, wide = (with_kernels(model((1, 28, 28), 10), "auto", CPU) for model in (slim_resnet18, resnet18))
    assert sum(type(m) is UnevenBatchNorm2d for m in narrow.modules()) == norms
    assert sum(type(m) is Im2colConv2d for m in wide.modules()) == convolutions


def test_a_whole_net_learns_the_same():
    """Three steps of slim_resnet18, then an evaluation: losses, weights and averages are those of the plain net."""
    torch.manual_seed(0)
    plain = with_layout(slim_resnet18((1, 28, 28), 10), "on")
    ours = with_kernels(copy.deepcopy(plain), "on", CPU)
    exact = copy.deepcopy(plain).double()
    x, y = torch.rand(32, 1, 28, 28).to(memory_format=LAST), torch.randint(0, 10, (32,))
    for net in (plain, ours, exact):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(x.to(net.head.weight.dtype)), y).backward()
            optimizer.step()
    for name, value in exact.state_dict().items():
        assert_as_exact(ours.state_dict()[name], plain.state_dict()[name], value, name)
    assert_as_exact(ours.eval()(x), plain.eval()(x), exact.eval()(x.double()))
