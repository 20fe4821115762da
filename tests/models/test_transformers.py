"""The staged models against the libraries' own forward passes, on tiny models built from their config classes."""

import pytest
import torch

from frostline.core.checks import UsageError
from frostline.core.structure import Staged
from frostline.core.torchvision_schemas import torchvision
from frostline.models import Classifier, huggingface, minilm, timm_model, vit
from frostline.models.staging import cut, staged

torchvision()  # transformers and timm import it
from transformers import (  # noqa: E402
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
)

ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
DECODER = {**ENCODER, "num_key_value_heads": 1}
COMMON = {"vocab_size": 50, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
FAMILIES = {
    "bert": (BertConfig, BertModel, ENCODER),
    "roberta": (RobertaConfig, RobertaModel, ENCODER),
    "gpt2": (GPT2Config, GPT2Model, GPT2),
    "llama": (LlamaConfig, LlamaModel, DECODER),
    "qwen2": (Qwen2Config, Qwen2Model, DECODER),
    "qwen3": (Qwen3Config, Qwen3Model, {**DECODER, "head_dim": 8}),
}


def tiny(family: str):
    config, model, sizes = FAMILIES[family]
    torch.manual_seed(0)
    return model._from_config(config(**{**COMMON, **sizes}), attn_implementation="sdpa").eval()


def tokens():
    x = torch.randint(1, 50, (3, 9), generator=torch.Generator().manual_seed(0))
    x[1, 6:], x[2, 4:] = 0, 0
    return x


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_compute_what_the_library_computes(family):
    net, x = tiny(family), tokens()
    real = x != 0
    expected = net(input_ids=x, attention_mask=real.long()).last_hidden_state
    stages = staged(net)
    state = x
    for stage in list(stages)[:-1]:
        state = stage(state)
    hidden = stages[-1].norm(state[0]) if hasattr(stages[-1], "norm") else state[0]
    torch.testing.assert_close(hidden[real], expected[real])
    pooled = stages(x)
    if family in ("bert", "roberta"):
        torch.testing.assert_close(pooled[2], expected[2, :4].mean(0))
    else:
        torch.testing.assert_close(pooled[2], expected[2, 3])


CUT = {
    "vit_tiny_patch16_224": 14,
    "resnet18": 13,
    "tf_efficientnet_lite0": 12,
    "mobilenetv2_100": 12,
    "convnext_atto": 6,
}
WHOLE = ("densenet121", "swin_tiny_patch4_window7_224")


@pytest.mark.parametrize("name", [*CUT, *WHOLE])
def test_timm_computes_what_timm_computes(name):
    """Cut into stages, and with its classifier's place taken: the features are timm's own, and so are the names."""
    import timm

    size = 224 if name.startswith("swin") else 32
    torch.manual_seed(0)
    ours = timm_model((3, size, size), 4, name).eval()
    torch.manual_seed(0)
    sized = {"img_size": size} if name.startswith(("vit", "swin")) else {}
    theirs = timm.create_model(name, in_chans=3, num_classes=0, **sized).eval()
    x = torch.randn(2, 3, size, size)
    torch.testing.assert_close(ours.backbone(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert len(ours.stages()) >= CUT.get(name, 1)
    renamed = {ours.original[n]: t for n, t in ours.state_dict().items() if n in ours.original}
    theirs.load_state_dict(renamed)
    assert set(ours.state_dict()) - set(ours.original) == {"head.weight", "head.bias"}
    assert isinstance(ours, Staged)


def test_timm_takes_weights_with_another_classifier_channel_and_size(tmp_path):
    """What is published has a head of 1000 classes and three channels."""
    import timm
    from safetensors.torch import save_file

    for name, size in (("resnet18", 32), ("vit_tiny_patch16_224", 224)):
        torch.manual_seed(1)
        published = timm.create_model(name, num_classes=1000)
        save_file(published.state_dict(), tmp_path / "w.safetensors")
        net = timm_model((1, 48, 48), 5, name, checkpoint=str(tmp_path / "w.safetensors"))
        same = {net.original[n]: t for n, t in net.state_dict().items() if n in net.original}
        equal = [n for n, t in published.state_dict().items() if n in same and torch.equal(same[n], t)]
        assert len(equal) > 0.8 * len(same), (name, size)
        assert net(torch.randn(2, 1, 48, 48)).shape == (2, 5)


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        (lambda state: {f"x.{n}": t for n, t in state.items()}, 100),
        (lambda state: {n: t for n, t in state.items() if n != "layer1.0.conv1.weight"}, 1),
        (lambda state: {n: t for n, t in state.items() if n.startswith("fc.")}, 100),
    ],
)
def test_timm_weights_that_leave_something_as_it_was_drawn_are_refused(change, lacking, tmp_path):
    import timm
    from safetensors.torch import save_file

    save_file(change(timm.create_model("resnet18").state_dict()), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=rf"w\.safetensors': {lacking} of the model's 120 tensors are not in the file"):
        timm_model((3, 32, 32), 5, "resnet18", checkpoint=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("change", [lambda name: f"foo.{name}", lambda name: name.replace("layers.1.", "layers.7.")])
def test_so_are_those_of_hugging_face(change, tmp_path):
    from safetensors.torch import load_file, save_file

    tiny("llama").save_pretrained(tmp_path)
    assert huggingface((12,), 3, str(tmp_path))(torch.randint(2, 20, (2, 12))).shape == (2, 3)
    state = load_file(tmp_path / "model.safetensors")
    save_file({change(n): t for n, t in state.items()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"of the model's \d+ tensors are not in the file, such as "):
        huggingface((12,), 3, str(tmp_path))


def test_vit_in_training_and_evaluation():
    net = vit((1, 8, 8), 3, patch=4, width=8, depth=2, heads=2)
    x = torch.randn(5, 1, 8, 8)
    trained = net(x)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), trained)
    assert net.blocks() == ["backbone.patches", "backbone.block1", "backbone.block2", "backbone.pool"]


def test_minilm_is_the_pretrained_sentence_encoder():
    from tokenizers import Tokenizer

    from frostline.models.language import minilm_folder

    net = minilm((32,), 3).eval()
    assert sum(p.numel() for p in net.backbone.parameters()) == pytest.approx(22.6e6, rel=0.01)
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.enable_padding(length=32)
    tokenizer.enable_truncation(32)
    texts = ["The cat sleeps on the sofa.", "A kitten is napping on the couch.", "Interest rates rose again in March."]
    with torch.no_grad():
        vectors = net.backbone(torch.tensor([tokenizer.encode(t).ids for t in texts]))
    near = torch.cosine_similarity(vectors[0], vectors[1], dim=0)
    far = torch.cosine_similarity(vectors[0], vectors[2], dim=0)
    assert near > 0.6 > 0.2 > far  # random weights would not know


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nearest patch that divides it is 2"):
        vit((1, 8, 8), 2, patch=3)
    with pytest.raises(ValueError, match=r"divides model\.width"):
        vit((1, 8, 8), 2, patch=4, width=10, heads=4)
    with pytest.raises(ValueError, match="Did you mean 'vit_tiny_patch16_224'"):
        timm_model((3, 32, 32), 2, "vit_tiny_patch16_22")
    with pytest.raises(ValueError, match="needs images"):
        timm_model((32,), 2)
    with pytest.raises(ValueError, match="there is no such file"):
        timm_model((3, 32, 32), 2, "resnet18", checkpoint=str(tmp_path / "none.safetensors"))
    (tmp_path / "weights.pth").write_bytes(b"pickle")
    with pytest.raises(ValueError, match=r"model\.pickled=true"):
        timm_model((3, 32, 32), 2, "resnet18", checkpoint=str(tmp_path / "weights.pth"))
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="could not be loaded"):
        timm_model((3, 32, 32), 2, "resnet18", checkpoint=str(tmp_path / "bad.safetensors"))
    with pytest.raises(ValueError, match="sequences of token ids"):
        minilm((1, 8, 8), 2)
    with pytest.raises(ValueError, match=r"config\.json"):
        huggingface((32,), 2, str(tmp_path))
    net = torch.nn.Linear(2, 2)
    net.config = type("Config", (), {"pad_token_id": 0})()
    with pytest.raises(ValueError, match="built like BERT, GPT-2 or Llama"):
        staged(net)


def test_a_folder_as_transformers_writes_it(tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    net = huggingface((9,), 4, str(tmp_path))
    assert isinstance(net, Classifier)
    assert net(tokens()).shape == (3, 4)
    for name, p in tiny("llama").named_parameters():
        other = name.replace("layers.0.", "backbone.block1.layer.").replace("layers.1.", "backbone.block2.layer.")
        if other != name:
            assert torch.equal(net.get_parameter(other), p)


def folder(tmp_path, name, **more):
    """Write the config of a tiny model of some family."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[name]()
    sizes = {**COMMON, **DECODER, **GPT2, "head_dim": 8, "pad_token_id": 1, "sliding_window": None, **more}
    for key, value in sizes.items():
        if hasattr(config, key):
            setattr(config, key, value)
    config.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("electra", {"embedding_size": 16}),
        ("mistral", {}),
        ("granite", {"embedding_multiplier": 1.0}),
        ("olmo2", {}),
    ],
)
def test_relatives_are_cut_without_a_difference(name, more, tmp_path):
    assert isinstance(huggingface((24,), 5, folder(tmp_path, name, **more), pretrained=False), Classifier)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("granite", {"embedding_multiplier": 12.0}, "computes something else when it is cut"),  # scaled embeddings
        ("xlm-roberta-xl", {}, "computes something else when it is cut"),  # a norm after the last layer
        ("mistral", {"sliding_window": 4}, "computes something else when it is cut"),
        *((name, {}, "cannot be cut into stages") for name in ("albert", "phi", "persimmon", "distilbert", "opt")),
        *(
            (name, {}, "attention implementation")
            for name in ("mpnet", "megatron-bert", "deberta-v2", "roformer", "bloom")
        ),
    ],
)
def test_a_cut_that_computes_something_else_is_refused(name, more, message, tmp_path):
    with pytest.raises(UsageError, match=message) as caught:
        huggingface((24,), 5, folder(tmp_path, name, **more), pretrained=False)
    assert "expected a model built like BERT, GPT-2 or Llama" in str(caught.value)


def test_weights_that_are_not_there_or_damaged(tmp_path):
    path = folder(tmp_path, "bert")
    with pytest.raises(UsageError, match=r"model\.path=.*: OSError"):
        huggingface((24,), 5, path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UsageError, match=r"model\.path=.*: \w+Error"):
        huggingface((24,), 5, path)


def test_stream_and_model_agree_on_the_padding(tmp_path):
    from dataclasses import replace

    from frostline.app.ready import check_parts
    from frostline.loop.settings import TrainerConfig
    from frostline.selectors import Everything
    from frostline.strategies import Finetune
    from frostline.streams import from_tasks

    x, y = torch.randint(5, 50, (6, 24)), torch.tensor([0, 1, 2, 3, 4, 0])
    stream = replace(from_tasks([((x, y), (x, y))]), padding=1)
    rest = (Finetune(), Everything(), TrainerConfig(), lambda p: torch.optim.SGD(p, lr=0.1))
    check_parts(huggingface((24,), 5, folder(tmp_path, "bert"), pretrained=False), stream, *rest)
    with pytest.raises(UsageError, match="fills texts up with token 3, and the model takes token 1"):
        check_parts(huggingface((24,), 5, str(tmp_path), pretrained=False), replace(stream, padding=3), *rest)
    silent = huggingface((24,), 5, folder(tmp_path, "gpt2", pad_token_id=None), pretrained=False)
    check_parts(silent, replace(stream, padding=7), *rest)
    assert silent.backbone.embedding.padding == 7  # a model that names none takes the stream's


def test_padding_is_a_token_that_no_word_has(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    from frostline.streams.text import tokenizer_for

    def write(vocabulary):
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = Whitespace()
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        return str(tmp_path / "tokenizer.json")

    encode, padding = tokenizer_for(write({"word": 0, "<unk>": 1, "<|endoftext|>": 2}), 4)
    assert padding == 2
    assert encode(["word word"]).tolist() == [[0, 0, 2, 2]]  # id 0 is a word here
    with pytest.raises(UsageError, match="has no token for padding"):
        tokenizer_for(write({"word": 0, "<unk>": 1}), 4)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_text_longer_than_the_positions_is_refused_by_its_length(family):
    net = tiny(family)
    table = net.wpe if family == "gpt2" else net.embeddings.position_embeddings
    with pytest.raises(
        UsageError, match=rf"stream\.length={table.num_embeddings + 1}: .* has {table.num_embeddings} positions"
    ):
        cut(net, table.num_embeddings + 1)
    cut(net, table.num_embeddings)
