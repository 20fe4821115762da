import pytest

from frostline.core.checks import UsageError
from frostline.core.structure import everything, head
from frostline.models import Classifier, slim_resnet18, timm_model, vit
from frostline.models.staging import staged
from frostline.selectors import Role
from frostline.selectors.roles import names_of_role
from tests.models.test_llama import transformers
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


def multimodal(family):
    language = {
        "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if family == "llava":
        vision = transformers.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=16,
            patch_size=8,
        )
        text = transformers.LlamaConfig(**language)
        return transformers.LlavaForConditionalGeneration(
            transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=98)
        )
    language["rope_scaling"] = {"type": "mrope", "mrope_section": [2, 1, 1]}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": 32,
        "patch_size": 8,
    }
    return transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig(text_config=language, vision_config=vision)
    )


@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_a_model_that_sees_has_three_parts_and_the_language_models_roles(family):
    """Zhu et al. 2025 thaw the language model's projections; the vision tower has some of the same names."""
    model = multimodal(family)
    parts = [names_of_role(model, part) for part in ("vision_tower", "projector", "language_model")]
    assert all(parts)
    assert frozenset().union(*parts) == everything(model)
    assert sum(map(len, parts)) == len(everything(model))
    projections = names_of_role(model, "attention_projections")
    assert {name.split("self_attn.")[-1] for name in projections} >= {"q_proj.weight", "o_proj.weight"}
    assert projections < parts[2]
    assert len([name for name in projections if name.endswith("o_proj.weight")]) == 2
    gates = names_of_role(model, "mlp_gate_up")
    assert {name.rsplit(".", 2)[-2] for name in gates} == {"gate_proj", "up_proj"}
    assert gates < parts[2]
    seen = names_of_role(model, "attention_projections", "vision_tower")
    assert seen
    assert seen < parts[0]
    rule = Role(role="mlp", part="vision_tower", with_head=False)
    assert rule.choose(model, None, None) < parts[0]


def test_a_part_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match=r"selector\.role='projector': the model has none"):
        Role(role="projector").check(tiny("llama"), None)
    with pytest.raises(UsageError, match=r"selector\.part"):
        Role(part="tower")
