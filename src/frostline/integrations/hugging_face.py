"""Hugging Face's models as frostline's are."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from frostline.core.checks import UsageError
from frostline.core.objectives import IGNORED, Classification, Objective, Regression
from frostline.core.types import Batch

TEXT = ("input_ids", "attention_mask", "token_type_ids")
NOT_DATA = ("labels", "num_items_in_batch", "return_loss", "use_cache", "output_hidden_states", "output_attentions")


class Logits(nn.Module):
    """A model of Hugging Face's as frostline's are: one tensor in, logits out, targets where they are predicted.

    What goes in is [B, L, K], the token ids with what comes beside them, or the model's main input as it is.
    """

    def __init__(self, net: Any):
        super().__init__()
        self.net = net
        self.keys: tuple[str, ...] = ()
        self.main = net.main_input_name
        name = type(net).__name__
        self.shifts = name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() or name.endswith(
            ("ForCausalLM", "LMHeadModel")
        )
        self.classes = int(getattr(net.config, "vocab_size", 1) if self.shifts else net.config.num_labels)
        regression = not self.shifts and getattr(net.config, "problem_type", None) == "regression"
        self.objective: Objective = Regression() if regression or self.classes == 1 else Classification()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        more = {"use_cache": False} if self.shifts else {}
        given = dict(zip(self.keys, x.unbind(-1), strict=True)) if self.keys else {self.main: x}
        return self.net(**given, **more).logits

    def batch(self, inputs: Mapping[str, Any], length: int | None = None) -> Batch:
        """Return what a collator made of some samples; padded to `length`, where a memory has samples of that."""
        if inputs.get("labels") is None:
            raise UsageError(
                "The model is called without labels, so its loss is made elsewhere (label_smoothing_factor, compute_loss_func, "
                "or a collator that gives none). Expected labels beside the inputs."
            )
        known = [key for key in TEXT if inputs.get(key) is not None] if self.main == "input_ids" else [self.main]
        other = [k for k, v in inputs.items() if isinstance(v, Tensor) and k not in (*known, *NOT_DATA)]
        if other or self.main not in known:
            found = ", ".join(other) or f"no {self.main}"
            raise UsageError(f"The model is given {found}: expected {', '.join(TEXT)} and labels.")
        self.keys = tuple(known) if self.main == "input_ids" else ()
        x = torch.stack([inputs[key] for key in known], -1) if self.keys else inputs[self.main]
        y = inputs["labels"]
        if self.shifts:  # token t is what place t - 1 predicts
            y = torch.cat([y[:, 1:], torch.full_like(y[:, :1], IGNORED)], 1)
        if length is not None and self.keys:
            x, y = self._padded(x, y, length)
        places = torch.arange(len(x), device=x.device)
        return Batch(x, y, torch.zeros_like(places), places)

    def inputs(self, batch: Batch, given: Mapping[str, Any], parts: int) -> dict[str, Any]:
        """Return what the model is called with for a batch to which samples were added."""
        own = dict(zip(self.keys, batch.x.unbind(-1), strict=True)) if self.keys else {self.main: batch.x}
        y = batch.y
        if self.shifts:
            y = torch.cat([torch.full_like(y[:, :1], IGNORED), y[:, :-1]], 1)
        found = {**given, **own, "labels": y}
        if (count := given.get("num_items_in_batch")) is not None:
            more = self.objective.counted(batch.y).sum() - (given["labels"][..., 1:] != IGNORED).sum()
            found["num_items_in_batch"] = count + parts * more
        return found

    def _padded(self, x: Tensor, y: Tensor, length: int) -> tuple[Tensor, Tensor]:
        more = length - x.shape[1]
        if more < 0:
            raise UsageError(
                f"A batch has {x.shape[1]} tokens a sample, and those in memory {length}: replay keeps samples of one length. "
                "Expected a tokenizer that pads all to one: padding='max_length'."
            )
        if not more:
            return x, y
        filling = [getattr(self.net.config, "pad_token_id", None) or 0, 0, 0][: x.shape[2]]
        pad = x.new_tensor(filling).expand(len(x), more, -1)
        y = torch.cat([y, y.new_full((len(y), more), IGNORED)], 1) if y.ndim > 1 else y
        return torch.cat([x, pad], 1), y
