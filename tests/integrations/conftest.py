"""What must be there before transformers is imported."""

from frostline.core.torchvision_schemas import torchvision

torchvision()
