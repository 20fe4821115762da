"""Hugging Face's Trainer with our callback: what trains, what it costs, and that a resume goes on."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_outputs import CausalLMOutput

import frostline
from frostline.core.checks import UsageError
from frostline.costs.flops import count_flops
from frostline.integrations.hugging_face import Logits
from frostline.integrations.transformers import FrostlineCallback
from frostline.selectors import Pattern, Role
from frostline.strategies import EWC, SI, LwF, Replay

LENGTH, WORDS = 12, 50
RULE = Role(with_head=False)


def language_model(seed=0):
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=LENGTH, pad_token_id=0, tie_word_embeddings=True,
        )
    )  # fmt: skip


def texts(seed, count=16, length=LENGTH):
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randint(1, WORDS, (count, length), generator=rng)
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row.clone()} for row in rows]


def trainer_for(model, callback, data, folder, **settings):
    settings = {
        "num_train_epochs": 3, "per_device_train_batch_size": 16, "learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True,
        "logging_strategy": "no", **settings,
    }  # fmt: skip
    return Trainer(
        model, TrainingArguments(str(folder), **settings), train_dataset=data, eval_dataset=data, callbacks=[callback]
    )


def own_run(model, tasks, **settings):
    """Learn the same in our own loop."""
    net = Logits(model)
    parts = []
    for data in tasks:
        batch = net.batch({key: torch.stack([row[key] for row in data]) for key in data[0]})
        parts.append(((batch.x, batch.y), (batch.x, batch.y)))
    stream = frostline.from_tasks(parts, scenario="domain")
    settings = {"lr": 0.1, "epochs": 3, "batch_size": 16, "progress": False, "prefix_cache": "off", **settings}
    return frostline.run(net, stream, **settings)


def trained_on(tasks, callback, folder, model=None, **settings):
    model = model or language_model()
    for data in tasks:
        trainer_for(model, callback, data, folder, **settings).train()
    return model


def difference(model, other):
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def test_what_trains_is_the_scope_and_nothing_else(tmp_path):
    before, callback = language_model(), FrostlineCallback(selector="attention_projections")
    model = trained_on([texts(1)], callback, tmp_path, optim="adamw_torch", weight_decay=0.1)
    moved = {
        n for (n, a), b in zip(model.named_parameters(), before.parameters(), strict=True) if not torch.equal(a, b)
    }
    projections = {f"model.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 1) for p in "qkvo"}
    assert moved == projections == set(callback.trained[0])
    assert all(p.requires_grad for p in model.parameters())
    (row,) = [row for row in callback.ledger if row["phase"] == "train"]
    assert row["trainable_parameters"] == sum(p.numel() for n, p in model.named_parameters() if n in projections)
    assert (row["steps"], row["samples"]) == (3, 48)
    assert row["seconds"] > 0
    written = json.loads((tmp_path / "frostline.json").read_text())
    assert written["trained"] == callback.trained
    assert written["totals"]["flops"] == callback.result()["totals"]["flops"]


@pytest.mark.parametrize(
    "strategy",
    [
        "finetune",
        EWC(strength=50.0, labels="empirical", samples=None),
        LwF(strength=1e3),
        Replay(capacity=16, seed=1),
        SI(1e4),
    ],
    ids=["finetune", "ewc", "lwf", "replay", "si"],
)
def test_weights_and_operations_are_those_of_our_own_loop(strategy, tmp_path):
    tasks = [texts(1), texts(2)]
    own = own_run(language_model(), tasks, strategy=copy.deepcopy(strategy), selector=RULE)
    callback = FrostlineCallback(RULE, copy.deepcopy(strategy))
    model = trained_on(tasks, callback, tmp_path)
    plain = trained_on(tasks, FrostlineCallback(RULE), tmp_path / "plain")
    assert difference(model, own.model.net) < 2e-6
    if strategy != "finetune":
        assert difference(model, plain) > 1e-4  # the method did something
    ours, theirs = (
        [
            (r["task"], r["phase"], r["steps"], r["samples"], r["flops"], r["stored_bytes"])
            for r in rows
            if r["phase"] in ("train", "consolidate")
        ]
        for rows in (own.ledger.to_dict("records"), callback.ledger)
    )
    assert theirs == ours


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_without_a_selector_what_is_frozen_stays_frozen(tmp_path):
    model = get_peft_model(language_model(), LoraConfig(target_modules=["q_proj"], r=2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    callback = FrostlineCallback(strategy=EWC(labels="empirical", samples=4))
    trained_on([texts(1), texts(2)], callback, tmp_path, model)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(callback.trained[0]) == {name for name in before if "lora_" in name}


def test_held_out_loss_is_measured_before_and_after_each_task(tmp_path):
    held, model = texts(9), language_model()
    callback = FrostlineCallback("mlp", held_out={"old": held})

    def loss():
        with torch.no_grad():
            return model.eval()(**{key: torch.stack([row[key] for row in held]) for key in held[0]}).loss.item()

    found = [loss()]
    for seed in (1, 2):
        trainer_for(model, callback, texts(seed), tmp_path).train()
        found.append(loss())
    assert callback.result()["held_out"]["old"] == pytest.approx(found, rel=1e-5)
    assert callback.forgetting["old"] == pytest.approx(found[-1] - found[0], abs=1e-6)


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    def callback():
        return FrostlineCallback(
            "attention_projections", EWC(labels="empirical", samples=None), held_out={"old": texts(9)}
        )

    settings = {
        "per_device_train_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 5,
        "optim": "adamw_torch",
        "learning_rate": 1e-2,
    }
    first = callback()
    start = trained_on([texts(1)], first, tmp_path / "first")
    state, weights = copy.deepcopy(first.companion.state_dict()), copy.deepcopy(start.state_dict())
    whole, model = first, trained_on([texts(2)], first, tmp_path / "whole", start, **settings)
    again, other = callback(), language_model()
    other.load_state_dict(weights)
    again.companion.load_state_dict(state)
    trainer_for(other, again, texts(2), tmp_path / "whole", **settings).train(
        resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5")
    )
    assert difference(model, other) == 0
    assert again.trained == whole.trained
    keys = ("task", "phase", "steps", "samples", "flops", "trainable_parameters")
    assert [[r[k] for k in keys] for r in again.ledger] == [[r[k] for k in keys] for r in whole.ledger]
    assert again.result()["held_out"]["old"] == pytest.approx(whole.result()["held_out"]["old"])


def test_evaluations_and_accumulated_steps(tmp_path):
    model, callback = (
        language_model(),
        FrostlineCallback("everything", EWC(strength=20.0, labels="empirical", samples=None)),
    )
    trained_on([texts(1)], callback, tmp_path, model)
    plain = copy.deepcopy(model)
    whole = FrostlineCallback("everything", EWC(strength=20.0, labels="empirical", samples=None))
    whole.companion.load_state_dict(copy.deepcopy(callback.companion.state_dict()))
    trained_on([texts(2)], callback, tmp_path, model, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    trained_on([texts(2)], whole, tmp_path, plain)
    assert difference(model, plain) < 2e-6  # four quarters are one whole, the penalty too
    (row,) = [row for row in callback.ledger if (row["task"], row["phase"]) == (1, "train")]
    assert (row["steps"], row["samples"]) == (3, 48)

    trained_on([texts(3)], callback, tmp_path, model, eval_strategy="steps", eval_steps=1)
    rows = {row["phase"]: row for row in callback.ledger if row["task"] == 2}
    assert rows.keys() == {"select", "train", "evaluate", "consolidate"}
    data = {key: torch.stack([row[key] for row in texts(3)]) for key in texts(3)[0]}
    forward = count_flops(lambda: model.eval()(**data))
    assert (rows["evaluate"]["samples"], rows["evaluate"]["flops"]) == (3 * 16, 3 * forward)


def test_an_epochs_last_group_may_be_smaller(tmp_path):
    """The Trainer's loss is then of fewer parts, and so is the penalty."""
    models = []
    for settings in (
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3},
        {"per_device_train_batch_size": 8},
    ):
        callback = FrostlineCallback("everything", EWC(strength=5.0, labels="empirical", samples=None))
        model = trained_on([texts(1)], callback, tmp_path)
        models.append(trained_on([texts(2, 1) * 16], callback, tmp_path, model, **settings))  # in any order the same
    assert difference(*models) < 2e-6


@pytest.mark.parametrize("when", ["before the first step", "in a step"])
def test_after_an_error_the_task_begins_again(when, tmp_path):
    callback, broken = FrostlineCallback("attention_projections", "ewc"), texts(1)
    if when == "in a step":
        broken = [*broken, {**broken[0], "odd": torch.zeros(1)}]
        broken[:-1] = [{**row, "odd": torch.zeros(1)} for row in broken[:-1]]
        trained_on([texts(1)], callback, tmp_path)
    model = callback.net.net if callback.net else language_model()
    bad = {"gradient_accumulation_steps": 2} if when != "in a step" else {"remove_unused_columns": False}
    if when != "in a step":
        callback.companion.strategy = Replay(capacity=4)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"replay mixes|is given odd"):
            trained_on([broken], callback, tmp_path, model, **bad)
    trained_on([texts(2)], callback, tmp_path, model)
    assert len(callback.trained) == 1 + (when == "in a step")
    assert all(p.requires_grad for p in model.parameters())


def test_classifiers_and_frozen_norms(tmp_path):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": WORDS,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    model = BertForSequenceClassification(BertConfig(**sizes, num_labels=3, pad_token_id=0))
    model.bert.register_module("norm", torch.nn.BatchNorm1d(4))
    data = [
        {**{k: v for k, v in row.items() if k != "labels"}, "labels": torch.tensor(i % 3)}
        for i, row in enumerate(texts(1))
    ]
    seen = []
    callback = FrostlineCallback("pattern", "lwf")
    callback.companion.selector.include = ["classifier"]
    trainer = trainer_for(model, callback, data, tmp_path)
    model.classifier.register_forward_hook(lambda *a: seen.append(model.bert.norm.training))
    trainer.train()
    assert seen
    assert not any(seen)
    assert set(callback.trained[0]) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FrostlineCallback("attention_projection"), "attention_projections"),
        (lambda: FrostlineCallback("lisa"), "changes what trains within a task"),
        (lambda: FrostlineCallback(strategy="er_ace"), "decides over criterion"),
        (lambda: FrostlineCallback(strategy="l2p"), "Expected a method that adds to the loss or to the batch"),
    ],
)
def test_what_a_trainer_cannot_do_is_refused_at_once(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_a_trainer_that_cannot_be_served_is_refused(tmp_path):
    model, callback = language_model(), FrostlineCallback()
    trainer_for(model, callback, texts(1), tmp_path)
    with pytest.raises(UsageError, match="has frostline beside it already"):
        trainer_for(model, FrostlineCallback(), texts(1), tmp_path)
    with pytest.raises(UsageError, match="went with another model"):
        trainer_for(language_model(), callback, texts(1), tmp_path)
    with pytest.raises(UsageError, match="wrapped already, in OptimizedModule"):
        trainer_for(torch.compile(language_model()), FrostlineCallback(), texts(1), tmp_path)
    with pytest.raises(UsageError, match="heed"):
        trained_on([texts(1)], FrostlineCallback(Pattern(include=["heed"])), tmp_path)
    with pytest.raises(UsageError, match="loss is made elsewhere"):
        trained_on([texts(1)], FrostlineCallback(), tmp_path, label_smoothing_factor=0.1)


def test_a_checkpoint_that_was_saved_without_the_callback(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1}
    trained_on([texts(1)], FrostlineCallback(), tmp_path, **settings)
    checkpoint = tmp_path / "checkpoint-1"
    (checkpoint / "frostline.pt").unlink()
    trainer = trainer_for(language_model(), FrostlineCallback(), texts(1), tmp_path, **settings)
    with pytest.raises(UsageError, match=r"has no frostline.pt: it was saved without this callback"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize(("strategy", "goes"), [("ewc", True), (SI(1e4), True), ("lwf", False)])
def test_a_loss_that_keeps_no_logits(strategy, goes, tmp_path):
    """As TRL's, which makes it piece by piece."""
    results = []
    for keeps in (True, False):
        model = language_model()
        if not keeps:
            forward = model.forward

            def lean(*args, forward=forward, **kwargs):
                output = forward(*args, **kwargs)
                return CausalLMOutput(loss=output.loss) if "labels" in kwargs else output

            model.forward = lean
        callback = FrostlineCallback("attention_projections", strategy)
        if not keeps and not goes:
            with pytest.raises(UsageError, match=r"SFTConfig\(loss_type='nll'\)"):
                trained_on([texts(1), texts(2)], callback, tmp_path, model, remove_unused_columns=False)
            return
        results.append(trained_on([texts(1), texts(2)], callback, tmp_path, model, remove_unused_columns=False))
    assert difference(*results) < 1e-6


def test_texts_of_other_lengths_in_memory(tmp_path):
    model, callback = language_model(), FrostlineCallback(strategy=Replay(capacity=8))
    trained_on([texts(1, length=10), texts(2, length=8)], callback, tmp_path, model)  # shorter ones are filled up
    with pytest.raises(UsageError, match="replay keeps samples of one length"):
        trained_on([texts(3, length=12)], callback, tmp_path, model)
