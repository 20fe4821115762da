import pytest
import torch

from frostline.core.types import Batch
from frostline.strategies import EWC, Chain, Cumulative, Finetune, Joint, Replay, Strategy


class Double(Strategy):
    def augment(self, step, batch):
        return batch.cat(batch)

    def penalty(self, step, batch, logits):
        return logits.sum() * 0 + 2.0

    def project(self, step, batch, grads):
        return {n: 2 * g for n, g in grads.items()}


class PlusOne(Strategy):
    def penalty(self, step, batch, logits):
        return logits.sum() * 0 + 1.0

    def project(self, step, batch, grads):
        return {n: g + 1 for n, g in grads.items()}


def test_hooks_compose():
    chain = Chain([Double(), Double(), PlusOne()])
    one = torch.arange(3)
    assert len(chain.augment(None, Batch(one.float(), one, one, one))) == 12
    assert float(chain.penalty(None, None, torch.zeros(2))) == 5.0
    assert chain.project(None, None, {"w": torch.ones(1)})["w"].item() == 5.0


def test_only_what_a_member_overrides_is_used():
    assert not Chain([Finetune(), Replay()]).uses("penalty")
    assert Chain([Finetune(), EWC()]).uses("penalty")
    assert not Chain([EWC(), Replay()]).uses("project")


def test_beside_joint_only_what_acts_within_a_task_is_allowed():
    for idle in (Replay(), EWC()):
        with pytest.raises(ValueError, match=f"{type(idle).__name__} beside it does nothing"):
            Chain([Joint(), idle])
    Chain([Joint(), Replay(update="step")])
    Chain([Cumulative(), EWC()])


def test_two_owners_are_refused():
    with pytest.raises(ValueError, match="Joint and Cumulative both decide"):
        Chain([Joint(), Cumulative()])

    class Loss(Strategy):
        def criterion(self, step, batch, logits):
            return logits.sum()

    with pytest.raises(ValueError, match="criterion"):
        Chain([Loss(), Loss()])
    assert float(Chain([Finetune(), Loss()]).criterion(None, None, torch.ones(3))) == 3.0
    with pytest.raises(ValueError, match="at least one"):
        Chain([])
