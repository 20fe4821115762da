"""Floating-point operations as executed: torch's formulas, and those that it lacks or gets wrong.

A multiply-add is two operations. Elementwise work (activations, optimizers, penalties) is not counted, as is the
convention of every counter; it is in the seconds.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from frostline.costs.formulas import OWN_FORMULAS, aten

HAVE_PRODUCTS = re.compile(  # operators of torch's with products in them: one without a formula is named, not taken for free
    "rnn|lstm|gru|conv|attention|matmul|(^|_)linear|(^|_)(mm|bmm|mv|dot|addr)($|_)|cdist|pdist|linalg_(?!check|vector_norm)|cholesky|triangular|svd|(^|_)qr|"
    "eig|inverse|fft|lu_|householder|ormqr"
)

WITHOUT_PRODUCTS = ("bitsandbytes.dequantize_4bit",)  # others' operators that work element by element


@lru_cache(None)
def _formula(operator: Any) -> Callable[..., int] | None:
    packet = operator.overloadpacket
    name = str(packet).split(".")[-1]
    if operator.namespace == "aten" and name.endswith("_") and hasattr(aten, name[:-1]):  # addmm_ works as addmm does
        packet = getattr(aten, name[:-1])
    return OWN_FORMULAS.get(packet) or flop_registry.get(packet)


@lru_cache(None)
def _uncounted(operator: Any) -> str:
    """Return the name of an operator that may have products and has no formula, else nothing."""
    if operator.namespace in ("prim", "prims", "profiler", "frostline") or _formula(operator) is not None:
        return ""
    name = str(operator.overloadpacket)
    if name in WITHOUT_PRODUCTS:
        return ""
    return name if operator.namespace != "aten" or HAVE_PRODUCTS.search(name.removeprefix("aten.")) else ""


@lru_cache(None)
def _composite(operator: Any) -> bool:
    """Tell whether torch defines the operator by others: in inference mode it comes as it is."""
    if operator.namespace == "prim":  # a question about a tensor
        return False
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return key in operator.py_kernels or torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), key)


class FlopCounter(TorchDispatchMode):
    """Count what runs inside the `with` block; read `total` afterwards, and `uncounted`: operators it has no formula for.

    torch's own FlopCounterMode also keeps a tree of modules and tries to take every operator apart: it made EWC's
    estimate of a small net 2.5 times as long, on the bill; this one makes it 1.5 times as long.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.uncounted: set[str] = set()
        self._fastpath: list[bool] = []

    def __enter__(self) -> "FlopCounter":
        # The fused inference kernel of nn.TransformerEncoderLayer is opaque to the counter; the same products run without it.
        self._fastpath.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        return super().__enter__()

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        torch.backends.mha.set_fastpath_enabled(self._fastpath.pop())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator, and add its operations."""
        kwargs = kwargs or {}
        formula = _formula(func)
        if formula is None and _composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if formula is None:
            if name := _uncounted(func):
                self.uncounted.add(name)
        else:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


def count_flops(work: Callable[[], Any], uncounted: set[str] | None = None) -> int:
    """Return the operations that calling `work` executes, forward and backward; add to `uncounted` what has no formula."""
    with FlopCounter() as counter:
        work()
    if uncounted is not None:
        uncounted |= counter.uncounted
    return counter.total
