"""How far outputs moved, against closed forms: the state as the sum of what is added to it, and torch's own divergences."""

import pytest
import torch
from torch import nn

from frostline.core.output_drift import Reading, adding, measure, say, typical
from frostline.core.torchvision_schemas import torchvision
from frostline.core.types import Batch
from frostline.models import causal_lm, decoder, mlp

torchvision()
transformers = pytest.importorskip("transformers")

TOKENS, LENGTH = 61, 24


def model_of(family, tmp_path):
    torch.manual_seed(0)
    if family == "decoder":
        model = decoder((LENGTH,), TOKENS, 32, 3, 4, 2, 48)
    elif family == "gpt2":
        config = transformers.GPT2Config(vocab_size=TOKENS, n_embd=32, n_layer=3, n_head=4, n_positions=64)
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
        model = causal_lm((LENGTH,), TOKENS, str(tmp_path))
    else:
        config = transformers.Qwen2Config(
            vocab_size=TOKENS, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2,
        )  # fmt: skip
        transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path)
        model = causal_lm((LENGTH,), TOKENS, str(tmp_path))
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


def readings(rows=4, every=1):
    x = torch.randint(0, TOKENS, (rows, LENGTH), generator=torch.Generator().manual_seed(1))
    places = (torch.arange(LENGTH) % every == 0).expand(rows, -1)
    return [Reading(Batch(x, x, torch.zeros(rows), torch.arange(rows)), places)]


@pytest.mark.parametrize("family", ["decoder", "gpt2", "qwen2"])
@torch.no_grad()
def test_what_is_added_makes_the_state(family, tmp_path):
    """The last state is the embedding and all that attention and MLPs added: nothing is heard twice or missed."""
    model = model_of(family, tmp_path)
    assert list(adding(model)) == [f"{kind} {i}" for i in (1, 2, 3) for kind in ("attention", "mlp")]
    found = say(model, readings(every=3), None)
    embedded = model.stages()[0](readings()[0].batch.x)
    embedded = (embedded if isinstance(embedded, torch.Tensor) else embedded[0])[readings(every=3)[0].places]
    total = embedded + sum(found[name] for name in adding(model))
    torch.testing.assert_close(total, found["state"], rtol=1e-4, atol=1e-4)
    logits = model(readings()[0].batch.x)[readings(every=3)[0].places]
    torch.testing.assert_close(found["says"], logits.log_softmax(-1))


@pytest.mark.parametrize("family", ["decoder", "gpt2", "qwen2"])
@torch.no_grad()
def test_where_only_the_last_mlp_moved_its_move_is_the_logits(family, tmp_path):
    model = model_of(family, tmp_path)
    before, old = say(model, readings(), None), model(readings()[0].batch.x)
    for name, p in model.stages()[3].named_parameters():
        if "mlp" in name:
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    found = measure(model, before, say(model, readings(), None), {})
    change = (model(readings()[0].batch.x) - old).double()
    change -= change.mean(-1, keepdim=True)
    assert found["mlp"][-1] == pytest.approx(float(change.square().mean(-1).sqrt().mean()), rel=1e-4)
    assert found["mlp"][-1] > 0
    assert found["attention"] == [0, 0, 0]
    assert found["mlp"][:2] == [0, 0]


@torch.no_grad()
def test_divergence_entropy_and_mass_are_those_of_torch(tmp_path):
    model = model_of("decoder", tmp_path)
    before = say(model, readings(), None)
    model.head.weight.add_(0.1 * torch.randn_like(model.head.weight))
    now = say(model, readings(), None)
    words = torch.tensor([3, 5, 8])
    found = measure(model, before, now, {"some": words})
    p, q = (torch.distributions.Categorical(logits=said["says"]) for said in (before, now))
    assert found["kl"] == pytest.approx(float(torch.distributions.kl_divergence(p, q).mean()), rel=1e-4)
    assert found["entropy"] == pytest.approx(float(q.entropy().mean()), rel=1e-4)
    assert found["mass"]["some"] == pytest.approx(float(q.probs[:, words].sum(1).mean()), rel=1e-4)
    assert found["same"] == pytest.approx(float((p.probs.argmax(1) == q.probs.argmax(1)).float().mean()))


@torch.no_grad()
def test_a_classifier_says_something_about_visible_classes_only():
    model = mlp((7,), 5).eval()
    x = torch.randn(6, 7)
    visible = torch.tensor([True, True, True, False, False])
    reading = Reading(Batch(x, torch.zeros(6).long(), torch.zeros(6), torch.arange(6)), torch.ones(6, dtype=torch.bool))
    before = say(model, [reading], visible)
    assert list(before) == ["says"]
    for p in model.parameters():
        p.add_(0.1)
    found = measure(model, before, say(model, [reading], visible), {"old": torch.tensor([0, 1])})
    p = torch.distributions.Categorical(logits=before["says"][:, :3])
    q = torch.distributions.Categorical(logits=model(x)[:, :3])
    assert found["kl"] == pytest.approx(float(torch.distributions.kl_divergence(p, q).mean()), rel=1e-4)
    assert found["attention"] == found["mlp"] == []


def test_words_typical_of_a_text():
    here, there = torch.tensor([0] * 50 + [1] * 40 + [2] * 10), torch.tensor([0] * 50 + [1] * 5 + [3] * 45)
    assert typical(here, there, 5).tolist() == [1, 2]
