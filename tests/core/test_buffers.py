"""Each rule against what it promises, statistically where it is random."""

import copy

import numpy as np
import pytest
import torch

from frostline.core.buffers import Buffer
from frostline.core.rng import derive
from frostline.core.types import Batch


def batch(labels, first=0):
    y = torch.as_tensor(labels)
    index = torch.arange(first, first + len(y))
    return Batch(index[:, None].float(), y, torch.zeros_like(y), index)


def test_reservoir_is_a_uniform_sample():
    counts, trials, n, capacity = np.zeros(60), 400, 60, 15
    for seed in range(trials):
        buffer = Buffer(capacity, "reservoir", seed)
        for start in range(0, n, 7):
            buffer.add(batch([0] * min(7, n - start), start))
        kept = buffer.all().index.numpy()
        assert len(set(kept)) == capacity
        counts[kept] += 1
    expected = trials * capacity / n
    deviations = (counts - expected) / np.sqrt(expected * (1 - capacity / n))
    assert abs(deviations).max() < 4.5  # one in 150,000 for each of 60
    assert 0.5 < (deviations**2).mean() < 1.6


def test_class_balanced_shares_equally_and_fills_what_the_rare_leave():
    buffer = Buffer(30, "class_balanced", 0)
    buffer.add(batch([0] * 100))
    assert len(buffer) == 30
    buffer.add(batch([1] * 100, 100))
    assert np.bincount(buffer.all().y).tolist() == [15, 15]
    buffer.add(batch([2] * 4, 200))
    assert np.bincount(buffer.all().y).tolist() == [13, 13, 4]


def test_class_balanced_is_uniform_within_the_class():
    counts = np.zeros(40)
    for seed in range(300):
        buffer = Buffer(10, "class_balanced", seed)
        buffer.add(batch([0] * 40))
        buffer.add(batch([1] * 40, 40))
        kept = buffer.all().index.numpy()
        counts[kept[kept < 40]] += 1
    expected = 300 * 5 / 40
    assert abs(counts - expected).max() < 4.5 * np.sqrt(expected)


def test_ring_keeps_the_latest_of_each_class():
    buffer = Buffer(6, "ring", 0)
    buffer.add(batch([0, 1] * 10))
    assert sorted(buffer.all().index.tolist()) == [14, 15, 16, 17, 18, 19]


def offer(buffer, labels, first=0):
    y = torch.as_tensor(labels)
    order = {"herding": np.arange(float(len(y))), "gss": np.sin(np.arange(len(y)))}
    buffer.add(batch(labels, first), order.get(buffer.rule))


@pytest.mark.parametrize("rule", Buffer.RULES)
def test_columns_stay_together_and_nothing_exceeds_the_capacity(rule):
    buffer = Buffer(17, rule, 1)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 300)
    for start in range(0, 300, 23):
        offer(buffer, labels[start : start + 23], start)
        assert len(buffer) <= 17
    held = buffer.all()
    assert len(held) == 17
    assert torch.equal(held.x[:, 0].long(), held.index)
    assert held.y.tolist() == labels[held.index].tolist()
    assert buffer.nbytes == 17 * (4 + 3 * 8)


@pytest.mark.parametrize("rule", Buffer.RULES)
def test_state_restores_contents_and_random_numbers(rule):
    one, two = Buffer(9, rule, 3), Buffer(9, rule, 99)
    offer(one, [0, 1, 2] * 5)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for buffer in (one, two):
        offer(buffer, [2, 3] * 4, 100)
    assert torch.equal(one.all().index, two.all().index)
    assert torch.equal(one.draw(4).index, two.draw(4).index)


def test_draw_gives_different_samples_and_no_more_than_there_are():
    buffer = Buffer(5, "reservoir", 0)
    buffer.add(batch([0, 1, 2]))
    assert sorted(buffer.draw(10).index.tolist()) == [0, 1, 2]


def test_bad_settings():
    with pytest.raises(ValueError, match="Did you mean 'reservoir'"):
        Buffer(5, "resevoir")
    with pytest.raises(ValueError, match="nearest valid value is 1"):
        Buffer(0)


def test_a_large_reservoir_keeps_the_same_as_a_sorted_one():
    """The lowest keys stay, however they are found; and places are drawn without repeats, each as often as the others."""
    import numpy as np

    from frostline.core.buffers import Buffer
    from frostline.core.types import Batch

    memory, keys = Buffer(5000, "reservoir", seed=3), np.random.Generator(np.random.PCG64(0))
    memory._keys = np.random.Generator(np.random.PCG64(0))
    every = []
    for start in range(0, 20_000, 500):
        rows = torch.arange(start, start + 500)
        memory.add(Batch(rows[:, None].float(), rows % 7, rows * 0, rows))
        every.append(keys.random(500))
    wanted = np.argsort(np.concatenate(every))[:5000]
    assert sorted(memory.all().index.tolist()) == sorted(wanted.tolist())
    counts = torch.zeros(20_000)
    for _ in range(400):
        drawn = memory.draw(64).index
        assert len(drawn.unique()) == 64
        counts[drawn] += 1
    held = counts[memory.all().index]
    expected = 400 * 64 / 5000
    assert abs(float(held.mean()) - expected) < 1e-6
    assert float(held.var()) == pytest.approx(expected * (1 - 64 / 5000), rel=0.15)  # binomial: nobody is preferred


def test_gss_by_hand():
    """Algorithm 2 of the paper, said again sample by sample."""
    rng = np.random.default_rng(0)
    buffer = Buffer(20, "gss", 3)
    dice = np.random.Generator(np.random.PCG64())
    dice.bit_generator.state = buffer._keys.bit_generator.state
    held: list[int] = []
    scores: list[float] = []
    for first in range(0, 200, 8):
        cosines = rng.uniform(-1, 1, 8)
        buffer.add(batch([0] * 8, first), cosines)
        for number, c in enumerate(cosines + 1):
            if len(held) < 20:
                held.append(first + number)
                scores.append(c)
            elif c < 1:
                i = dice.choice(20, p=np.array(scores) / sum(scores))
                if dice.random() < scores[i] / (scores[i] + c):
                    held[i], scores[i] = first + number, c
    assert buffer.all().index.tolist() == held
    assert np.allclose(buffer.keys, scores)
    assert np.mean(scores) < 0.6  # unlike each other, where chance is 1
    again = Buffer(20, "gss", 0)
    again.load_state_dict(copy.deepcopy(buffer.state_dict()))
    for one in (buffer, again):
        one.add(batch([0] * 8, 300), np.full(8, -0.9))
    assert torch.equal(buffer.all().index, again.all().index)


@pytest.mark.parametrize("rule", ["class_balanced", "ring", "herding"])
def test_rules_by_class_keep_the_same_as_one_that_sorts_everything(rule):
    """Kept are the lowest by place within the class, then by key; a memory that is restored midway goes on alike."""
    rng = np.random.default_rng(0)
    for trial in range(60):
        capacity = int(rng.integers(1, 25))
        buffer, held = Buffer(capacity, rule, trial), []  # key, class, id
        draws = np.random.Generator(np.random.PCG64(derive(trial, "buffer-keys")))
        for arrival in range(int(rng.integers(2, 20))):
            labels = rng.integers(0, 1 + int(rng.integers(1, 8)), int(rng.integers(0, 15)))
            came = np.arange(100 * arrival, 100 * arrival + len(labels))
            new = {"ring": -came, "herding": rng.random(len(labels)), "class_balanced": draws.random(len(labels))}[rule]
            restored = Buffer(capacity, rule, 0)
            restored.load_state_dict(copy.deepcopy(buffer.state_dict()))
            for each in (buffer, restored):
                each.add(batch(labels, 100 * arrival), new if rule == "herding" else None)
            assert buffer.all().index.tolist() == restored.all().index.tolist()
            buffer = restored
            held += zip(new.tolist(), labels.tolist(), came.tolist(), strict=True)
            places = [sum(other[1] == label and other[0] < key for other in held) for key, label, _ in held]
            held = [row for _, row in sorted(zip(places, held, strict=True), key=lambda pair: (pair[0], pair[1][0]))]
            held = held[:capacity]
            assert sorted(buffer.all().index.tolist()) == sorted(row[2] for row in held)


def test_a_memory_by_class_is_restored_before_it_holds_anything():
    for rule in ("class_balanced", "ring"):
        buffer = Buffer(4, rule, 0)
        buffer.load_state_dict(Buffer(4, rule, 0).state_dict())
        buffer.add(batch([0, 1, 1]))
        assert len(buffer) == 3
