"""Refuse bad values with one clear message: the value, what was expected, the nearest valid choice."""

import difflib
import math
from collections.abc import Iterable


class UsageError(ValueError):
    """Something the user asked for cannot be done; the message says what would work."""


SYNONYMS = {  # what other frameworks and papers call it
    "strength": ("lambda", "lambda_", "ewc_lambda", "importance", "reg_coef", "c"),
    "capacity": ("mem_size", "memory_size", "memory", "buffer_size", "max_size", "size"),
    "batch_size": ("train_mb_size", "mb_size", "bs", "minibatch_size", "batch_size_mem"),
    "eval_batch_size": ("eval_mb_size", "test_batch_size"),
    "epochs": ("train_epochs", "n_epochs", "num_epochs", "max_epochs"),
    "micro_batch_size": (
        "gradient_accumulation_steps",
        "accumulate_grad_batches",
        "per_device_train_batch_size",
        "gradient_accumulation",
    ),
    "activation_checkpointing": ("gradient_checkpointing",),
    "learn_from": ("train_on", "assistant_only_loss", "completion_only_loss", "train_on_inputs"),
    "messages": ("conversations", "chat"),
    "harness": ("lm_eval", "lm_evaluation_harness", "eval_tasks", "benchmarks"),
    "harness_limit": ("limit",),
    "harness_shots": ("num_fewshot", "fewshot"),
    "nf4": ("4bit", "fp4", "int4", "qlora"),
    "int8": ("8bit", "llm_int8"),
    "quantised": ("load_in_4bit", "load_in_8bit", "quantization", "quantized", "quantize", "bits"),
    "answers": ("predict_with_generate", "generate", "generation", "num_samples_to_generate"),
    "token_folder": ("cache_dir", "dataset_cache", "memmap", "token_cache", "bin_dir"),
    "validation": ("val_split", "validation_split", "eval_split", "val_size", "validation_size"),
    "samples_per_class": ("shots", "num_shots", "n_shots", "k_shot"),
    "layer_rates": ("llrd", "layer_decay", "layerwise_lr_decay", "discriminative_fine_tuning"),
    "decay": ("layer_decay", "lr_decay"),
    "max_steps": ("steps", "num_steps", "max_iters", "iterations"),
    "lr": ("learning_rate", "eta", "step_size"),
    "tasks": ("n_tasks", "num_tasks", "n_experiences", "experiences", "n_steps"),
    "classes_per_task": ("increment", "n_classes_per_task"),
    "class_order": ("fixed_class_order", "order"),
    "data_root": ("root", "dataset_root", "data_dir"),
    "stream": ("dataset", "benchmark"),
    "strategy": ("method", "plugin", "algorithm"),
    "seed": ("random_seed", "manual_seed"),
    "workers": ("num_workers",),
    "finetune": ("naive", "finetuning", "fine_tuning", "sgd", "sequential"),
    "cumulative": ("offline", "retrain"),
    "joint": ("multitask", "upper_bound"),
    "si": ("synaptic_intelligence", "path_integral"),
    "mas": ("memory_aware_synapses",),
    "agem": ("a-gem", "a_gem", "averaged_gem"),
    "replay": ("er", "rehearsal", "experience_replay", "mir", "er_mir", "herding", "gss", "gss_greedy"),
    "der_pp": ("der++", "derpp", "der_plus_plus"),
    "er_ace": ("er-ace", "erace"),
    "pnn": ("progressive", "progressive_nn", "progressive_neural_networks"),
    "o_lora": ("orthogonal_lora",),
    "osf": ("orthogonal_subspace", "orthogonal_subspace_finetuning"),
    "llama_pro": ("block_expansion",),
    "evaluate_every": ("eval_every", "eval_mb_every", "eval_steps", "eval_freq"),
    "ncm": ("simplecil", "nearest_class_mean", "nme"),
    "slda": ("deep_slda", "lda"),
    "wise_ft": ("wise-ft", "wiseft"),
    "ties": ("ties_merging", "ties-merging"),
    "l2_sp": ("l2-sp", "l2sp"),
    "l2p": ("learning_to_prompt", "l2prompt"),
    "dualprompt": ("dual_prompt", "dual-prompt"),
    "coda_prompt": ("coda", "codaprompt", "coda-prompt", "coda_p"),
    "cwr_star": ("cwr", "cwr*", "cwrstar"),
    "scr": ("supervised_contrastive_replay",),
    "bic": ("bias_correction", "large_scale_incremental_learning"),
    "lucir": ("ucir",),
    "er_aml": ("er-aml", "eraml", "aml"),
    "continual_backprop": ("cbp", "continual_backpropagation"),
}


def nearest(value: object, choices: Iterable[str]) -> str:
    """Return ' Did you mean X?' for the closest of `choices`, or an empty string when nothing is close."""
    small = {choice.lower(): choice for choice in choices}
    for own, others in SYNONYMS.items():
        if own in small and str(value).lower() in others:
            return f" Did you mean '{small[own]}'?"
    close = difflib.get_close_matches(str(value).lower(), small, n=1, cutoff=0.5)
    return f" Did you mean '{small[close[0]]}'?" if close else ""


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise UsageError unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise UsageError(f"{name}={value!r}: expected one of {', '.join(choices)}.{nearest(value, choices)}")


def in_range(
    name: str,
    value: float | None,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    whole: bool = False,
) -> None:
    """Raise UsageError unless low <= value <= high (low < value with `above`), without a fraction with `whole`.

    None passes; NaN does not.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name}={value!r}: expected a {'whole ' if whole else ''}number.")
    if whole and not isinstance(value, int):
        raise UsageError(f"{name}={value!r}: expected a whole number.")
    if math.isfinite(value) and (low < value if above else low <= value) and value <= high:
        return
    sign = ">" if above else ">="
    upper = f" and <= {high:g}" if math.isfinite(high) else ""
    hint = f" The nearest valid value is {high:g}." if value > high else ""
    if math.isfinite(value) and value < low and not above:
        hint = f" The nearest valid value is {low:g}."
    raise UsageError(f"{name}={value}: expected a finite number {sign} {low:g}{upper}.{hint}")
