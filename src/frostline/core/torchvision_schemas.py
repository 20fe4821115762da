"""Import torchvision beside a CPU build of torch.

The registry's torchvision is compiled against CUDA torch. Beside a CPU torch its shared library does not load, and the
import stops at `operator torchvision::nms does not exist`, because it registers a fake kernel for an operator that
nobody defined. Defining the two missing schemas is enough for data sets, transforms, models, avalanche and transformers;
calling nms itself then raises an error. Where the native import works, nothing here does anything.
"""

import sys
from types import ModuleType

_schemas = None  # torch forgets a library's operators when the library object is collected


def torchvision() -> ModuleType:
    """Return the imported torchvision."""
    global _schemas
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"]
    try:
        import torchvision as module
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import torch

        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _schemas = torch.library.Library("torchvision", "FRAGMENT")
        _schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision as module
    return module
