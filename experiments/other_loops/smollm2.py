"""A language model in three loops on the same batches: Hugging Face's Trainer, Lightning's with a kill and a resume, and ours.

python experiments/other_loops/smollm2.py MODEL_FOLDER OUT NEW_TEXTS [NEW_TEXTS ...] KNOWN_TEXTS

MODEL_FOLDER: a causal language model of Hugging Face's with its tokenizer, such as SmolLM2-135M. NEW_TEXTS: a folder of text
files, a task each; KNOWN_TEXTS: one of text that the model knows and may forget. Attention projections train alone, under EWC.
"""

import json
import sys
import warnings
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import frostline
from frostline.core.torchvision_schemas import torchvision
from frostline.selectors import Role
from frostline.strategies import EWC

torchvision()
warnings.filterwarnings("ignore")
import lightning.pytorch as L  # noqa: E402
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments  # noqa: E402

from frostline.integrations.hugging_face import Logits  # noqa: E402
from frostline.integrations.lightning import FrostlineCallback as ForLightning  # noqa: E402
from frostline.integrations.transformers import FrostlineCallback as ForTrainer  # noqa: E402

TEXTS, TOKENS, STEPS, LR, STRENGTH = 4, 128, 3, 0.02, 0.01
IGNORED = -100


def texts(folder: str, tokenizer: Any, how_many: int = TEXTS) -> torch.Tensor:
    """Return the first tokens of a folder's texts, [how_many, TOKENS]."""
    found = []
    for file in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        ids = tokenizer(file.read_text(encoding="utf-8", errors="replace")[:4000])["input_ids"]
        if len(ids) >= TOKENS:
            found.append(torch.tensor(ids[:TOKENS]))
        if len(found) == how_many:
            return torch.stack(found)
    raise SystemExit(f"{folder}: {len(found)} texts of {TOKENS} tokens, expected {how_many}.")


def rows(tokens: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": row, "labels": row.clone()} for row in tokens]


def shifted(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and what each place predicts."""
    return tokens, torch.cat([tokens[:, 1:], torch.full_like(tokens[:, :1], IGNORED)], 1)


def rule() -> Role:
    return Role(with_head=False)


class Module(L.LightningModule):
    """The model as somebody's LightningModule."""

    def __init__(self, lm: Any):
        super().__init__()
        self.lm = lm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lm(input_ids=x, use_cache=False).logits

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x).flatten(0, 1), y.flatten(), ignore_index=IGNORED)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=LR)


class Kill(L.Callback):
    """Stop as a kill would, in the middle."""

    def __init__(self) -> None:
        self.steps = count(1)

    def on_train_batch_end(self, *_: Any) -> None:
        if next(self.steps) == STEPS - 1:
            raise KeyboardInterrupt


def with_trainer(model: Any, tasks: list[torch.Tensor], known: torch.Tensor, out: Path) -> ForTrainer:
    callback = ForTrainer(rule(), EWC(strength=STRENGTH), held_out={"known": rows(known)})
    for tokens in tasks:
        settings = TrainingArguments(
            str(out / "trainer"), num_train_epochs=STEPS, per_device_train_batch_size=TEXTS, learning_rate=LR, optim="sgd",
            max_grad_norm=0.0, lr_scheduler_type="constant", save_strategy="no", report_to=[], disable_tqdm=True,
            use_cpu=True, logging_strategy="no", per_device_eval_batch_size=TEXTS,
        )  # fmt: skip
        Trainer(model, settings, train_dataset=cast(Any, rows(tokens)), callbacks=[callback]).train()
    return callback


def with_lightning(make: Any, tasks: list[torch.Tensor], out: Path) -> tuple[Any, ForLightning]:
    """Learn the tasks; the last is killed before its last step, and goes on in a new module with a new callback."""
    module, callback = Module(make()), ForLightning(rule(), EWC(strength=STRENGTH), file=out / "lightning.json")

    def trainer(*callbacks: Any) -> Any:
        return L.Trainer(
            max_epochs=STEPS, accelerator="cpu", callbacks=list(callbacks), enable_progress_bar=False, logger=False,
            enable_model_summary=False, default_root_dir=str(out),
        )  # fmt: skip

    def data(tokens: torch.Tensor) -> Any:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*shifted(tokens)), batch_size=TEXTS)

    saver = ModelCheckpoint(out, filename="kept", enable_version_counter=False)
    for tokens in tasks[:-1]:
        trainer(callback, saver).fit(module, data(tokens))
    saver = ModelCheckpoint(out, filename="killed", enable_version_counter=False)
    try:
        trainer(callback, saver, Kill()).fit(module, data(tasks[-1]))
    except (KeyboardInterrupt, SystemExit):
        print("lightning: killed before the last step of the last task")
    fresh, again = Module(make()), ForLightning(rule(), EWC(strength=STRENGTH), file=out / "lightning.json")
    trainer(again).fit(fresh, data(tasks[-1]), ckpt_path=str(out / "killed.ckpt"))
    return fresh.lm, again


def flops(ledger: Any, phase: str) -> list[int]:
    return [int(row["flops"]) for row in ledger if row["phase"] == phase]


def apart(model: Any, other: Any) -> float:
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def main(folder: str, out: Path, news: list[str], known_folder: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    make = partial(AutoModelForCausalLM.from_pretrained, folder, dtype=torch.float32)
    tasks, known = [texts(new, tokenizer) for new in news], texts(known_folder, tokenizer)
    start, model = make(), make()
    names = {name for name, _ in model.named_parameters()}
    theirs = with_trainer(model, tasks, known, out)
    moved = {n for (n, p), q in zip(model.named_parameters(), start.parameters(), strict=True) if not torch.equal(p, q)}
    stream = frostline.from_tasks([(shifted(t), shifted(t)) for t in tasks], scenario="domain", classes=len(tokenizer))
    ours = frostline.run(
        Logits(make()), stream, strategy=EWC(strength=STRENGTH), selector=rule(), lr=LR, epochs=STEPS, batch_size=TEXTS,
        progress=False, prefix_cache="off",
    )  # fmt: skip
    own = cast(Any, ours.model).net  # frostline.run trains a copy
    other, lightnings = with_lightning(make, tasks, out)
    found = {
        "parameters": len(names),
        "trained": len(theirs.trained[0]),
        "moved_is_the_scope": moved == set(theirs.trained[0]),
        "train_flops": {
            "trainer": flops(theirs.ledger, "train"),
            "lightning": flops(lightnings.ledger, "train"),
            "ours": flops(ours.content["ledger"], "train"),
        },
        "consolidate_flops": {
            "trainer": flops(theirs.ledger, "consolidate"),
            "lightning": flops(lightnings.ledger, "consolidate"),
            "ours": flops(ours.content["ledger"], "consolidate"),
        },
        "weights_apart": {
            "moved": apart(model, start),
            "trainer and ours": apart(model, own),
            "lightning and ours": apart(other, own),
        },
        "held_out_loss": theirs.companion.held_out["known"],
    }
    (out / "result.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    if len(sys.argv) < 5:
        raise SystemExit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:-1], sys.argv[-1])
