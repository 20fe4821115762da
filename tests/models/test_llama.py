"""The decoder against Hugging Face's Llama with the same weights, and causal models cut from their folders."""

import itertools

import pytest
import torch
from torch import nn

from frostline.app.export import export
from frostline.core.checks import UsageError
from frostline.core.structure import blocks, everything, head
from frostline.core.torchvision_schemas import torchvision
from frostline.costs.flops import count_flops
from frostline.models import causal_lm, decoder
from frostline.records.weights import SERVED, load_into, read
from frostline.selectors.roles import names_of_role
from tests.conftest import in_process

torchvision()
transformers = pytest.importorskip("transformers")

TOKENS, LENGTH = 61, 24


def llama(kv_heads=2, tied=True, **more):
    config = transformers.LlamaConfig(
        vocab_size=TOKENS, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=kv_heads, tie_word_embeddings=tied, max_position_embeddings=64, rms_norm_eps=1e-6, **more,
    )  # fmt: skip
    torch.manual_seed(1)
    net = transformers.LlamaForCausalLM(config)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)  # norms too
    return net


def ours(net, tied):
    model = decoder((LENGTH,), TOKENS, 32, 3, 4, net.config.num_key_value_heads, 48, tied=tied)
    theirs = net.state_dict()
    model.load_state_dict({n: theirs[model.original[n]] for n in model.state_dict()})
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_it_computes_what_hugging_faces_llama_does(kv_heads, tied):
    net = llama(kv_heads, tied)
    model = ours(net, tied)
    x = torch.randint(0, TOKENS, (3, LENGTH))
    y = torch.randint(0, TOKENS, (3, LENGTH))
    y[0, :5] = -100
    losses = []
    for logits in (model(x), net(input_ids=x).logits):
        losses.append(nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()))
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-6)
    theirs = dict(net.named_parameters())
    assert len(theirs) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, theirs[model.original[name]].grad, rtol=2e-4, atol=2e-5)


def test_texts_that_are_padded_at_their_end_are_read_alike():
    """What follows cannot be seen, so padding at the end needs no mask: its targets do not count."""
    net = llama()
    model = ours(net, True)
    x = torch.randint(1, TOKENS, (2, LENGTH))
    x[0, 10:] = 0
    real = torch.ones_like(x)
    real[0, 10:] = 0
    expected = net(input_ids=x, attention_mask=real).logits
    torch.testing.assert_close(model(x)[0, :10], expected[0, :10], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(x)[1], expected[1], rtol=1e-4, atol=1e-4)


def told(model, end):
    next(m for m in model.modules() if hasattr(m, "end")).end = end
    return model.eval()


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_documents_in_a_window_do_not_see_one_another(kv_heads, folder, tmp_path):
    net = llama(kv_heads)
    if folder:
        net.save_pretrained(tmp_path)
    model = causal_lm((LENGTH,), TOKENS, str(tmp_path)) if folder else ours(net, True)
    x = torch.randint(1, TOKENS, (2, LENGTH))
    x[0, 9], x[1, 4], x[1, 17] = 0, 0, 0
    with torch.no_grad():
        across, apart = told(model, None)(x), told(model, 0)(x)
        for row, cuts in enumerate([(0, 10, LENGTH), (0, 5, 18, LENGTH)]):
            for start, stop in itertools.pairwise(cuts):
                alone = told(model, None)(x[row : row + 1, start:stop])[0]
                torch.testing.assert_close(apart[row, start:stop], alone, rtol=1e-4, atol=1e-4)
    assert (across - apart).abs().max() > 0.01


def test_the_shared_matrix_is_one_parameter_to_every_selector():
    tied, untied = (decoder((LENGTH,), TOKENS, 32, 2, tied=t) for t in (True, False))
    assert names_of_role(tied, "embeddings") == blocks(tied)[0] == {"backbone.embedding.weight"}
    assert head(tied) == frozenset()
    assert head(untied) == {"head.weight"} != names_of_role(untied, "embeddings")
    for model in (tied, untied):
        parts = (*blocks(model), head(model))
        assert sum(map(len, parts)) == len(everything(model))
        assert len(names_of_role(model, "attention_projections")) == 2 * 4
        assert len(names_of_role(model, "mlp_gate_up")) == len(names_of_role(model, "attention_vo")) == 2 * 2
        assert len(names_of_role(model, "norms")) == 2 * 2 + 1


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("gpt2", True), ("qwen2", True)])
def test_a_folder_with_a_causal_model(tmp_path, family, tied):
    torch.manual_seed(0)
    if family == "gpt2":
        config = transformers.GPT2Config(vocab_size=TOKENS, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        net = transformers.GPT2LMHeadModel(config)
    elif family == "qwen2":
        config = transformers.Qwen2Config(
            vocab_size=TOKENS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=True,
        )  # fmt: skip
        net = transformers.Qwen2ForCausalLM(config)
    else:
        net = llama(tied=tied)
    net.save_pretrained(tmp_path)
    model = causal_lm((LENGTH,), TOKENS, str(tmp_path)).eval()
    x = torch.randint(0, TOKENS, (3, LENGTH))
    with torch.no_grad():
        torch.testing.assert_close(model(x), net.eval()(input_ids=x).logits, rtol=1e-4, atol=1e-4)
    shared = (tied and family != "gpt2") or family == "gpt2"
    assert (head(model) == names_of_role(model, "embeddings") & head(model)) == shared
    assert set(model.original.values()) == {n for n, _ in net.named_parameters()} | {
        n for n, _ in net.named_buffers() if n in model.original.values()
    }
    with pytest.raises(UsageError, match="knows 61 tokens, the stream has 99"):
        causal_lm((LENGTH,), 99, str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "model.heads=3: expected a number of which twice divides model.width=32"),
        ({"kv_heads": 3}, "model.kv_heads=3: expected a number that divides model.heads=4"),
        ({"depth": 0}, "model.depth=0"),
    ],
)
def test_what_does_not_fit_is_named(settings, message):
    with pytest.raises(UsageError, match=message):
        decoder((LENGTH,), TOKENS, **{"width": 32} | settings)
    with pytest.raises(UsageError, match="stream=language"):
        decoder((1, 28, 28), 10)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "role", ["everything", "attention_projections", "mlp_gate_up", "mlp_down", "attention_vo", "norms"]
)
def test_the_operations_of_a_step_are_those_of_the_closed_form(role, tied):
    """Each product once ahead, once back where something below it trains, and once for its own weight where that does."""
    width, depth, heads, kv_heads, hidden, batch = 32, 3, 4, 2, 48, 2
    model = decoder((LENGTH,), TOKENS, width, depth, heads, kv_heads, hidden, tied=tied)
    thawed = everything(model) if role == "everything" else names_of_role(model, role)
    for name, p in model.named_parameters():
        p.requires_grad_(name in thawed)
    sizes = {"q": width, "k": width * kv_heads // heads, "v": width * kv_heads // heads, "o": width}
    order = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
    macs = dict(zip(order, [width * sizes[n] for n in "qkvo"] + [width * hidden] * 3, strict=True))
    below = role == "everything"  # whether anything that trains lies below: first of all the embedding
    products, attention = 0, 0
    for block in range(1, depth + 1):
        below = below or role == "norms"
        own = {n: f"backbone.block{block}.{n}.weight" in thawed for n in order}
        for number, group in enumerate((order[:3], order[3:4], order[4:6], order[6:])):
            products += sum(macs[n] * (1 + below + own[n]) for n in group)
            below = below or any(own[n] for n in group)
            attention += (4 + 10 * below) * (number == 0)  # q, k and v go in; it is computed anew on the way back
    head = width * TOKENS * (2 + (("head.weight" in thawed) or (tied and role == "everything")))
    expected = 2 * batch * LENGTH * (products + head) + attention * batch * heads * LENGTH**2 * (width // heads)
    x = torch.randint(0, TOKENS, (batch, LENGTH))
    found = count_flops(lambda: nn.functional.cross_entropy(model(x).flatten(0, 1), x.flatten()).backward())
    assert found == expected


def test_a_model_that_keeps_documents_apart_is_exported_as_one(tmp_path):
    settings = [
        "stream=language",
        "stream.tasks=[readmes]",
        "stream.attention=within",
        "stream.length=300",
        "model=decoder",
    ]
    settings += ["stream.tokens_per_task=4000", "stream.test_tokens=3000", "model.width=32", "model.depth=1"]
    settings += ["trainer.max_steps=2", "tracking=none", "figures=[]", "cost.reference_steps=0"]
    code, said = in_process(*settings, f"hydra.run.dir={tmp_path}/run")
    assert not code, said
    assert max(export(tmp_path / "run", tmp_path / "out", "torch").values()) < 1e-4


def test_pickled_weights_are_refused_by_name(tmp_path):
    net = llama()
    net.config.save_pretrained(tmp_path)
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"has its weights in pytorch_model.bin only, a pickle"):
        causal_lm((LENGTH,), TOKENS, str(tmp_path))
    causal_lm((LENGTH,), TOKENS, str(tmp_path), pretrained=False)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_come_from_and_go_to_files_under_llamas_names(tmp_path, tied):
    net = llama(tied=tied)
    net.save_pretrained(tmp_path)
    model = decoder((LENGTH,), TOKENS, 32, 3, 4, 2, 48, tied=tied)
    assert load_into(model, str(tmp_path / "model.safetensors")).startswith("Weights of")
    x = torch.randint(0, TOKENS, (2, LENGTH))
    with torch.no_grad():
        torch.testing.assert_close(model(x), net(input_ids=x).logits, rtol=1e-4, atol=1e-4)
    settings = ["stream=language", "stream.tasks=[python]", "stream.length=24", "stream.tokens_per_task=2000"]
    settings += ["stream.test_tokens=1000", "model=decoder", "model.width=32", "model.depth=2", f"model.tied={tied}"]
    run = [*settings, "trainer.max_steps=2", "tracking=none", "figures=[]", "cost.reference_steps=0"]
    for folder, more in (("first", []), ("second", [f"model.weights={tmp_path}/first"])):
        code, said = in_process(*run, *more, f"hydra.run.dir={tmp_path}/{folder}")
        assert not code, said
    export(tmp_path / "first", tmp_path / "out", "none")
    config = transformers.LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, rms_norm_eps=1e-6,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config)
    said = theirs.load_state_dict(read(tmp_path / "out" / "weights.safetensors"), strict=False)
    assert not said.unexpected_keys
    assert set(said.missing_keys) <= {"lm_head.weight"}
    served = read(tmp_path / "first" / SERVED)
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=served["x"]).logits, served["logits"], rtol=1e-4, atol=1e-4)
