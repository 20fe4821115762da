"""What learns: a net that makes logits of samples."""

from frostline.models.classifier import Classifier
from frostline.models.dense import linear, mlp
from frostline.models.language import huggingface, minilm
from frostline.models.resnet import cnn, resnet18, resnet34, resnet50, slim_resnet18
from frostline.models.transformer import timm_vit, vit

__all__ = [
    "Classifier", "cnn", "huggingface", "linear", "minilm", "mlp", "resnet18", "resnet34", "resnet50",
    "slim_resnet18", "timm_vit", "vit",
]  # fmt: skip
