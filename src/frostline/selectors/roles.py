"""Parameters by what they do in a transformer."""

import re
from dataclasses import dataclass

from torch import nn

from frostline.core.checks import UsageError, one_of
from frostline.core.structure import everything, head, layers
from frostline.core.types import Task
from frostline.costs import TaskCosts
from frostline.selectors.base import Selector

# By module name: torch's own layers, timm's ViT, and Hugging Face's Llama, Qwen, Mistral, GPT-2 and BERT families.
QKV = r"\.(self_attn|multihead_attn|attention\.self|attn)\.(in_proj|[qkv]_proj|c_attn|q_attn|qkv|query|key|value|bias_[kv])\b"
OUT = r"\.(self_attn|multihead_attn|attn)\.(out_proj|o_proj|c_proj|proj)\b|\battention\.output\.dense\b"
VALUE = r"\.(self_attn|attention\.self|attn)\.(v_proj|value|bias_v)\b"
UP = r"\.(linear1|intermediate\.dense)\b|\.mlp\.(gate_proj|up_proj|gate_up_proj|c_fc|fc1|fc1_g|fc1_x)\b"
DOWN = r"\.linear2\b|\.mlp\.(down_proj|c_proj|fc2)\b|(?<!attention)\.output\.dense\b"
BY_NAME = {
    "attention_qkv": QKV,
    "attention_projections": f"{QKV}|{OUT}",
    "attention_vo": f"{VALUE}|{OUT}",
    "mlp_gate_up": UP,
    "mlp_down": DOWN,
    "mlp": f"{UP}|{DOWN}",
}
# Of models that see: LLaVA-like and Qwen-VL-like ones.
PARTS = {
    "language_model": r"\.(language_model|lm_head)\.",
    "projector": r"\.(multi_modal_projector|projector|connector|visual\.merger)\.",
    "vision_tower": r"\.(vision_tower|vision_model|visual)\.(?!merger\.)",
}
ROLES = (*BY_NAME, "norms", "biases", "embeddings", *PARTS)


@dataclass
class Role(Selector):
    """Thaw the parameters with one role, and the head (Zhu et al. 2025, arXiv 2510.08564).

    role: attention_projections (q, k, v and o), attention_qkv, attention_vo (v and o), mlp, mlp_gate_up (gate and up thaw,
    down stays frozen; in an MLP without a gate the first layer), mlp_down, norms, biases (all of them, as in BitFit),
    embeddings; of models that see also vision_tower, projector, language_model. with_head: the classifier too. part: of which
    part of such a model the role is; null takes the language model's where there is one, as the paper does, and all of a
    model without parts.
    """

    role: str = "attention_projections"
    with_head: bool = True
    part: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("selector.role", self.role, ROLES)
        if self.part is not None:
            one_of("selector.part", self.part, PARTS)

    def check(self, model: nn.Module, costs: TaskCosts) -> None:
        if not names_of_role(model, self.role, self.part) - head(model):
            found = [role for role in ROLES if names_of_role(model, role, self.part) - head(model)]
            raise UsageError(
                f"selector.role={self.role!r}: the model has none. Its layers are {', '.join(list(layers(model))[:4])}, ...; "
                f"expected one of {', '.join(found) or 'the rules by depth, such as selector=last_k'}."
            )

        values = re.compile(VALUE)
        if self.role == "attention_vo" and not any(values.search(f".{n}") for n in everything(model)):
            raise UsageError(
                "selector.role='attention_vo': the model has q, k and v in one tensor, of which a part cannot thaw. Expected "
                "attention_projections, or a model with three of them, such as those of the Llama and BERT families."
            )

    def choose(self, model: nn.Module, task: Task, costs: TaskCosts) -> frozenset[str]:
        names = names_of_role(model, self.role, self.part)
        return names | head(model) if self.with_head else names


def names_of_role(model: nn.Module, role: str, part: str | None = None) -> frozenset[str]:
    """Return the full names of the parameters with this role, see Role; none where the model has no such part."""
    if role in PARTS:
        return _of_part(model, role)
    sees = _of_part(model, "vision_tower") and _of_part(model, "language_model")
    return _by_role(model, role) & (_of_part(model, part or "language_model") if part or sees else everything(model))


def _of_part(model: nn.Module, part: str) -> frozenset[str]:
    pattern = re.compile(PARTS[part])
    return frozenset(n for n in everything(model) if pattern.search(f".{n}"))


def _by_role(model: nn.Module, role: str) -> frozenset[str]:
    if role in BY_NAME:
        pattern = re.compile(BY_NAME[role])
        return frozenset(n for n in everything(model) if pattern.search(f".{n}".replace("in_proj_", "in_proj.")))
    if role == "biases":
        return frozenset(n for n in everything(model) if re.search(r"(\.|_)bias$|^bias$", n))
    groups = layers(model)
    if role == "embeddings":
        tables = [own for name, own in groups.items() if isinstance(model.get_submodule(name), nn.Embedding)]
        loose = [n for n in everything(model) if re.search(r"(pos_embed|cls_token|position_embedding|patch_embed)", n)]
        return frozenset(loose).union(*tables)
    kinds = {name: type(model.get_submodule(name)).__name__ for name in groups}
    return frozenset().union(*(groups[name] for name, kind in kinds.items() if "Norm" in kind))
