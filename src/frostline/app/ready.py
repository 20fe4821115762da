"""What must fit together before a run begins; where it does not, it is refused here, in the user's words."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from frostline.core.checks import UsageError
from frostline.core.objectives import Classification
from frostline.core.scope import evaluating
from frostline.core.structure import is_staged, note_order
from frostline.core.types import TaskStream
from frostline.loop import answering, harness, probing
from frostline.loop.evaluation import evaluation_data
from frostline.loop.settings import TrainerConfig
from frostline.models.llama import keep_apart
from frostline.models.staging import TokenEmbedding
from frostline.selectors.base import Selector
from frostline.selectors.depth import Everything
from frostline.speed.prefix import check_settings
from frostline.strategies.base import Strategy
from frostline.streams.augmentation import Augmentation


def check_model(model: Any) -> None:
    """Refuse what is no model, or one of which something is frozen already."""
    if not isinstance(model, nn.Module) or next(model.parameters(), None) is None:
        raise UsageError(f"model: expected an nn.Module with parameters, not {model!r:.60}.")
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    if frozen:
        raise UsageError(
            f"{frozen[0]} has requires_grad=False: what trains is for the selector to say. Thaw it, and use a selector such as "
            "selector='last_k', or Pattern(include=[...]) for names of your own."
        )


def check_parts(
    model: nn.Module,
    stream: TaskStream,
    strategy: Strategy,
    selector: Selector,
    settings: TrainerConfig,
    optimizer: Any,
) -> TaskStream:
    """Refuse parts that do not go together; return the stream with as many classes as the model has logits."""
    check_settings(settings, model)
    _check_memory_savers(settings, model, strategy)
    if settings.prefix_cache == "on" and type(selector) is Everything:
        raise UsageError(
            "trainer.prefix_cache=on: selector=everything freezes nothing. Expected another selector, or auto."
        )
    if type(selector) is not Everything and selector.warmup_tasks >= len(stream):
        print(
            f"frostline: selector.warmup_tasks={selector.warmup_tasks}: all {len(stream)} tasks train everything, and "
            f"{type(selector).__name__} never chooses."
        )
    strategy.check(model, stream)
    batch = next(iter(stream[0].train.batches(2, torch.arange(min(2, len(stream[0].train))))))
    Augmentation(settings.augment)(batch.x)  # refuses what is no image
    evaluation_data(stream[0], settings.evaluate_on)
    probing.check(settings.output_drift, stream)
    answering.check(settings.answers, stream)
    harness.check(settings, stream)
    try:
        optimizer(list(model.parameters()))  # refuses its own bad settings here, not after an hour
    except (TypeError, ValueError) as error:
        raise UsageError(f"optimizer: {str(error).rstrip('.')}. Expected settings that it takes together.") from error
    logits = logits_of(model, batch.x)
    if logits.shape[-1] < stream.classes:
        raise UsageError(
            f"{type(model).__name__} returns {list(logits.shape)} for {len(batch)} samples; expected logits "
            f"[{len(batch)}, ..., {stream.classes}] as a tensor, one for each class of the stream."
        )
    if isinstance(stream.objective, Classification) and logits.shape[:-1] != batch.y.shape:
        raise UsageError(
            f"{type(model).__name__} returns logits {list(logits.shape)} for targets {list(batch.y.shape)}; expected "
            f"{[*batch.y.shape, stream.classes]}: "
            + (
                "one label a sample."
                if batch.y.ndim == 1
                else "one for each token, as model=decoder and model=causal_lm do; or one label a sample."
            )
        )
    _agree_on_padding(model, stream)
    _agree_on_documents(model, stream)
    _check_single(model, stream, strategy, settings, batch.x)
    return _widened(stream, logits.shape[-1] - stream.classes)


def _check_memory_savers(settings: TrainerConfig, model: nn.Module, strategy: Strategy) -> None:
    micro, again = settings.micro_batch_size, settings.activation_checkpointing
    if micro is not None and not strategy.additive():
        raise UsageError(
            f"trainer.micro_batch_size={micro}: the loss of {type(strategy).__name__} is no mean over samples, so parts of a "
            "batch do not add up to it. Expected null, and a smaller trainer.batch_size."
        )
    if again and any(isinstance(m, _BatchNorm) for m in model.modules()):
        raise UsageError(
            f"trainer.activation_checkpointing=true: {type(model).__name__} has batch-norms, whose running statistics would "
            "see every batch twice. Expected false, and trainer.micro_batch_size where memory is short."
        )
    if again and not is_staged(model):
        raise UsageError(
            f"trainer.activation_checkpointing=true: {type(model).__name__} has no stages() to compute again. Expected a model "
            "that has, such as those of conf/model; or false."
        )
    if settings.compile not in ("auto", "off") and (again or micro is not None):
        name = "activation_checkpointing" if again else "micro_batch_size"
        raise UsageError(f"trainer.compile={settings.compile} with trainer.{name}: expected one of them.")


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return what the model makes of some samples, and let it remember in which order its layers run."""
    device = next(model.parameters()).device
    if x.device != device:
        raise UsageError(f"The model is on {device} and the data on {x.device}. Expected both on one device.")
    try:
        with torch.random.fork_rng(), evaluating(model), note_order(model), torch.enable_grad():
            logits = model(x)  # with gradients: without, a fused encoder does not call its layers
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        kind, hint = next(p.dtype for p in model.parameters()), ""
        if not x.is_floating_point():
            hint = " Token ids want a language model, such as model=minilm, or a net that begins with an nn.Embedding."
        elif x.dtype != kind:
            hint = f" The model's weights are {kind}: model.float() makes them like the samples."
        raise UsageError(
            f"{type(model).__name__} cannot take samples of shape {list(x.shape[1:])} ({x.dtype}): {reason}.{hint}"
        ) from error
    if not isinstance(logits, Tensor) or not logits.ndim:
        found = "a scalar" if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(f"{type(model).__name__} returns {found}: expected logits [B, ..., C] as a tensor.")
    return logits


def _agree_on_documents(model: nn.Module, stream: TaskStream) -> None:
    """Tell a language model which token ends a document, where documents are to be kept apart."""
    if not keep_apart(model, stream.end) and stream.end is not None:
        raise UsageError(
            f"stream.attention=within: {type(model).__name__} cannot be told where documents end. Expected model=decoder or "
            "model=causal_lm, or stream.attention=across."
        )


def _agree_on_padding(model: nn.Module, stream: TaskStream) -> None:
    """Let a model that names no padding take the stream's; refuse one that takes another token for padding."""
    for module in model.modules() if stream.padding is not None else ():
        if not isinstance(module, TokenEmbedding):
            continue
        if module.padding is None:
            module.padding = stream.padding
        if module.padding != stream.padding:
            raise UsageError(
                f"{stream.name} fills texts up with token {stream.padding}, and the model takes token {module.padding} for "
                "padding: it would read one as a word. Expected the model's own tokenizer as stream.tokenizer."
            )


def _check_single(model: nn.Module, stream: TaskStream, strategy: Strategy, settings: TrainerConfig, x: Tensor) -> None:
    """Refuse a last batch of one sample where a batch-norm has but one value a channel: torch cannot learn from it."""
    size = settings.batch_size
    alone = [t for t in stream.tasks if len(t.train) % size == 1 or size == 1]
    if strategy.uses("augment"):  # later tasks have samples from memory beside it
        alone = [t for t in alone if t.index == 0]
    if not alone or not any("running_mean" in m._buffers for m in model.modules()):
        return
    buffers = [b.clone() for b in model.buffers()]
    was = [m.training for m in model.modules()]
    try:
        with torch.no_grad(), torch.random.fork_rng():
            model.train()(x[:1])
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        fits = next(
            n for n in range(max(2, size + 1), 2 * size + 100) if all(len(t.train) % n != 1 for t in stream.tasks)
        )
        task = alone[0]
        raise UsageError(
            f"trainer.batch_size={size}: the last batch of task {task.index} has one of its {len(task.train)} samples, and a "
            f"batch-norm of {type(model).__name__} has one value a channel for it, which torch refuses to normalise. "
            f"The nearest larger size that leaves no sample alone is {fits}."
        ) from error
    finally:
        for module, training in zip(model.modules(), was, strict=True):
            module.training = training
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(value)


def _widened(stream: TaskStream, more: int) -> TaskStream:
    """Return the stream with `more` classes that no sample has and no task shows."""
    if not more or stream.tasks[0].visible is None:
        return stream
    tasks = tuple(
        replace(task, visible=None if task.visible is None else nn.functional.pad(task.visible, (0, more)))
        for task in stream.tasks
    )
    return replace(stream, tasks=tasks, classes=stream.classes + more)
