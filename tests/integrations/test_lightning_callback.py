"""Lightning's Trainer with our callback: what trains, what it costs, and that a resume goes on."""

import copy
import json
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import frostline
from frostline.core.checks import UsageError
from frostline.integrations.lightning import FrostlineCallback
from frostline.integrations.lightning_module import Logits
from frostline.selectors import Pattern
from frostline.strategies import EWC, SI, LwF, Replay

pytestmark = pytest.mark.filterwarnings("ignore")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl

HALF = [r"net\.[01]\."]


class Classifier(pl.LightningModule):
    def __init__(self, seed=0, lr=0.05):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)
        )  # fmt: skip
        self.lr = lr

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("loss", loss)
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("held", F.cross_entropy(self(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def data(seed, count=40):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 8, generator=rng)
    return x, (x @ torch.randn(8, 3, generator=rng)).argmax(1)


def loader(seed, size=40):
    return DataLoader(TensorDataset(*data(seed)), batch_size=size)


def trainer(folder, *callbacks, epochs=4, **settings):
    settings = {"enable_checkpointing": False, "logger": False, **settings}
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, callbacks=list(callbacks), enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=str(folder), **settings,
    )  # fmt: skip


def apart(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a.float() - b.float()).abs().max()) for a, b in pairs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: "finetune",
        lambda: EWC(strength=20.0),
        lambda: SI(strength=1.0),
        lambda: LwF(strength=2.0),
        lambda: Replay(capacity=100, batch_size=100),
    ],
)
def test_the_same_weights_and_operations_as_in_our_loop(make, tmp_path):
    model = Classifier()
    start = copy.deepcopy(model)
    callback = FrostlineCallback(Pattern(include=HALF), make())
    for seed in (1, 2, 3):
        trainer(tmp_path, callback).fit(model, loader(seed))
    own = Logits(copy.deepcopy(start))
    stream = frostline.from_tasks([(data(seed), data(seed)) for seed in (1, 2, 3)], scenario="domain")
    run = frostline.run(
        own, stream, strategy=make(), selector=Pattern(include=HALF), lr=0.05, epochs=4, batch_size=40, progress=False,
        prefix_cache="off", optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    )  # fmt: skip
    assert apart(model, start) > 0.02
    assert apart(model, run.model.module) < 1e-5
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, start.state_dict()[name])}
    assert {name for name in moved if not name.startswith(("net.0", "net.1"))} == set()  # norms too
    for task in range(3):
        for phase in ("train", "consolidate"):
            (there,) = [r for r in callback.ledger if (r["task"], r["phase"]) == (task, phase)]
            (ours,) = [r for r in run.content["ledger"] if (r["task"], r["phase"]) == (task, phase)]
            assert {k: there[k] for k in ("flops", "samples", "steps")} == {
                k: ours[k] for k in ("flops", "samples", "steps")
            }
    found = json.loads((tmp_path / "frostline.json").read_text())
    assert found["trained"][0] == sorted(f"net.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias"))


def stopping_after(steps):
    class Kill(pl.Callback):
        def on_train_batch_end(self, trainer, *others):
            if trainer.global_step == steps:
                raise KeyboardInterrupt

    return Kill()


@pytest.mark.parametrize("strategy", ["finetune", "ewc"])
def test_a_killed_fit_goes_on_with_the_same_scope_and_weights(strategy, tmp_path):
    whole, killed = Classifier(), Classifier()
    straight = FrostlineCallback(Pattern(include=HALF), strategy)
    for seed in (1, 2):
        trainer(tmp_path, straight).fit(whole, loader(seed, 10))
    first = FrostlineCallback(Pattern(include=HALF), strategy)
    trainer(tmp_path, first).fit(killed, loader(1, 10))
    saver = pl.callbacks.ModelCheckpoint(tmp_path, filename="kept", every_n_epochs=1)
    with pytest.raises(BaseException):  # noqa: B017, PT011  (Lightning exits)
        trainer(tmp_path, first, saver, stopping_after(10), enable_checkpointing=True).fit(killed, loader(2, 10))
    fresh, again = Classifier(seed=5), FrostlineCallback(Pattern(include=HALF), strategy)
    trainer(tmp_path, again).fit(fresh, loader(2, 10), ckpt_path=str(tmp_path / "kept.ckpt"))
    assert apart(fresh, whole) < 1e-6
    assert again.trained == straight.trained
    assert [r["steps"] for r in again.ledger] == [r["steps"] for r in straight.ledger]
    assert [r["flops"] for r in again.ledger] == [r["flops"] for r in straight.ledger]


def test_a_fit_killed_after_its_last_step_is_ended_by_the_resume(tmp_path):
    class Late(pl.Callback):
        def on_train_end(self, *_):
            raise KeyboardInterrupt

    whole, killed = Classifier(), Classifier()
    straight = FrostlineCallback(Pattern(include=HALF), "ewc")
    for seed in (1, 2):
        trainer(tmp_path, straight).fit(whole, loader(seed, 10))
    saver = pl.callbacks.ModelCheckpoint(tmp_path, filename="last", every_n_epochs=1)
    with pytest.raises(BaseException):  # noqa: B017, PT011  (Lightning exits)
        trainer(
            tmp_path, Late(), FrostlineCallback(Pattern(include=HALF), "ewc"), saver, enable_checkpointing=True
        ).fit(killed, loader(1, 10))  # fmt: skip
    fresh, again = Classifier(seed=5), FrostlineCallback(Pattern(include=HALF), "ewc")
    trainer(tmp_path, again).fit(fresh, loader(1, 10), ckpt_path=str(tmp_path / "last.ckpt"))
    trainer(tmp_path, again).fit(fresh, loader(2, 10))
    assert apart(fresh, whole) < 1e-6
    assert [(r["task"], r["phase"]) for r in again.ledger] == [(r["task"], r["phase"]) for r in straight.ledger]


@pytest.mark.parametrize("strategy", ["finetune", "si", "ewc"])
def test_steps_without_a_loss_are_no_steps(strategy, tmp_path):
    class Skips(Classifier):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == 0 else super().training_step(batch, batch_idx)

    callback, all_of = FrostlineCallback(strategy=strategy), FrostlineCallback(strategy=strategy)
    trainer(tmp_path, callback, epochs=1).fit(Skips(), loader(1, 10))
    trainer(tmp_path, all_of, epochs=1).fit(Classifier(), loader(1, 10))
    flops = [next(r["flops"] for r in c.ledger if r["phase"] == "train") for c in (callback, all_of)]
    assert flops[0] == flops[1] * 3 // 4


def test_validation_is_charged_and_held_out_loss_measured(tmp_path):
    model, callback = Classifier(), FrostlineCallback(held_out={"old": TensorDataset(*data(7))}, price_per_hour=3600.0)
    for seed in (7, 8):
        trainer(tmp_path, callback).fit(model, loader(seed), loader(9))
    assert len(callback.companion.held_out["old"]) == 3
    x, y = data(7)
    assert callback.companion.held_out["old"][-1] == pytest.approx(float(F.cross_entropy(model.eval()(x), y)), rel=1e-5)
    evaluated = [row for row in callback.ledger if row["phase"] == "evaluate" and row["task"] is not None]
    assert all(row["samples"] == 4 * 40 + 40 for row in evaluated)
    assert callback.result()["totals"]["usd"] > 0


def test_batches_with_keys_and_a_part_that_makes_logits(tmp_path):
    class Own(Classifier):
        forward = pl.LightningModule.forward

        def __init__(self):
            super().__init__()
            self.other = nn.Linear(1, 1)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.net(batch["x"]), batch["y"])

    rows = [{"x": x, "y": y} for x, y in zip(*data(1), strict=True)]
    callback = FrostlineCallback(Pattern(include=[r"\.net\."]), [EWC(), Replay()], pair=("x", "y"), network="net")
    model = Own()
    for _ in range(2):
        trainer(tmp_path, callback).fit(model, DataLoader(rows, batch_size=20))
    assert not any(name.startswith("other") for name in callback.trained[0])
    assert [row["samples"] for row in callback.ledger if row["phase"] == "train"] == [160, 320]
    with pytest.raises(UsageError, match="no forward and several parts"):
        trainer(tmp_path, FrostlineCallback(strategy="ewc", pair=("x", "y"))).fit(
            Own(), DataLoader(rows, batch_size=20)
        )


def test_refusals(tmp_path):
    def fit(callback, model=None, loaded=None, **settings):
        trainer(tmp_path, callback, **settings).fit(Classifier() if model is None else model, loaded or loader(1))

    with pytest.raises(
        RuntimeError, match="more than one stateful callback of type `FrostlineCallback`"
    ):  # Lightning's
        trainer(tmp_path, FrostlineCallback(), FrostlineCallback()).fit(Classifier(), loader(1))
    model = Classifier()
    fit(FrostlineCallback(), model)
    with pytest.raises(UsageError, match="given twice"):
        fit(FrostlineCallback(), model)
    with pytest.raises(UsageError, match="matches no parameter"):
        fit(FrostlineCallback(Pattern(include=["attention"])))
    with pytest.raises(UsageError, match=r"to be at \['x', 'y'\]"):
        fit(FrostlineCallback(strategy="ewc", pair=("x", "y")))
    with pytest.raises(UsageError, match="accumulate_grad_batches=2: replay mixes into whole batches"):
        fit(FrostlineCallback(strategy="replay"), accumulate_grad_batches=2)
    with pytest.raises(UsageError, match="wrapped already"):
        fit(FrostlineCallback(), torch.compile(Classifier()))
    manual = Classifier()
    manual.automatic_optimization = False
    with pytest.raises(UsageError, match="automatic_optimization=False"):
        fit(FrostlineCallback(), manual)
    floats = DataLoader(TensorDataset(data(1)[0], torch.zeros(40)), batch_size=40)
    with pytest.raises(UsageError, match="objective='regression'"):
        fit(FrostlineCallback(strategy="ewc"), loaded=floats)
    with pytest.raises(UsageError, match=r"net\.5 cannot make logits of a batch's inputs"):
        fit(FrostlineCallback(strategy="ewc", network="net.5"))
    with pytest.raises(UsageError, match="taken with Everything, EWC: expected the same, not Everything, SI"):
        FrostlineCallback(strategy="si").load_state_dict(FrostlineCallback(strategy="ewc").state_dict())
    with pytest.raises(UsageError, match="has no such part"):
        fit(FrostlineCallback(network="nett"))
    with pytest.raises(UsageError, match="belongs to the other loop"):
        FrostlineCallback(strategy="icarl")
