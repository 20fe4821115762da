"""The counter against closed forms, on layers where other counters are known to be wrong."""

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from frostline.costs.flops import count_flops


def both(layer: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """Return forward, and forward + backward with both gradients."""
    x = x.requires_grad_()
    return count_flops(lambda: layer(x)), count_flops(lambda: layer(x).sum().backward())


@pytest.mark.parametrize(
    "shape", [(5, 768), (2, 197, 768), (2, 3, 7, 768), (2, 2, 3, 4, 768)], ids=lambda s: f"{len(s)}d"
)
def test_linear(shape):
    layer = nn.Linear(768, 3072)
    forward = 2 * torch.Size(shape[:-1]).numel() * 768 * 3072
    assert both(layer, torch.randn(shape)) == (forward, 3 * forward)


CONVOLUTIONS = {  # layer, input, multiply-adds of one pass
    "3x3 64->128": (nn.Conv2d(64, 128, 3, padding=1), (2, 64, 8, 8), 2 * 64 * 128 * 9 * 64),
    "strided": (nn.Conv2d(3, 8, 3, stride=2), (2, 3, 9, 9), 2 * 3 * 8 * 9 * 16),
    "grouped": (nn.Conv2d(8, 16, 3, padding=1, groups=4), (2, 8, 6, 6), 2 * (8 // 4) * 16 * 9 * 36),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8), (2, 8, 8, 8), 2 * 8 * 9 * 36),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, stride=2), (2, 6, 5, 5), 2 * 6 * 4 * 9 * 25),
    "transposed grouped": (nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2), (2, 6, 5, 5), 2 * 6 * 2 * 9 * 25),
    "dilated 1d": (nn.Conv1d(4, 6, 3, dilation=2), (2, 4, 12), 2 * 4 * 6 * 3 * 8),
    "3d": (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4), 1 * 2 * 3 * 8 * 27),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name):
    layer, shape, macs = CONVOLUTIONS[name]
    assert both(layer, torch.randn(shape)) == (2 * macs, 3 * 2 * macs)


def test_products_in_place_count_like_others():
    """torch's own counter has no formula for them."""
    into, a, b = torch.zeros(4, 6), torch.ones(4, 5), torch.ones(5, 6)
    assert count_flops(lambda: into.addmm_(a, b)) == count_flops(lambda: a @ b) == 2 * 4 * 5 * 6
    assert count_flops(lambda: into[None].baddbmm_(a[None], b[None])) == 2 * 4 * 5 * 6


def test_attention_on_the_cpu_is_not_free():
    q, k, v = (torch.randn(2, 4, 32, 16, requires_grad=True) for _ in range(3))

    def work():
        return F.scaled_dot_product_attention(q, k, v)

    forward = 2 * 2 * (2 * 4 * 32 * 32 * 16)
    assert forward == 524_288
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert count_flops(work) == forward
        assert count_flops(lambda: work().sum().backward()) == 1_572_864
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        assert count_flops(work) == forward
        # flash keeps no scores and computes them again: 5 products back for 2 forward
        assert count_flops(lambda: work().sum().backward()) == forward + forward * 5 // 2


@pytest.mark.parametrize("training", [True, False])
def test_transformer_layer_in_both_modes(training):
    """In eval mode torch runs one fused kernel that the counter cannot look into."""
    B, L, D, W = 2, 10, 16, 32
    layer = nn.TransformerEncoderLayer(D, 4, W, dropout=0.0, batch_first=True).train(training)
    x = torch.randn(B, L, D)
    forward = 2 * B * L * (4 * D * D + 2 * D * W) + 2 * 2 * B * L * L * D
    with torch.no_grad():
        assert count_flops(lambda: layer(x)) == forward


def mlp_step(frozen, *, freeze_after_forward=False) -> float:
    """Return the MFLOP of a step of the freezing study's net: 8 layers of 256, a head of 10, a batch of 32."""
    hidden = [nn.Linear(256, 256) for _ in range(8)]
    net = nn.Sequential(*[m for layer in hidden for m in (layer, nn.ReLU())], nn.Linear(256, 10))
    x = torch.randn(32, 256)

    def work():
        out = net(x) if freeze_after_forward else None
        for number in frozen:
            hidden[number].requires_grad_(False)
        (net(x) if out is None else out).sum().backward()

    return round(count_flops(work) / 1e6, 2)


def test_freezing_saves_only_before_the_forward_pass():
    """The independently measured figures: 96.96 in full, whatever is frozen after the forward pass."""
    assert mlp_step([]) == 96.96
    assert mlp_step(range(6), freeze_after_forward=True) == 96.96
    assert mlp_step(range(6)) == 46.63
    assert mlp_step(range(2, 6)) == 80.18
    assert mlp_step(range(2, 8)) == 71.79


@pytest.mark.filterwarnings("ignore")
def test_compiled_step_saves_too():
    """Frozen before compilation, the compiled graph leaves the prefix's backward out."""
    net = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)])
    for layer in list(net)[:3]:
        layer.requires_grad_(False)
    x = torch.randn(8, 64)
    compiled = torch.compile(net, backend="aot_eager")
    compiled(x).sum().backward()
    assert all(p.grad is None for layer in list(net)[:3] for p in layer.parameters())
    compiled.zero_grad()
    counted = count_flops(lambda: compiled(x).sum().backward())
    assert counted == 2 * 8 * 64 * 64 * (4 + 1)


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode], ids=lambda c: c.__name__)
def test_agrees_with_torchs_own_counter(context):
    """Where that one has all formulas (nn.LSTM and nn.Bilinear it takes for free); in inference mode operators come whole."""
    layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
    nets = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv1d(3, 4, 3), nn.GRU(8, 9)])
    inputs = [
        [torch.randn(2, 3, 8, 8)],
        [torch.randn(2, 3, 8)],
        [torch.randn(3, 2, 8)],
    ]

    def work():
        loss = layer(torch.randn(2, 5, 16), torch.randn(2, 7, 16)).sum()
        for net, x in zip(nets, inputs, strict=True):
            out = net(*x)
            loss = loss + (out[0] if isinstance(out, tuple) else out).sum()
        if loss.requires_grad:
            loss.backward()

    with context(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        with FlopCounterMode(display=False) as theirs:
            work()
        assert count_flops(work) == theirs.get_total_flops() > 0


RECURRENT = {  # layer, shape, weights that every token meets
    "lstm": (nn.LSTM(16, 32), (8, 4, 16), 4 * 32 * (16 + 32)),
    "two layers, both ways": (
        nn.LSTM(16, 32, 2, bidirectional=True), (8, 4, 16), 2 * 4 * 32 * (16 + 32) + 2 * 4 * 32 * (64 + 32)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECURRENT)
def test_oneDNNs_lstm_is_not_free(name):
    """Its kernel computes the gradients of the weights, of the states and of the input, whether asked or not."""
    layer, shape, weights = RECURRENT[name]
    x = torch.randn(shape)
    forward = 2 * 8 * 4 * weights
    assert count_flops(lambda: layer(x)) == forward
    assert count_flops(lambda: layer(x)[0].sum().backward()) == 3 * forward


def test_cudnns_recurrent_layers_by_their_formula():
    """Its operators run on a GPU only; the formula is that of oneDNN's."""
    from frostline.costs.formulas import OWN_FORMULAS

    x, weights = torch.randn(8, 4, 16), [torch.randn(128, 16), torch.randn(128, 32), torch.randn(128), torch.randn(128)]
    forward = 2 * 8 * 4 * 4 * 32 * (16 + 32)
    assert OWN_FORMULAS[torch.ops.aten._cudnn_rnn](x, weights, 4) == forward
    backward = OWN_FORMULAS[torch.ops.aten._cudnn_rnn_backward]
    assert backward(x, weights, 4, [True, False, False, True]) == 2 * forward
    assert backward(x, weights, 4, [True, False, False, False]) == forward


def test_matrices_with_vectors_and_three_tensors():
    m, v, w = torch.randn(6, 5), torch.randn(5), torch.randn(6)
    assert count_flops(lambda: m @ v) == count_flops(lambda: nn.functional.linear(v, m)) == 2 * 6 * 5
    assert count_flops(lambda: nn.functional.linear(v, m, w)) == 2 * 6 * 5
    assert count_flops(lambda: v @ v) == 2 * 5
    assert count_flops(lambda: torch.addr(m, w, v)) == 2 * 6 * 5
    assert count_flops(lambda: torch.addbmm(m, torch.randn(3, 6, 4), torch.randn(3, 4, 5))) == 3 * 2 * 6 * 4 * 5
    assert count_flops(lambda: nn.Bilinear(3, 4, 7)(torch.randn(2, 3), torch.randn(2, 4))) == 2 * 2 * 7 * 3 * 4


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.answer = nn.Linear(33, 10)

    def forward(self, x):
        return self.answer(torch.fft.rfft(x.flatten(1)).abs())


def test_products_without_a_formula_are_named_in_the_result():
    import frostline

    found: set[str] = set()
    count_flops(lambda: torch.cdist(torch.rand(2, 3), torch.rand(4, 3)), found)
    assert found == {"aten._cdist_forward"}
    quiet: set[str] = set()
    count_flops(lambda: F.interpolate(torch.rand(1, 1, 4, 4), scale_factor=2, mode="bilinear"), quiet)
    assert not quiet
    result = frostline.run(Spectral(), "split_digits", epochs=1, progress=False)
    assert "aten._fft_r2c" in result.content["uncounted_operators"]
    from frostline.report.tables import saving_lines

    assert any("aten._fft_r2c" in line for line in saving_lines(result.content))


LAYERS = (
    "linear", "bilinear", "conv1d", "conv2d", "conv3d", "transposed", "lstm", "gru", "rnn", "attention", "einsum",
)  # fmt: skip


def layer_of(kind, draw):
    """Return a layer with an input, and its forward operations in closed form."""
    least = 2 if kind == "einsum" else 1  # torch takes a product with one term for none
    b, i, o, k, length = (draw(st.integers(least, 4)) for _ in range(5))
    size = k + length
    if kind == "linear":
        return nn.Linear(i, o), (torch.randn(b, length, i),), 2 * b * length * i * o
    if kind == "bilinear":
        return nn.Bilinear(i, k, o), (torch.randn(b, i), torch.randn(b, k)), 2 * b * i * k * o
    if kind.startswith("conv"):
        d = int(kind[4])
        layer = getattr(nn, f"Conv{d}d")(2 * i, 2 * o, k, groups=2)
        return layer, (torch.randn(b, 2 * i, *[size] * d),), 2 * b * (length + 1) ** d * (2 * i // 2) * 2 * o * k**d
    if kind == "transposed":
        return nn.ConvTranspose2d(i, o, k), (torch.randn(b, i, size, size),), 2 * b * size * size * i * o * k * k
    if kind in ("lstm", "gru", "rnn"):
        gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
        layer = getattr(nn, kind.upper())(i, 8, batch_first=True)
        return layer, (torch.randn(b, length, i),), 2 * b * length * gates * 8 * (i + 8)
    if kind == "attention":
        layer = nn.MultiheadAttention(4 * k, k, batch_first=True)
        x = torch.randn(b, length, 4 * k)
        return layer, (x, x, x), 2 * b * length * (4 * k) ** 2 * 4 + 2 * 2 * b * length * length * 4 * k

    class Einsum(nn.Module):
        def forward(self, x, w):
            return torch.einsum("bli,io->blo", x, w)

    return Einsum(), (torch.randn(b, length, i), torch.randn(i, o)), 2 * b * length * i * o


@hypothesis.given(kind=st.sampled_from(LAYERS), data=st.data())
@hypothesis.settings(deadline=None, max_examples=150)
def test_layers_of_any_size_equal_their_closed_form(kind, data):
    layer, inputs, forward = layer_of(kind, data.draw)
    uncounted: set[str] = set()
    with torch.no_grad():
        assert count_flops(lambda: layer(*inputs), uncounted) == forward, (kind, [list(x.shape) for x in inputs])
    assert not uncounted


def test_linear_algebra_counts_what_lapack_does():
    """Textbook counts; nothing that a closed form calls is left without one."""
    n, k = 60, 7
    a, b = torch.eye(n) + 0.1, torch.ones(n, k)
    factor, wide = torch.linalg.cholesky(a), torch.randn(90, n)
    expected = {
        "cholesky": (lambda: torch.linalg.cholesky_ex(a), n**3 / 3),
        "cholesky_solve": (lambda: torch.cholesky_solve(b, factor), 2 * n**2 * k),
        "solve": (lambda: torch.linalg.solve(a, b), 2 / 3 * n**3 + 2 * n**2 * k),
        "inv": (lambda: torch.linalg.inv(a), 2 * n**3),
        "eigh": (lambda: torch.linalg.eigh(a), 9 * n**3),
        "svd": (lambda: torch.linalg.svd(wide, full_matrices=False), 6 * 90 * n**2 + 20 * n**3),
        "qr": (lambda: torch.linalg.qr(wide), 4 * 90 * n**2 - 4 / 3 * n**3),
        "pinv": (lambda: torch.linalg.pinv(a, hermitian=True), 9 * n**3 + 2 * n**3),
    }
    for name, (work, flops) in expected.items():
        uncounted: set[str] = set()
        assert count_flops(work, uncounted) == pytest.approx(flops, abs=1), name
        assert not uncounted, name
