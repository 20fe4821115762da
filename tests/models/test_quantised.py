"""Weights of 4 and 8 bits: what they unpack to, their gradients, and runs of adapters beside them."""

import json

import pytest
import torch
from torch import nn

from frostline.app.export import build_model, export, read_description
from frostline.core.checks import UsageError
from frostline.core.torchvision_schemas import torchvision
from frostline.models.language import causal_lm
from frostline.models.quantised import BLOCK, Quantised, quantise
from frostline.records.weights import SERVED, read
from tests.conftest import in_process

torchvision()
transformers = pytest.importorskip("transformers")

NF4 = [  # Dettmers et al. 2023, appendix E
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("llama")
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


def nearest_codes(weight):
    """Return what the paper's code makes of the weights: of each block the nearest of 16 values times its largest."""
    blocks, table = weight.reshape(-1, BLOCK), torch.tensor(NF4)
    scale = blocks.abs().amax(1, keepdim=True)
    return (table[(blocks[..., None] / scale[..., None] - table).abs().argmin(-1)] * scale).reshape(weight.shape)


def rounded(weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round() * scale


@pytest.mark.parametrize(("kind", "oracle"), [("nf4", nearest_codes), ("int8", rounded)])
def test_a_packed_layer_is_a_layer_with_the_nearest_weights(kind, oracle):
    torch.manual_seed(1)
    layer = nn.Linear(128, 24)
    packed, plain = Quantised(layer, kind), nn.Linear(128, 24)
    plain.weight.data, plain.bias.data = oracle(layer.weight.detach()), layer.bias.detach().clone()
    x = torch.randn(3, 5, 128, requires_grad=True)
    z = x.detach().clone().requires_grad_(True)
    for module, at in ((packed, x), (plain, z)):
        module(at).square().sum().backward()
    torch.testing.assert_close(packed(x), plain(z))
    torch.testing.assert_close(x.grad, z.grad)
    torch.testing.assert_close(packed.bias.grad, plain.bias.grad)
    assert [name for name, _ in packed.named_parameters()] == ["bias"]
    assert list(packed.state_dict()) == ["bias"]
    bits = 8 * sum(b.nbytes for b in packed.buffers()) / layer.weight.numel()
    assert bits == {"nf4": 4.5, "int8": 8.25}[kind]


def test_the_head_and_what_is_not_linear_stay(folder):
    model = causal_lm((32,), 257, str(folder), quantised="nf4")
    assert sum(isinstance(m, Quantised) for m in model.modules()) == 14
    assert type(model.head) is nn.Linear
    plain = causal_lm((32,), 257, str(folder))
    x = torch.randint(0, 257, (2, 32))
    with torch.no_grad():
        far = (model(x) - plain(x)).abs().max() / plain(x).abs().max()
    assert 0 < far < 0.3
    with pytest.raises(UsageError, match="no linear layers besides its head"):
        quantise(nn.Sequential(nn.Embedding(4, 4)), "nf4", None)
    with pytest.raises(UsageError, match=r"pretrained=true"):
        causal_lm((32,), 257, str(folder), pretrained=False, quantised="int8")
    with pytest.raises(UsageError, match=r"model.quantised='nf8'.*Did you mean"):
        causal_lm((32,), 257, str(folder), quantised="nf8")


def arguments(folder, texts, *more):
    return [
        "stream=language", f"stream.path={texts}", "stream.length=32", "stream.tokens_per_task=2000", "stream.test_tokens=300",
        "model=causal_lm", f"model.path={folder}", "strategy=partial", "optimizer=adamw", "optimizer.lr=0.01",
        "trainer.epochs=2", "trainer.batch_size=8", "cost.reference_steps=0", "tracking=none", "figures=[]", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts")
    for word in ("one", "two"):
        rows = [{"text": f"{i} is {word} and {word}, {'ab' * (i % 7)}{chr(97 + i % 23)}."} for i in range(300)]
        (path / f"{word}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_adapters_learn_beside_packed_weights_and_are_what_is_kept(kind, folder, texts, tmp_path):
    settings = arguments(folder, texts, "selector=lora")
    runs = {}
    for name, more in (("packed", [f"model.quantised={kind}"]), ("plain", [])):
        code, error = in_process(*settings, *more, f"hydra.run.dir={tmp_path / name}")
        assert code == 0, error
        runs[name] = json.loads((tmp_path / name / "result.json").read_text())
    packed, plain = runs["packed"], runs["plain"]
    assert packed["uncounted_operators"] == []
    assert packed["loss"][-1] == pytest.approx(plain["loss"][-1], rel=0.1)
    assert packed["loss"][-1][-1] < 0.95 * packed["loss"][0][-1]
    learning = [[r["flops"] for r in run["ledger"] if r["phase"] == "train"] for run in (packed, plain)]
    assert learning[0] == learning[1]
    full = [run["full_finetuning"] for run in (packed, plain)]
    assert full[0]["flops"] == full[1]["flops"]
    assert full[0]["flops_ratio"] == full[1]["flops_ratio"] < 0.9
    assert full[0]["seconds"] is None  # nobody timed it
    assert (tmp_path / "packed" / "model.safetensors").stat().st_size < (
        tmp_path / "plain" / "model.safetensors"
    ).stat().st_size
    served = read(tmp_path / "packed" / SERVED)
    again = build_model(tmp_path / "packed", read_description(tmp_path / "packed"))
    with torch.no_grad():
        torch.testing.assert_close(again(served["x"]), served["logits"])
    with pytest.raises(UsageError, match=f"adapters beside a base in {kind}"):
        export(tmp_path / "packed", tmp_path / "out")


def test_what_is_packed_cannot_be_chosen(folder, texts, tmp_path):
    code, error = in_process(
        *arguments(folder, texts, "selector=attention_projections", "model.quantised=nf4", "selector.with_head=false"),
        f"hydra.run.dir={tmp_path}",
    )
    assert code
    assert "selector.role='attention_projections': the model has none" in error
    assert "expected one of norms, embeddings" in error
