"""What learns: a backbone of blocks and a head that knows which classes are visible."""

from frostline.head import Head
from frostline.models.classifier import Classifier
from frostline.models.huggingface import huggingface, minilm
from frostline.models.mlp import linear, mlp
from frostline.models.resnet import cnn, resnet18, resnet34, resnet50, slim_resnet18
from frostline.models.vit import timm_vit, vit

__all__ = [
    "Classifier", "Head", "cnn", "huggingface", "linear", "minilm", "mlp", "resnet18", "resnet34", "resnet50",
    "slim_resnet18", "timm_vit", "vit",
]  # fmt: skip
