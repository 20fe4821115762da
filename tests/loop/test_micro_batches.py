"""Memory savers: a batch in parts, and hidden states computed again, teach what the plain step does."""

from functools import partial

import pytest
import torch
from torch import nn

import frostline
from frostline.core.checks import UsageError
from frostline.core.objectives import IGNORED
from frostline.core.rng import generator
from frostline.loop.training import run_stream
from frostline.models import decoder, mlp, slim_resnet18
from frostline.selectors import LastK
from frostline.strategies import AGEM, ERACE, EWC, MAS, SI, Chain, Finetune, LwF, Replay
from frostline.streams import from_tasks

WORDS, LENGTH = 50, 12


def answers():
    """Two tasks in which samples have different numbers of targets that count."""
    text = torch.randint(0, WORDS, (56, LENGTH + 1), generator=generator("micro"))
    y = text[:, 1:].clone()
    for row in range(len(y)):
        y[row, : row % LENGTH] = IGNORED
    parts = [(text[rows, :-1], y[rows]) for rows in (slice(0, 20), slice(20, 28), slice(28, 48), slice(48, 56))]
    return from_tasks([(parts[0], parts[1]), (parts[2], parts[3])], scenario="domain", classes=WORDS)


net = partial(decoder, width=32, depth=3, heads=2, kv_heads=1, hidden=48)
STRATEGIES = {
    "finetune": Finetune,
    "replay": lambda: Replay(capacity=8),
    "ewc": lambda: EWC(strength=10.0),
    "si": lambda: SI(strength=1.0),
    "mas": lambda: MAS(strength=1.0),
    "lwf": LwF,
    "agem": lambda: AGEM(capacity=8, buffer="reservoir"),
    "replay and ewc": lambda: Chain([Replay(capacity=8), EWC(strength=10.0)]),
}


def same(one, other):
    for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert one.progress.loss[-1] == pytest.approx(other.progress.loss[-1], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "pieces"),
    [*((name, "off") for name in STRATEGIES), *((name, "on") for name in ("finetune", "replay", "agem"))],
)
def test_parts_of_a_batch_add_up_to_it(make_run, name, pieces):
    more = {"model": net, "stream": answers(), "epochs": 2, "batch_size": 8, "loss_in_pieces": pieces}
    whole, parted = (make_run(STRATEGIES[name](), micro_batch_size=size, **more) for size in (None, 3))
    for run in (whole, parted):
        run_stream(run)
    same(whole, parted)
    assert [row.samples for row in whole.meter.rows] == [row.samples for row in parted.meter.rows]
    if name != "lwf":  # its teacher's masks are counted a part at a time
        assert [row.flops for row in whole.meter.rows] == pytest.approx(
            [row.flops for row in parted.meter.rows], rel=0.02
        )


def test_no_more_than_a_micro_batch_goes_through_the_model(make_run):
    run, seen = make_run(model=net, stream=answers(), epochs=1, batch_size=8, micro_batch_size=3, eval_batch_size=2), []
    run.model.register_forward_pre_hook(
        lambda _, given: seen.append(len(given[0]) if type(given[0]) is torch.Tensor else 0)
    )
    run_stream(run)
    assert max(seen) == 3


@pytest.mark.parametrize("sam", [0.0, 0.05])
def test_what_is_computed_again_teaches_the_same(make_run, sam):
    more = {"model": net, "stream": answers(), "epochs": 2, "batch_size": 8, "sam": sam}
    whole, again = (make_run(Replay(capacity=8), activation_checkpointing=on, **more) for on in (False, True))
    for run in (whole, again):
        run_stream(run)
    same(whole, again)


def test_only_stages_that_need_a_gradient_are_computed_again(make_run):
    calls, costs = {}, {}
    for on in (False, True):
        selector = LastK(k=2, warmup_tasks=0)
        run = make_run(
            model=net,
            stream=answers(),
            selector=selector,
            epochs=1,
            batch_size=20,
            activation_checkpointing=on,
            prefix_cache="off",
        )
        counts = calls[on] = [0] * len(run.model.stages())
        for place, stage in enumerate(run.model.stages()):
            stage.register_forward_pre_hook(
                lambda *_, place=place, counts=counts: counts.__setitem__(
                    place, counts[place] + torch.is_grad_enabled()
                )
            )
        run_stream(run)
        costs[on] = sum(row.flops for row in run.meter.rows if row.phase == "train")
    frozen = [more == plain for plain, more in zip(calls[False], calls[True], strict=True)]
    assert frozen[:2] == [True, True]
    assert not all(frozen)
    assert 1.05 < costs[True] / costs[False] < 1.4


def test_the_bill_has_what_is_computed_again(make_run):
    costs = {}
    for on in (False, True):
        run = make_run(model=net, stream=answers(), epochs=1, batch_size=20, activation_checkpointing=on)
        run_stream(run)
        costs[on] = sum(row.flops for row in run.meter.rows if row.phase == "train")
    assert 1.15 < costs[True] / costs[False] <= 4 / 3  # forward, twice that backward, and at most another forward


def test_what_cannot_be_is_refused(make_run):
    def ready(strategy=None, model=net, stream=None, **more):
        stream = stream or answers()
        frostline.run(
            model(stream.shape, stream.classes),
            stream,
            strategy or Finetune(),
            epochs=1,
            batch_size=8,
            progress=False,
            **more,
        )

    images = from_tasks([((torch.randn(20, 4), torch.arange(20) % 2), (torch.randn(4, 4), torch.arange(4) % 2))])
    with pytest.raises(UsageError, match=r"trainer.micro_batch_size=2: the loss of ERACE is no mean over samples"):
        ready(ERACE(), model=partial(mlp, hidden=[8]), stream=images, micro_batch_size=2)
    with pytest.raises(UsageError, match=r"trainer.micro_batch_size=0"):
        ready(micro_batch_size=0)
    with pytest.raises(UsageError, match=r"trainer.compile=on with trainer.micro_batch_size"):
        ready(micro_batch_size=2, compile="on")
    with pytest.raises(UsageError, match=r"Sequential has no stages\(\)"):
        ready(
            model=lambda *_: nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)), activation_checkpointing=True
        )
    images = from_tasks(
        [((torch.randn(20, 3, 8, 8), torch.arange(20) % 2), (torch.randn(4, 3, 8, 8), torch.arange(4) % 2))]
    )
    with pytest.raises(UsageError, match=r"has batch-norms"):
        ready(model=partial(slim_resnet18, filters=2), stream=images, activation_checkpointing=True)
