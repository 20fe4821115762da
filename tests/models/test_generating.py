"""Greedy generation with a cache, against transformers' own generation and against a model that has no cache."""

import pytest
import torch

from frostline.models import causal_lm
from frostline.models.generating import _again, generate
from frostline.selectors import LoRA
from tests.models.test_llama import LENGTH, TOKENS, llama, ours, transformers


def without_a_cache(model, prompt, ends, most):
    step, said, ids = _again(model), [], prompt[None]
    while True:
        said.append(int(step(ids).argmax()))
        if len(said) >= most or any(said[-len(end) :] == list(end) for end in ends):
            return said
        ids = torch.tensor([said[-1:]])


def net_of(family):
    torch.manual_seed(3)
    if family == "gpt2":
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=TOKENS, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        )
    return llama()


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_decoder_says_what_llama_says(kv_heads):
    net = llama(kv_heads).eval()
    model = ours(net, tied=True).eval()
    for start in range(4):
        prompt = torch.arange(start, start + 5 + start) * 7 % TOKENS
        wanted = net.generate(
            prompt[None], do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0,
            attention_mask=torch.ones_like(prompt[None]),
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert generate(model, prompt, [], 12) == wanted == without_a_cache(model, prompt, [], 12)
        assert generate(model, prompt, [wanted[3:5]], 12) == wanted[:5] or wanted[3:5] in (
            wanted[i : i + 2] for i in range(3)
        )
    assert all(getattr(m, "past", None) is None for m in model.modules())  # training is as it was


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_folder_says_what_its_stages_say(family, tmp_path):
    net_of(family).save_pretrained(tmp_path)
    model = causal_lm((LENGTH,), TOKENS, str(tmp_path)).eval()
    names = set(model.state_dict())
    prompt = torch.arange(6) * 5 % TOKENS
    assert generate(model, prompt, [], 10) == without_a_cache(model, prompt, [], 10)
    LoRA(rank=2).prepare(model)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.normal_(std=0.5)
    assert generate(model, prompt, [], 10) == without_a_cache(model, prompt, [], 10)
    assert len(names) < len(model.state_dict())
    before = generate(model, prompt, [], 10)
    model.head = torch.nn.Linear(32, TOKENS)  # as a method may serve: the uncut net has another one
    assert generate(model, prompt, [], 10) == without_a_cache(model, prompt, [], 10) != before
