"""The one shape that every model of ours has: blocks in order of depth, then a head."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from frostline.core.checks import UsageError


class Classifier(nn.Module):
    """A backbone (an nn.Sequential of blocks from shallow to deep) with a linear head on its features [B, ..., D]."""

    def __init__(self, backbone: nn.Sequential, features: int, classes: int, bias: bool = True):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(features, classes, bias)
        self.original: dict[str, str] = {}  # names that its parts have in the library they come from, by ours
        self.whole: tuple[nn.Module, ...] = ()  # the uncut net that shares the parts, which can generate

    def blocks(self) -> list[str]:
        """Return the module names of the backbone's blocks that hold parameters, shallow first."""
        return [f"backbone.{n}" for n, m in self.backbone.named_children() if any(True for _ in m.parameters())]

    def stages(self) -> list[nn.Module]:
        """Return the backbone's modules in the order in which they run."""
        return list(self.backbone.children())

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, ..., C]."""
        return self.head(self.backbone(x))


def refuse_missing(names: Iterable[str], of: int, where: str) -> None:
    """Refuse weights that leave tensors of a model as they were drawn."""
    if lacking := sorted(names):
        raise UsageError(
            f"{where}: {len(lacking)} of the model's {of} tensors are not in the file, such as {lacking[0]}. Expected weights "
            "of this very model, under its own names."
        )


def original_names(model: Classifier, named: Mapping[int, str]) -> Classifier:
    """Note the names that tensors had before the net was cut up, given by their ids."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    model.original = {name: named[id(t)] for name, t in tensors if id(t) in named}
    return model
