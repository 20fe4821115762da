from functools import partial

import pytest
import torch
from torch import nn

from frostline.core.scope import Scope
from frostline.core.structure import everything, head
from frostline.loop.training import run_stream
from frostline.models import decoder, mlp, vit
from frostline.selectors import LoRA

small = partial(vit, patch=4, width=8, depth=2, heads=2)


def prepared(rule, model=small, shape=(1, 8, 8)):
    torch.manual_seed(0)
    net = model(shape, 3)
    rule.prepare(net)
    return net


def test_the_adapted_model_computes_what_it_did_then_learns(digits):
    torch.manual_seed(0)
    plain = small((1, 8, 8), 3)
    rule = LoRA(rank=2, alpha=4.0)
    net = prepared(rule)
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(net(x), plain(x))
    chosen = rule.choose(net, digits[0], None)
    assert head(net) < chosen
    assert all(".lora_" in n for n in chosen - head(net))
    layer = net.backbone.block1.linear1
    assert layer.lora_A["default"].weight.shape == (2, 8)
    assert not layer.lora_B["default"].weight.any()
    with Scope(net, chosen).thawed():
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), torch.tensor([0, 1, 2, 0, 1])).backward()
            optimizer.step()
    assert layer.lora_B["default"].weight.any()
    net.eval()
    with torch.no_grad():  # nn.TransformerEncoderLayer's fused inference kernel would not see the adapters
        quiet = net(x)
    torch.testing.assert_close(quiet, net(x))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    h = torch.randn(4, 8)
    expected = h @ layer.base_layer.weight.T + layer.base_layer.bias + 4.0 / 2 * h @ a.T @ b.T
    torch.testing.assert_close(layer(h), expected)


def test_the_warm_up_trains_the_layers_and_not_the_adapters(digits, make_run):
    rule = LoRA(rank=2, warmup_tasks=1)
    net = prepared(rule)
    assert rule(net, digits[0], None) == {n for n in everything(net) if ".lora_" not in n}


def test_the_same_saving_as_the_step_cost_says(make_run):
    rule = LoRA(rank=2)

    def build(shape, classes):
        net = mlp(shape, classes, hidden=[64, 64])
        rule.prepare(net)
        return net

    run = make_run(selector=rule, model=build)
    run_stream(run)
    assert next(r.trainable_parameters for r in run.meter.rows if r.phase == "train") < 1200
    train = sum(r.flops for r in run.meter.rows if r.phase == "train")
    assert 0.6 < train / run.progress.full_flops(run.progress.seen) < 0.8


def test_which_layers_get_one():
    with pytest.raises(ValueError, match=r"include=\['conv'\] matches no layer.*backbone.block1.linear1"):
        prepared(LoRA(include=["conv"]))
    net = prepared(LoRA(include=["block2"]))
    assert not any("block1" in n and "lora" in n for n in everything(net))
    with pytest.raises(ValueError, match=r"selector\.rank"):
        LoRA(rank=0)


def test_convolutions_in_groups_get_none():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1, groups=2), nn.Linear(4, 2))
    LoRA(rank=4).prepare(net)
    assert {n.partition(".")[0] for n in everything(net) if ".lora_" in n} == {"0"}


def test_a_run_without_adapters_is_refused(make_run):
    with pytest.raises(ValueError, match=r"no adapters: expected LoRA.prepare"):
        run_stream(make_run(selector=LoRA(warmup_tasks=0)))


def test_a_head_that_shares_the_embeddings_weight_has_no_adapter():
    model = decoder((16,), 61, 16, 2, 2, 1, 24)
    LoRA(rank=2).prepare(model)
    assert isinstance(model.head, nn.Linear)
    assert not any("lora" in name for name, _ in model.head.named_parameters())
    assert any("lora" in name for name, _ in model.named_parameters())
