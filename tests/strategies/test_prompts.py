"""L2P, DualPrompt, CODA-Prompt: what stands beside the tokens, and what of it may move."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from frostline.core.checks import UsageError
from frostline.core.prompting import Prompting
from frostline.core.scope import evaluating
from frostline.core.structure import everything
from frostline.loop.training import run_stream
from frostline.models import cnn, mlp, vit
from frostline.selectors import HeadOnly
from frostline.strategies import L2P, CODAPrompt, DualPrompt
from frostline.streams import from_arrays

net = partial(vit, patch=4, width=8, depth=3, heads=2)
ALL = (L2P, partial(DualPrompt, experts=[1, 2]), CODAPrompt)


@pytest.fixture(scope="module")
def by_class():
    return from_arrays("digits", scenario="class", samples_per_class=20)


def test_tokens_stand_behind_a_blocks_own_and_are_taken_away(by_class):
    torch.manual_seed(0)
    model = net(by_class.shape, 10).eval()
    x = next(iter(by_class[0].train.batches(5))).x
    tokens, queries = torch.randn(5, 3, 8), []

    def choose(query):
        queries.append(query)
        return {1: tokens}

    with torch.no_grad(), Prompting().at(model, choose):
        found = model(x)
    with torch.no_grad():
        stages, state = model.stages(), x
        state = stages[1](stages[0](state))
        state = stages[2](torch.cat((state, tokens), 1))[:, :-3]
        expected = model.head(stages[4](stages[3](state)))
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        state = x
        for stage in model.stages():
            state = stage(state)
    torch.testing.assert_close(queries[0], state)
    assert not torch.equal(model(x), found)


def test_l2p_chooses_the_nearest_keys_and_they_stay_to_the_end(by_class):
    strategy, model = L2P(pool=4, length=2, chosen=3), net(by_class.shape, 10).eval()
    strategy.prepare(model, 0)
    strategy.learned = 1
    x = next(iter(by_class[0].train.batches(6))).x
    with torch.no_grad(), evaluating(model):
        query = x
        for stage in model.stages():
            query = stage(query)
        prompts = model.head.prompts
        cosines = F.normalize(query) @ F.normalize(prompts["pool_keys"]).T
        which = cosines.argsort(1, descending=True)[:, :3]
        state = torch.cat((model.stages()[0](x), prompts["pool"][which].flatten(1, 2)), 1)
        for stage in model.stages()[1:]:
            state = stage(state)
        with strategy.serving(model, None):
            torch.testing.assert_close(model(x), model.head(state))


@pytest.mark.parametrize("build", ALL)
def test_the_transformer_stays_and_so_do_earlier_tasks_prompts(build, make_run, by_class):
    strategy = build()
    momentum = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1)
    run = make_run(strategy, HeadOnly(warmup_tasks=0), stream=by_class, model=net, optimizer=momentum)
    start = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    kept, after = [], strategy.after_task

    def note(scope, task):
        kept.append({n: p.detach().clone() for n, p in run.model.named_parameters() if "prompts" in n})
        after(scope, task)

    strategy.after_task = note
    run_stream(run)
    for name, value in start.items():
        if not name.startswith("head"):
            assert torch.equal(value, run.model.get_parameter(name)), name
    last = {n: p for n, p in run.model.named_parameters() if "prompts" in n}
    if build is L2P:
        assert not torch.equal(kept[0]["head.prompts.pool"], last["head.prompts.pool"])
        return
    own = [name for name in kept[0] if name.endswith("_0")]
    assert own
    assert all(torch.equal(kept[0][name], last[name]) for name in own)
    assert any(name.endswith("_4") for name in last)


def test_dualprompts_experts_are_those_of_the_nearest_key(by_class):
    strategy, model = DualPrompt(general=[], experts=[0], expert_length=1), net(by_class.shape, 10)
    for index in range(3):
        strategy.prepare(model, index)
    strategy.learned = 3
    prompts, query = model.head.prompts, torch.randn(7, 8)
    keys = torch.stack([prompts[f"key_{t}"] for t in range(3)])
    which = F.cosine_similarity(query[:, None], keys, dim=2).argmax(1)
    found = strategy.tokens(prompts, query)[0]
    for row, task in enumerate(which.tolist()):
        assert torch.equal(found[row], prompts[f"expert0_{task}"])
    strategy.task_now = 1
    assert torch.equal(strategy.tokens(prompts, query)[0], prompts["expert0_1"].expand(7, -1, -1))


def test_codas_prompt_is_the_weighted_sum(by_class):
    strategy, model = CODAPrompt(components=2, length=3, blocks=[1]), net(by_class.shape, 10)
    for index in range(2):
        strategy.prepare(model, index)
    strategy.learned = 2
    prompts, query = model.head.prompts, torch.randn(4, 8)
    found = strategy.tokens(prompts, query)[1]
    for row in range(4):
        total = torch.zeros(3, 8)
        for task in range(2):
            for m in range(2):
                looked = query[row] * prompts[f"attention1_{task}"][m]
                weight = F.cosine_similarity(looked, prompts[f"keys1_{task}"][m], dim=0)
                total = total + weight * prompts[f"parts1_{task}"][m]
        torch.testing.assert_close(found[row], total)


@pytest.mark.parametrize("build", ALL)
@pytest.mark.parametrize("model", [mlp, cnn])
def test_a_net_without_tokens_is_refused_by_name(build, model, by_class):
    with pytest.raises(UsageError, match="Expected a vision transformer"):
        build().check(model(by_class.shape, 10), by_class)


@pytest.mark.parametrize("build", ALL)
def test_the_bill_of_an_evaluation_holds_the_prompts(build, make_run, by_class):
    run = make_run(build(), HeadOnly(warmup_tasks=0), stream=by_class, model=net, epochs=1)
    plain = make_run(None, HeadOnly(warmup_tasks=0), stream=by_class, model=net, epochs=1)
    run_stream(run)
    run_stream(plain)

    def last(one):
        return next(row.flops for row in reversed(one.meter.rows) if row.phase == "evaluate")

    assert last(run) > 1.8 * last(plain)  # the query, and more tokens
    assert everything(run.model) > everything(plain.model)
    assert np.isfinite(run.progress.loss[-1]).all()
