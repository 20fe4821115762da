"""Own data: fewer samples of each class, and a share held out to choose hyperparameters on."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from frostline.core.checks import UsageError
from frostline.streams.keeping import keep
from frostline.streams.own import from_tasks
from frostline.streams.table import from_table
from frostline.streams.text_domains import language
from frostline.streams.text_instructions import instructions
from frostline.streams.text_table import text_table
from tests.conftest import in_process


def two_tasks():
    x = torch.arange(120.0)[:, None]
    y = torch.arange(120) % 4
    first = y < 2
    return from_tasks([((x[m], y[m]), (x[m], y[m])) for m in (first, ~first)])


def test_a_share_of_each_class_is_held_out_and_nothing_is_on_both_sides():
    for task in keep(two_tasks(), validation=0.2, seed=3).tasks:
        assert task.validation is not None
        assert torch.equal(task.validation.labels.bincount(), task.validation.labels.bincount().clamp(max=6))
        assert len(task.validation) == 12
        assert len(task.train) == 48
        assert len(task.test) == 60
        seen = [{float(v) for b in source.batches(7) for v in b.x[:, 0]} for source in (task.train, task.validation)]
        assert not seen[0] & seen[1]
        assert len(seen[0] | seen[1]) == 60
        for source in (task.train, task.validation):
            assert all(int(b.x[i, 0]) % 4 == int(b.y[i]) for b in source.batches(7) for i in range(len(b)))


def test_so_many_of_each_class_are_kept_by_seed():
    chosen = []
    for seed in (0, 0, 1):
        kept = keep(two_tasks(), samples_per_class=5, test_samples_per_class=3, seed=seed)
        chosen.append([batch.index.tolist() for task in kept.tasks for batch in task.train.batches(99)])
    assert chosen[0] == chosen[1] != chosen[2]
    kept = keep(two_tasks(), samples_per_class=5, test_samples_per_class=3)
    assert [t.train.labels.bincount(minlength=4).tolist() for t in kept.tasks] == [[5, 5, 0, 0], [0, 0, 5, 5]]
    assert [t.test.labels.bincount(minlength=4).tolist() for t in kept.tasks] == [[3, 3, 0, 0], [0, 0, 3, 3]]


def test_a_class_of_one_sample_is_learned_from():
    stream = from_tasks([((torch.rand(3, 2), [0, 0, 1]), (torch.rand(2, 2), [0, 1]))])
    task = keep(stream, validation=0.5).tasks[0]
    assert sorted(task.train.labels.tolist()) == [0, 1]


def test_tables_texts_and_languages_hold_a_share_out(tmp_path: Path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=200), "b": rng.normal(size=200), "label": rng.integers(0, 4, 200)})
    table = from_table(frame, tasks=2, validation=0.25, samples_per_class=20)
    assert all(len(t.train) == 30 and t.validation and len(t.validation) == 10 for t in table.tasks)
    rows = [{"text": f"word {i} of many", "label": "abcd"[i % 4]} for i in range(80)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = text_table(str(tmp_path / "t.jsonl"), tasks=2, validation=0.25, test_samples_per_class=2)
    assert all(t.validation and 6 <= len(t.validation) <= 8 and len(t.test) == 4 for t in texts.tasks)

    (tmp_path / "d").mkdir()
    for name in ("x", "y"):
        lines = [f"{name} says {' '.join(rng.choice(['up', 'down', 'left'], 9))} {i}" for i in range(300)]
        (tmp_path / "d" / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": line * 3}) for line in lines))
    whole, part = (language(str(tmp_path / "d"), length=32, validation=v) for v in (0.0, 0.2))
    for a, b in zip(whole.tasks, part.tasks, strict=True):
        assert b.validation is not None
        assert a.validation is None
        assert len(b.train) + len(b.validation) == len(a.train)
        assert len(b.validation) == int(0.2 * len(a.train))
        assert torch.equal(torch.cat([b.train.labels, b.validation.labels]), a.train.labels)  # the last windows

    pairs = [{"prompt": f"what is {i}", "completion": f"it is {i * 7}"} for i in range(60)]
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "s.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    asked = instructions(str(tmp_path / "p"), length=32, validation=0.25).tasks[0]
    assert asked.validation is not None
    assert len(asked.validation) == (len(asked.validation) + len(asked.train)) // 4


def test_regression_holds_out_a_share_and_has_no_classes(tmp_path: Path):
    frame = pd.DataFrame({"a": np.arange(40.0), "t": [0, 1] * 20, "label": np.linspace(0, 1, 40) ** 2})
    stream = from_table(frame, task_column="t", objective="regression", validation=0.25)
    assert all(t.validation and len(t.validation) == 4 for t in stream.tasks)
    with pytest.raises(UsageError, match="no classes of samples"):
        from_table(frame, task_column="t", objective="regression", samples_per_class=3)


def test_a_run_chooses_on_what_was_held_out(tmp_path: Path):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 200)
    pd.DataFrame({"a": y + rng.normal(size=200) / 9, "b": y % 2, "label": y}).to_csv(tmp_path / "t.csv", index=False)
    code, error = in_process(
        "stream=table", f"stream.path={tmp_path / 't.csv'}", "stream.tasks=2", "stream.validation=0.2", "model=mlp",
        "trainer.evaluate_on=validation", "trainer.epochs=1", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert code == 0, error
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "complete"
