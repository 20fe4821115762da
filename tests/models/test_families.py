"""Every family that timm and transformers have here: cut up it computes what it did whole, or it is refused by name."""

import pytest
import torch

from frostline.core.checks import UsageError
from frostline.core.torchvision_schemas import torchvision
from frostline.models import huggingface, timm_model
from tests.models.test_transformers import COMMON, DECODER, GPT2

torchvision()  # transformers and timm import it
import timm  # noqa: E402
from timm.models import list_models, list_modules  # noqa: E402
from transformers import CONFIG_MAPPING, AutoModel  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES  # noqa: E402

LARGE = 40_000_000


@pytest.mark.slow
@pytest.mark.parametrize("module", list_modules())
def test_timm(module):
    sizes = []
    for name in list_models(module=module):
        try:
            with torch.device("meta"):
                net = timm.create_model(name)
        except Exception:  # not built without weights
            continue
        shape = tuple(net.default_cfg.get("input_size", (3, 224, 224)))
        sizes.append((sum(p.numel() for p in net.parameters()), name, shape))
        if sizes[-1][0] < 5e6:
            break
    if not sizes or min(sizes)[0] > LARGE:
        pytest.skip("no small model")
    _, name, shape = min(sizes)
    torch.manual_seed(0)
    ours = timm_model(shape, 4, name).eval()
    torch.manual_seed(0)
    try:
        theirs = timm.create_model(name, num_classes=0, img_size=shape[1]).eval()
    except TypeError:
        torch.manual_seed(0)
        theirs = timm.create_model(name, num_classes=0).eval()
    x = torch.randn(2, *shape)
    with torch.no_grad():
        torch.testing.assert_close(ours.backbone(x), theirs(x), rtol=1e-4, atol=1e-5)


def write(name, path):
    """Write a tiny model of a family with its weights; skip where there is none so small."""
    try:
        config = CONFIG_MAPPING[name]()
        sizes = {
            **COMMON,
            **DECODER,
            **GPT2,
            "head_dim": 8,
            "pad_token_id": 1,
            "sliding_window": None,
            "embedding_size": 16,
        }
        for key, value in sizes.items():
            if hasattr(config, key):
                setattr(config, key, value)
        with torch.device("meta"):
            count = sum(p.numel() for p in AutoModel.from_config(config).parameters())
        assert count < LARGE
        torch.manual_seed(0)
        net = AutoModel.from_config(config, attn_implementation="eager").eval()
        net.save_pretrained(path)
    except Exception as error:  # each family has its own ways
        pytest.skip(f"no tiny model: {type(error).__name__}")
    return net


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(MODEL_MAPPING_NAMES))
def test_transformers(name, tmp_path):
    whole = write(name, tmp_path)
    refusal, ours = "", None
    try:
        ours = huggingface((16,), 3, str(tmp_path)).eval()
    except UsageError as error:
        refusal = str(error)
    if ours is None:
        assert "expected a model built like BERT, GPT-2 or Llama" in refusal
        return
    x = torch.randint(5, 49, (3, 16), generator=torch.Generator().manual_seed(0))
    x[1, 10:], x[2, 4:] = 1, 1
    real = x != 1
    with torch.no_grad():
        hidden = whole(input_ids=x, attention_mask=real.long()).last_hidden_state
        found = ours.backbone(x)
    if hasattr(ours.backbone.pool, "norm"):
        wanted = hidden[torch.arange(3), real.sum(1) - 1]
    else:
        wanted = (hidden * real[:, :, None]).sum(1) / real.sum(1, keepdim=True)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
