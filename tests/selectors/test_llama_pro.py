from functools import partial

import pytest
import torch

from frostline.core.checks import UsageError
from frostline.core.structure import everything, head
from frostline.loop.training import run_stream
from frostline.models import Classifier, mlp, timm_model, vit
from frostline.models.staging import staged
from frostline.selectors import LlamaPro
from tests.models.test_transformers import tiny, tokens

small = partial(vit, patch=4, width=8, depth=3, heads=2)


def nets():
    torch.manual_seed(0)
    yield small((1, 8, 8), 3), torch.randn(5, 1, 8, 8)
    for family in ("llama", "gpt2", "qwen3"):
        yield Classifier(staged(tiny(family)), 16, 3), tokens()
    deit = timm_model((3, 32, 32), 3, name="deit_tiny_patch16_224", pretrained=False)
    yield deit, torch.randn(2, 3, 32, 32)


@pytest.mark.parametrize("number", range(5), ids=["vit", "llama", "gpt2", "qwen3", "deit"])
def test_the_longer_net_computes_what_it_did(number):
    net, x = list(nets())[number]
    net.eval()
    before, stages, size = net(x), len(net.stages()), len(everything(net))
    rule = LlamaPro(blocks=2)
    rule.prepare(net)
    assert len(net.stages()) == stages + 2
    torch.testing.assert_close(net(x), before, atol=1e-4, rtol=1e-4)
    chosen = rule.choose(net, None, None)  # type: ignore[arg-type]
    assert head(net) < chosen
    assert len(everything(net)) - size == len(chosen - head(net))
    assert rule.warm_up(net) == everything(net) - (chosen - head(net))


@pytest.mark.parametrize(
    ("blocks", "names"),
    [
        (1, ["block1", "block2", "block3", "block3_added"]),
        (2, ["block1", "block1_added", "block2", "block3", "block3_added"]),
        (3, ["block1", "block1_added", "block2", "block2_added", "block3", "block3_added"]),
    ],
)
def test_where_they_stand(blocks, names):
    net = small((1, 8, 8), 3)
    LlamaPro(blocks=blocks).prepare(net)
    assert [n for n, _ in net.backbone.named_children()] == ["patches", *names, "pool"]


def test_only_they_and_the_head_learn(make_run):
    def build(shape, classes):
        net = small(shape, classes)
        LlamaPro(blocks=1).prepare(net)
        return net

    run = make_run(selector=LlamaPro(blocks=1), model=build)
    before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    run_stream(run)
    moved = {n for n, p in run.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all("block3_added." in n or n.startswith("head") for n in moved)
    assert any(n.endswith("linear2.weight") for n in moved)


@pytest.mark.parametrize(
    ("net", "blocks", "said"),
    [
        (lambda: mlp((4,), 2), 1, "none in a row"),
        (lambda: small((1, 8, 8), 2), 4, r"nearest valid value is 3"),
        (lambda: Classifier(staged(tiny("bert")), 16, 3), 1, "norms what it puts out"),
        (lambda: torch.nn.Linear(3, 2), 1, "none in a row"),
    ],
)
def test_what_cannot_have_them_is_refused(net, blocks, said):
    with pytest.raises(UsageError, match=said):
        LlamaPro(blocks=blocks).prepare(net())
