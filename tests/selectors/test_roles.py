import pytest

from frostline.core.structure import everything, head
from frostline.models import Classifier, slim_resnet18, timm_model, vit
from frostline.models.staging import staged
from frostline.selectors import Role
from frostline.selectors.roles import names_of_role
from tests.models.test_transformers import tiny

# Of the first block, without its prefix: weights only.
EXPECTED = {
    "bert": {
        "attention_qkv": {"attention.self.query", "attention.self.key", "attention.self.value"},
        "attention_projections": {
            "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
        },
        "mlp_gate_up": {"intermediate.dense"},
        "mlp": {"intermediate.dense", "output.dense"},
        "mlp_down": {"output.dense"},
        "attention_vo": {"attention.self.value", "attention.output.dense"},
        "norms": {"attention.output.LayerNorm", "output.LayerNorm"},
    },
    "gpt2": {
        "attention_qkv": {"attn.c_attn"},
        "attention_projections": {"attn.c_attn", "attn.c_proj"},
        "mlp_gate_up": {"mlp.c_fc"},
        "mlp": {"mlp.c_fc", "mlp.c_proj"},
        "mlp_down": {"mlp.c_proj"},
        "norms": {"ln_1", "ln_2"},
    },
    "llama": {
        "attention_qkv": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
        "attention_projections": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"},
        "mlp_gate_up": {"mlp.gate_proj", "mlp.up_proj"},
        "mlp": {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
        "mlp_down": {"mlp.down_proj"},
        "attention_vo": {"self_attn.v_proj", "self_attn.o_proj"},
        "norms": {"input_layernorm", "post_attention_layernorm"},
    },
    "torch": {
        "attention_qkv": {"self_attn.in_proj"},
        "attention_projections": {"self_attn.in_proj", "self_attn.out_proj"},
        "mlp_gate_up": {"linear1"},
        "mlp": {"linear1", "linear2"},
        "mlp_down": {"linear2"},
        "norms": {"norm1", "norm2"},
    },
    "timm": {
        "attention_qkv": {"attn.qkv"},
        "attention_projections": {"attn.qkv", "attn.proj"},
        "mlp_gate_up": {"mlp.fc1"},
        "mlp": {"mlp.fc1", "mlp.fc2"},
        "mlp_down": {"mlp.fc2"},
        "norms": {"norm1", "norm2"},
    },
}  # fmt: skip
EXPECTED["qwen2"] = EXPECTED["llama"]
EXPECTED["roberta"] = EXPECTED["bert"]


def build(family):
    if family == "torch":
        return vit((1, 8, 8), 3, patch=4, width=8, depth=2, heads=2)
    if family == "timm":
        return timm_model((3, 32, 32), 3)
    return Classifier(staged(tiny(family)), 16, 3)


@pytest.mark.parametrize("family", EXPECTED)
def test_roles_of_every_family(family):
    net = build(family)
    for role, expected in EXPECTED[family].items():
        block = {
            n.removeprefix("backbone.block1.").removeprefix("layer.")
            for n in names_of_role(net, role)
            if ".block1." in n
        }
        weights = {
            n.replace("in_proj_weight", "in_proj.weight").removesuffix(".weight") for n in block if n.endswith("weight")
        }
        assert weights == expected, role
        second = {n for n in names_of_role(net, role) if ".block2." in n}
        assert len(second) == len(block)  # every block alike
        assert not names_of_role(net, role) & head(net)
    assert names_of_role(net, "biases") == {n for n in everything(net) if n.endswith("bias")}
    assert names_of_role(net, "embeddings")
    roles = [names_of_role(net, r) for r in ("attention_projections", "mlp", "norms", "embeddings")]
    if family != "bert":
        rest = everything(net) - head(net)
        assert {n for n in frozenset().union(*roles) if not n.endswith("bias")} == {
            n for n in rest if not n.endswith("bias")
        }


def test_the_head_is_a_matter_of_choice(digits):
    net = build("torch")
    assert head(net) <= Role(role="norms")(net, digits[0], None)
    assert not head(net) & Role(role="norms", with_head=False)(net, digits[0], None)


def test_what_a_model_has_not_is_an_error():
    with pytest.raises(ValueError, match=r"'attention_qkv': the model has none.* expected one of norms, biases"):
        Role(role="attention_qkv").check(slim_resnet18((1, 8, 8), 3, filters=2), None)
    with pytest.raises(ValueError, match="'biases': the model has none"):
        Role(role="biases").check(build("llama"), None)  # the head's own does not count
    with pytest.raises(ValueError, match="Did you mean 'mlp_gate_up'"):
        Role(role="mlp_gate")
    Role(role="biases").check(build("qwen2"), None)


def test_values_that_share_a_tensor_with_queries_are_refused():
    net = vit((3, 16, 16), 4, patch=4, width=8, depth=2, heads=2)
    with pytest.raises(ValueError, match="q, k and v in one tensor"):
        Role(role="attention_vo").check(net, None)
