"""What a model is made of."""

from frostline.core.structure import everything, head, shares_of_blocks
from frostline.loop.training import run_stream
from frostline.models import decoder, mlp
from frostline.selectors import LastK


def test_which_share_of_each_block_is_meant():
    net = mlp((1, 8, 8), 10, [32, 16])
    assert set(shares_of_blocks(net, everything(net)).values()) == {1.0}
    only = shares_of_blocks(net, [n for n in everything(net) if n.endswith("1.0.bias")] + sorted(head(net)))
    first, second, last = only.values()
    assert (first, last) == (0.0, 1.0) or (second, last) == (0.0, 1.0)
    assert 0 < first + second < 0.1
    assert list(only)[-1] == "head"


def test_a_head_that_shares_the_embeddings_weight_has_no_share():
    """It was shown as the one part that full fine-tuning leaves alone."""
    for tied, last in ((True, "backbone.block2"), (False, "head")):
        net = decoder((8,), 20, 16, 2, 2, 1, 24, tied=tied)
        shares = shares_of_blocks(net, everything(net))
        assert list(shares)[-1] == last
        assert set(shares.values()) == {1.0}


def test_a_run_remembers_what_was_retrained(make_run):
    run = make_run(selector=LastK(k=1, warmup_tasks=1))
    run_stream(run)
    assert [list(shares.values()) for shares in run.progress.retrained] == [[1, 1, 1]] + [[0, 1, 1]] * 4
