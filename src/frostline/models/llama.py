"""A compact language model built like Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.checks import UsageError, in_range
from frostline.models.classifier import Classifier
from frostline.models.staging import TokenEmbedding, documents, within

EPSILON = 1e-6  # of the norms


State = (
    Tensor | tuple[Tensor, Tensor]
)  # hidden states [B, L, D], and where documents are kept apart the number of each's [B, L]


class Tokens(nn.Embedding):
    """Token ids to hidden states; with `end` set, to them and the number of each token's document in its window."""

    end: int | None = None

    def forward(self, input: Tensor) -> State:  # type: ignore[override]
        """Return the state."""
        hidden = super().forward(input)
        return hidden if self.end is None else (hidden, documents(input, self.end))


class Norm(nn.RMSNorm):
    """The last norm, of hidden states whatever comes with them."""

    def forward(self, x: State) -> Tensor:  # type: ignore[override]
        """Return [B, L, D]."""
        return super().forward(x if isinstance(x, Tensor) else x[0])


class Attention(nn.Module):
    """Causal self-attention in which `heads` queries share `kv_heads` keys and values, turned by their places."""

    cos: Tensor
    sin: Tensor
    past: tuple[Tensor, ...] | None = None  # keys and values of the tokens before, where they are kept

    def __init__(self, width: int, heads: int, kv_heads: int, length: int, theta: float):
        super().__init__()
        self.size = width // heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * self.size, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * self.size, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        speeds = theta ** (-torch.arange(0, self.size, 2) / self.size)
        angles = torch.outer(torch.arange(length), speeds).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        signs = torch.ones(self.size).index_fill(0, torch.arange(self.size // 2), -1)  # so that no half is negated
        self.register_buffer("sin", angles.sin() * signs, persistent=False)

    def forward(self, x: Tensor, among: Tensor | None = None) -> Tensor:
        """Return [B, L, D] from [B, L, D]; among [B, L]: tokens with different numbers do not see one another."""
        start = self.past[0].shape[2] if self.past else 0
        q, k, v = (p(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self._turned(q, start), self._turned(k, start)
        if self.past is not None:
            k, v = (
                (torch.cat((old, new), 2) for old, new in zip(self.past, (k, v), strict=True)) if self.past else (k, v)
            )
            self.past = (k, v)
        found = F.scaled_dot_product_attention(
            q, k, v, None if among is None else within(among), is_causal=among is None and q.shape[2] > 1,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        return self.o_proj(found.transpose(1, 2).flatten(2))

    def _turned(self, x: Tensor, start: int) -> Tensor:
        """Return queries or keys [B, H, L, d] turned by their places, from `start` on (Su et al. 2021, arXiv 2104.09864)."""
        here = slice(start, start + x.shape[2])
        first, second = x.chunk(2, -1)
        return torch.addcmul(x * self.cos[here], torch.cat((second, first), -1), self.sin[here])


class SwiGLU(nn.Module):
    """Down of silu(gate) times up (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., D] from [..., D]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and an MLP, each on the normed state and added to it."""

    def __init__(self, width: int, hidden: int, heads: int, kv_heads: int, length: int, theta: float):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(width, EPSILON)
        self.self_attn = Attention(width, heads, kv_heads, length, theta)
        self.post_attention_layernorm = nn.RMSNorm(width, EPSILON)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, state: State) -> State:
        """Return the next state."""
        x, among = (state, None) if isinstance(state, Tensor) else state
        x = x + self.self_attn(self.input_layernorm(x), among)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x if among is None else (x, among)


def keep_apart(model: nn.Module, end: int | None) -> bool:
    """Let tokens see those of their own document only, which `end` ends (None: all before them); tell whether they can."""
    told = [module for module in model.modules() if isinstance(module, Tokens | TokenEmbedding)]
    for module in told:
        module.end = end
    return bool(told)


def decoder(
    shape: Sequence[int],
    classes: int,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    kv_heads: int = 2,
    hidden: int = 384,
    theta: float = 10_000.0,
    tied: bool = True,
) -> Classifier:
    """Return a decoder from token ids [B, L] to the next tokens' logits [B, L, V], with weights as Llama draws them.

    It computes what Hugging Face's LlamaForCausalLM does, and is exported under its names. hidden: of the MLP. theta: of the
    rotary positions. tied: the head's matrix is the embedding's, one parameter under the embedding's name. Touvron et al. 2023,
    arXiv 2302.13971.
    """
    if len(shape) != 1:
        raise UsageError(f"model=decoder needs sequences of token ids, such as stream=language, not {list(shape)}.")
    for name, value in (
        ("width", width),
        ("depth", depth),
        ("heads", heads),
        ("kv_heads", kv_heads),
        ("hidden", hidden),
    ):
        in_range(f"model.{name}", value, 1)
    if width % (2 * heads):
        raise UsageError(f"model.heads={heads}: expected a number of which twice divides model.width={width}.")
    if heads % kv_heads:
        raise UsageError(f"model.kv_heads={kv_heads}: expected a number that divides model.heads={heads}.")
    embedding = Tokens(classes, width)
    parts: OrderedDict[str, nn.Module] = OrderedDict(embedding=embedding)
    for number in range(depth):
        parts[f"block{number + 1}"] = Block(width, hidden, heads, kv_heads, shape[0], theta)
    parts["norm"] = Norm(width, EPSILON)
    model = Classifier(nn.Sequential(parts), width, classes, bias=False)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    if tied:
        model.head.weight = embedding.weight
    model.original = {name: _llama(name) for name in model.state_dict()}
    return model


def _llama(name: str) -> str:
    """Return what Hugging Face's LlamaForCausalLM calls a parameter."""
    known = {"backbone.embedding.weight": "model.embed_tokens.weight", "backbone.norm.weight": "model.norm.weight"}
    if name.startswith("backbone.block"):
        number, rest = name.removeprefix("backbone.block").split(".", 1)
        return f"model.layers.{int(number) - 1}.{rest}"
    return known.get(name, "lm_head.weight")
