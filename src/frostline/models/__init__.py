"""What learns: a net that makes logits of samples."""

from frostline.models.classifier import Classifier
from frostline.models.dense import linear, mlp
from frostline.models.language import causal_lm, huggingface, minilm
from frostline.models.llama import decoder
from frostline.models.resnet import cnn, resnet18, resnet34, resnet50, slim_resnet18
from frostline.models.timm_models import timm_model
from frostline.models.transformer import vit

__all__ = [
    "Classifier", "causal_lm", "cnn", "decoder", "huggingface", "linear", "minilm", "mlp", "resnet18", "resnet34", "resnet50",
    "slim_resnet18", "timm_model", "vit",
]  # fmt: skip
