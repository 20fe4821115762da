"""Language models learn alike whether the logits are there as a whole or not."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import frostline
from frostline.core.checks import UsageError
from frostline.core.rng import generator
from frostline.loop import plain
from frostline.loop.training import run_stream
from frostline.models import decoder
from frostline.selectors import LastK
from frostline.strategies import LwF, Replay
from frostline.streams import from_tasks

WORDS, LENGTH = 90, 12


def stream():
    text = torch.randint(0, WORDS, (48, LENGTH + 1), generator=generator("pieces"))
    text[:, 1::3] = text[:, ::3][:, : text[:, 1::3].shape[1]]  # something to learn
    data = [(text[rows, :-1], text[rows, 1:]) for rows in (slice(0, 16), slice(16, 24), slice(24, 40), slice(40, 48))]
    return from_tasks([(data[0], data[1]), (data[2], data[3])], scenario="domain", classes=WORDS)


net = partial(decoder, width=32, depth=2, heads=2, kv_heads=1, hidden=48, tied=False)


@pytest.mark.parametrize("selector", [None, LastK(k=1, warmup_tasks=0)])
def test_the_loss_in_pieces_teaches_what_the_whole_one_does(make_run, selector):
    more = {} if selector is None else {"selector": selector}
    runs = [
        make_run(Replay(capacity=8), model=net, stream=stream(), epochs=2, batch_size=8, loss_in_pieces=pieces, **more)
        for pieces in ("off", "on")
    ]
    for run in runs:
        run_stream(run)
    whole, pieces = runs
    for p, q in zip(whole.model.parameters(), pieces.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert [row.flops for row in whole.meter.rows] == [row.flops for row in pieces.meter.rows]
    assert whole.progress.loss[-1][0] == pytest.approx(pieces.progress.loss[-1][0], rel=1e-4)


def test_in_bfloat16_too(make_run):
    runs = [
        make_run(model=net, stream=stream(), epochs=2, batch_size=8, loss_in_pieces=pieces, precision="bfloat16")
        for pieces in ("off", "on")
    ]
    for run in runs:
        run_stream(run)
    whole, pieces = runs
    assert [row.flops for row in whole.meter.rows] == [row.flops for row in pieces.meter.rows]
    before, after = (run.progress.loss[at][0] for run, at in ((whole, 0), (whole, -1)))
    assert abs(pieces.progress.loss[-1][0] - after) < 0.05 * (before - after)


def test_pieces_are_taken_where_the_whole_is_large(make_run, monkeypatch):
    for large, expected in ((8 * LENGTH * WORDS * 4, True), (8 * LENGTH * WORDS * 4 + 1, False)):
        monkeypatch.setattr(plain, "LARGE", large)
        seen = []
        monkeypatch.setattr(
            plain.Classification, "loss_in_pieces", lambda self, x, head, y, s=seen: s.append(1) or head(x).mean()
        )
        run_stream(make_run(model=net, stream=stream(), epochs=1, batch_size=8))
        assert bool(seen) == expected


def test_documents_are_kept_apart_where_the_stream_says_so(make_run):
    def losses(end, **more):
        torch.manual_seed(0)
        apart = replace(stream(), end=end)
        model = net(apart.shape, apart.classes)
        found = frostline.run(
            model, apart, "partial", LastK(k=1), lr=0.1, epochs=3, batch_size=8, progress=False, **more
        )
        return [loss for row in found.content["loss"] for loss in row]

    across, apart, cached = losses(None), losses(0, prefix_cache="off"), losses(0, prefix_cache="on")
    assert apart == pytest.approx(cached, rel=1e-4)
    assert apart != pytest.approx(across, rel=1e-4)
    with pytest.raises(UsageError, match=r"stream.attention=within: Sequential cannot be told where documents end"):
        frostline.run(
            nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)), replace(stream(), end=0), progress=False
        )


def test_a_compiled_step_makes_them_as_a_whole(make_run):
    run = make_run(model=net, stream=stream(), epochs=1, batch_size=8, loss_in_pieces="on", compile="on")
    with pytest.raises(UsageError, match=r"a compiled step makes them as a whole \(trainer\.compile=on\)"):
        run_stream(run)


def test_who_wants_the_logits_gets_them(make_run):
    run = make_run(LwF(), model=net, stream=stream(), epochs=1, batch_size=8, loss_in_pieces="on")
    with pytest.raises(UsageError, match=r"trainer\.loss_in_pieces=on: the strategy looks at the logits"):
        run_stream(run)


def test_few_texts_are_evaluated_at_once_where_the_vocabulary_is_large(make_run):
    assert make_run(model=net, stream=stream()).eval_batch_size == 128
    model = partial(decoder, width=8, depth=1, heads=2, kv_heads=1, hidden=8)
    many = from_tasks([((torch.zeros(4, LENGTH).long(),) * 2,) * 2], scenario="domain", classes=400_000)
    assert make_run(model=model, stream=many).eval_batch_size == 2**24 // (LENGTH * 400_000)


def test_a_net_with_one_answer_a_text_is_refused_for_tokens():
    one = nn.Sequential(nn.Embedding(WORDS, 8), nn.Flatten(), nn.Linear(8 * LENGTH, WORDS))
    with pytest.raises(UsageError, match=r"expected \[2, 12, 90\]: one for each token, as model=decoder"):
        frostline.run(one, stream())
