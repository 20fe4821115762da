"""What learns: a backbone of blocks and a head that knows which classes are visible."""

from frostline.models.classifier import Classifier, Head, Staged
from frostline.models.mlp import linear, mlp
from frostline.models.resnet import cnn, resnet18, resnet34, resnet50, slim_resnet18

__all__ = ["Classifier", "Head", "Staged", "cnn", "linear", "mlp", "resnet18", "resnet34", "resnet50", "slim_resnet18"]
