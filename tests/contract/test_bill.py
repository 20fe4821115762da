"""Every strategy's bill holds its own overhead: seen beside fine-tuning, which is each of them with everything switched off."""

from functools import partial

import pytest
import torch

from frostline.loop.training import run_stream
from frostline.models import mlp
from frostline.selectors import LastK
from frostline.strategies import EWC, LwF
from frostline.streams import from_arrays
from tests.contract.test_contract import build_strategy, model_for, names
from tests.models.test_transformers import tiny

# What a strategy's learning takes of fine-tuning's operations, at least and at most. Exactly 1: all that it adds is done
# element by element, which seconds and stored bytes have and operations, products alone, have not.
WHOLE = {
    "finetune": (1, 1), "partial": (0.1, 1), "frozen": (0.1, 0.5), "from_scratch": (1, 1), "independent": (1, 1),
    "cumulative": (2, 4), "joint": (0.9, 1.1),
    "si": (1.005, 1.03), "rwalk": (1.005, 1.03), "l2_sp": (1.005, 1.03), "l2_init": (1.005, 1.03),
    "ewc": (1.05, 3), "mas": (1.05, 3), "lwf": (1.15, 1.5),
    "replay": (1.5, 2.2), "der": (1.5, 2.2), "der_pp": (2, 3.2), "er_ace": (1, 1), "er_aml": (1, 1), "cls_er": (2, 4),
    "weighted_replay": (1, 1), "fdr": (1.5, 3), "gdumb": (0.5, 3), "icarl": (3, 6), "scr": (8, 25),
    "gem": (2, 12), "agem": (1.5, 3), "gpm": (1.01, 20), "ogd": (1.05, 20), "owm": (1.01, 20),
    "wa": (1, 1), "bic": (0.8, 1.3), "lucir": (2, 6), "il2m": (2, 5), "cwr_star": (1, 1), "slca": (1.1, 20),
    "layer_rates": (1, 1),
    "packnet": (1.3, 1.8), "hat": (1, 1), "continual_backprop": (1, 1.01), "redo": (1, 1), "shrink_and_perturb": (1, 1),
    "pnn": (2, 4), "osf": (1.3, 2.5), "o_lora": (1.005, 1.05),
    "ema": (1, 1), "wise_ft": (1, 1), "task_arithmetic": (1, 1), "ties": (1, 1),
    "l2p": (2, 15), "dualprompt": (1.5, 10), "coda_prompt": (1.5, 10),
    "ncm": (0.1, 0.6), "slda": (0.1, 0.9), "fecam": (0.1, 3), "ranpac": (0.1, 3), "acil": (0.1, 3),
}  # fmt: skip
KEEPING_NOTHING = (
    "layer_rates", "finetune", "partial", "frozen", "er_ace", "weighted_replay", "er_aml",
    "l2p", "dualprompt", "coda_prompt", "wa",
    "redo",
    "shrink_and_perturb",
)  # fmt: skip
BY_TASK = ("packnet", "hat", "pnn", "independent")  # decide each task by itself


@pytest.fixture(scope="module")
def streams():
    return {kind: from_arrays("digits", scenario=kind, samples_per_class=40) for kind in ("class", "task")}


def learning(run):
    """The operations of learning."""
    return sum(row.flops for row in run.meter.rows if row.phase in ("train", "consolidate", "select", "cache"))


@pytest.mark.parametrize("name", names("strategy"))
def test_what_a_strategy_adds_is_on_its_bill(name, make_run, streams):
    selector = LastK(k=1, warmup_tasks=1) if name == "partial" else None
    stream = streams["task" if name in BY_TASK else "class"]
    model = model_for("everything", name)
    plain, run = (
        make_run(s, sel, stream=stream, model=model) for s, sel in ((None, None), (build_strategy(name), selector))
    )
    run_stream(plain)
    run_stream(run)
    low, high = WHOLE[name]
    assert low <= learning(run) / learning(plain) <= high
    kept = max(row.stored_bytes for row in run.meter.rows if row.phase in ("train", "consolidate"))
    assert (kept > 0) == (name not in KEEPING_NOTHING)


def test_what_is_switched_off_is_off_the_bill(make_run, streams):
    """A strength of 0 takes no teacher and no penalty; what a task's end costs stays, the strength may be another one later."""
    plain = make_run(stream=streams["class"])
    run_stream(plain)
    for strategy in (LwF(strength=0.0), EWC(strength=0.0)):
        run = make_run(strategy, stream=streams["class"])
        run_stream(run)
        flops = [sum(r.flops for r in one.meter.rows if r.phase == "train") for one in (run, plain)]
        assert flops[0] == flops[1]


def test_a_teacher_is_the_thawed_part_and_not_the_model(make_run):
    """LwF with the last block of a perceptron, and of a BERT: what it keeps while it learns."""
    run = make_run(LwF(), LastK(k=1, warmup_tasks=0), model=partial(mlp, hidden=[256, 16]))
    run_stream(run)
    thawed = sum(p.nbytes for p in run.model.backbone[-1].parameters()) + sum(
        p.nbytes for p in run.model.head.parameters()
    )
    for row in run.meter.rows:
        if row.phase == "train" and row.task:
            assert thawed <= row.stored_bytes <= thawed + 1000  # and which classes it answers for
    assert thawed < 0.6 * sum(p.nbytes for p in run.model.parameters())


def test_a_teacher_of_a_transformer_leaves_the_embeddings_alone():
    from frostline.core.scope import Scope
    from frostline.core.structure import everything

    net = tiny("bert")
    last = frozenset(n for n in everything(net) if "layer.1." in n or "classifier" in n)
    scope = Scope(net, last)
    with scope.thawed():
        copy = scope.snapshot()
    assert set(copy) == last
    assert sum(t.nbytes for t in copy.values()) < 0.8 * sum(p.nbytes for p in net.parameters())
    assert all(not torch.is_grad_enabled() or not t.requires_grad for t in copy.values())
