"""Hugging Face encoders and decoders, cut into stages.

Between stages go the hidden states [B, L, D] and which tokens are no padding, bool [B, L]; or, where documents are kept apart,
the number of each token's, int64 [B, L]. Each block makes its own mask and rotary angles of those, so that a block can be run
from cached activations.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError
from frostline.core.rng import generator

State = tuple[Tensor, Tensor]


class TokenEmbedding(nn.Module):
    """Token ids [B, L] to the first hidden states, and which tokens are real."""

    end: int | None = None  # set: decoders keep attention within documents, which this token ends

    def __init__(self, padding: int | None, inner: nn.Module, positions: nn.Module | None = None):
        super().__init__()
        self.padding, self.inner, self.positions = padding, inner, positions

    def forward(self, x: Tensor) -> State:
        """Return the state."""
        real = torch.ones_like(x, dtype=torch.bool) if self.padding is None else x != self.padding
        hidden = self.inner(x)
        if self.positions is not None:
            hidden = hidden + self.positions(torch.arange(x.shape[1], device=x.device))
        return hidden, real if self.end is None else documents(x, self.end)


def documents(x: Tensor, end: int) -> Tensor:
    """Return the number of each token's document in its window [B, L]; the token that ends one is its last."""
    ends = x == end
    return ends.cumsum(1) - ends.long()


def within(among: Tensor) -> Tensor:
    """Return which tokens each token sees, bool [B, 1, L, L]: those up to itself with its own number."""
    length = among.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=among.device).tril()
    return causal & (among[:, None, :, None] == among[:, None, None, :])


class EncoderBlock(nn.Module):
    """A layer in which every token sees every real token."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, state: State) -> State:
        """Return the next state."""
        hidden, real = state
        return self.layer(hidden, attention_mask=real[:, None, None, :]), real


class DecoderBlock(nn.Module):
    """A layer in which every token sees the real tokens up to itself; `rotary` is shared by all blocks and has no weights.

    all_real: no token is padding, so the layer's own causal attention, which needs no mask, will do.
    """

    def __init__(self, layer: nn.Module, rotary: nn.Module | None, all_real: bool):
        super().__init__()
        self.layer, self.rotary, self.all_real = layer, rotary, all_real

    def forward(self, state: State) -> State:
        """Return the next state."""
        hidden, real = state
        length = hidden.shape[1]
        more: dict[str, Any] = {"attention_mask": None}
        if real.dtype == torch.int64:  # numbers of documents
            more["attention_mask"] = within(real)
        elif not self.all_real:
            causal = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()
            more["attention_mask"] = causal & real[:, None, None, :]
        if self.rotary is not None:
            places = torch.arange(length, device=hidden.device)[None]
            more |= {"position_ids": places, "position_embeddings": self.rotary(hidden, position_ids=places)}
        return self.layer(hidden, **more), real


class MeanOfTokens(nn.Module):
    """The mean over real tokens: how sentence encoders are read."""

    def forward(self, state: State) -> Tensor:
        """Return [B, D]."""
        hidden, real = state
        weight = real[:, :, None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


class LastToken(nn.Module):
    """The last real token after the final norm: how decoders are read."""

    reads_last = True

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, state: State) -> Tensor:
        """Return [B, D]."""
        hidden, real = state
        last = real.sum(1).clamp(min=1) - 1
        return self.norm(hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0])


class EveryToken(nn.Module):
    """All tokens after the final norm: how decoders are read that say what comes next."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, state: State) -> Tensor:
        """Return [B, L, D]."""
        return self.norm(state[0])


FAMILIES = "expected a model built like BERT, GPT-2 or Llama"


def cut(net: Any, length: int, every: bool = False) -> nn.Sequential:
    """Return the stages of a model, held against the whole model on texts of this length, padded ones among them.

    A family may scale its embeddings, norm after its last layer, or look through a window: cut without that, it computes
    another function.
    """
    name = type(net).__name__
    if (room := _positions(net)) is not None and length > room:
        raise UsageError(f"stream.length={length}: {name} has {room} positions. Expected at most as many.")
    try:
        stages = staged(net, every)
        difference = _difference(net, stages, length)
    except UsageError:
        raise
    except Exception as error:  # each family has its own ways
        raise UsageError(f"{name} cannot be cut into stages ({type(error).__name__}): {FAMILIES}.") from error
    if not difference < 1e-3:
        raise UsageError(
            f"{name} computes something else when it is cut into stages (by {difference:.2g}): {FAMILIES}."
        )
    return stages


def _positions(net: Any) -> int | None:
    """Return how many places a model has learned positions for; None where they are computed."""
    table = getattr(net, "wpe", None) or getattr(getattr(net, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return None
    return table.num_embeddings - (
        0 if table.padding_idx is None else table.padding_idx + 1
    )  # RoBERTa's begin after it


def _difference(net: Any, stages: nn.Sequential, length: int) -> float:
    """Return how far what the stages make of some tokens is from what the whole model makes of them, relative to that."""
    padding = net.config.pad_token_id
    x = torch.randint(5, net.config.vocab_size, (3, length), generator=generator("cut", length))
    real = torch.ones_like(x, dtype=torch.bool)
    if padding is not None:
        x[x == padding] = 4 if padding != 4 else 5
        x[1, length // 2 :], x[2, 1:] = padding, padding
        real = x != padding
    was = net.training
    with torch.no_grad():
        whole = net.eval()(input_ids=x, attention_mask=real.long()).last_hidden_state
        found = stages.eval()(x)
    net.train(was)
    stages.train(was)
    if isinstance(stages.pool, EveryToken):
        found, wanted = found[real], whole[real]
    elif isinstance(stages.pool, MeanOfTokens):
        wanted = stages.pool((whole, real))
    else:
        wanted = whole[torch.arange(3), real.sum(1) - 1]  # normed already, where the whole model norms it
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))


def staged(net: Any, every: bool = False) -> nn.Sequential:
    """Return the stages of a Hugging Face base model: embedding, blocks, and pooling, or with `every` the last norm.

    Known are models built like BERT (also RoBERTa-size relatives such as MiniLM), GPT-2, and Llama (also Qwen and Mistral).
    """
    padding, read = None if every else net.config.pad_token_id, EveryToken if every else LastToken
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if hasattr(net, "encoder") and hasattr(net, "embeddings"):
        parts["embedding"] = TokenEmbedding(padding, net.embeddings)
        blocks: list[nn.Module] = [EncoderBlock(layer) for layer in net.encoder.layer]
        pool: nn.Module = MeanOfTokens()
        if every:
            raise UsageError(f"{type(net).__name__} sees later tokens too: expected a model that says what comes next.")
    elif hasattr(net, "wte"):
        parts["embedding"] = TokenEmbedding(padding, net.wte, net.wpe)
        blocks, pool = [DecoderBlock(layer, None, every) for layer in net.h], read(net.ln_f)
    elif hasattr(net, "embed_tokens") and hasattr(net, "rotary_emb"):
        parts["embedding"] = TokenEmbedding(padding, net.embed_tokens)
        blocks, pool = [DecoderBlock(layer, net.rotary_emb, every) for layer in net.layers], read(net.norm)
    else:
        raise UsageError(f"{type(net).__name__} cannot be cut into stages: {FAMILIES}.")
    parts |= {f"block{number + 1}": block for number, block in enumerate(blocks)}
    parts["pool"] = pool
    return nn.Sequential(parts)
