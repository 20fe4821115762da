"""A dry run says what the run will cost."""

import tempfile

import pytest

from frostline.app.config import compose_config, expand
from frostline.app.rehearse import rehearse
from frostline.records import results
from tests.conftest import in_process

SMALL = (
    "stream=split_digits", "stream.tasks=3", "stream.classes_per_task=2", "trainer.epochs=4", "trainer.batch_size=16",
    "tracking=none", "figures=[]", "cost.reference_steps=0", "trainer.threads=1", "checkpoint.delta=false",
)  # fmt: skip
LANGUAGE = (
    "stream=language", "stream.tasks=[python,cpp]", "stream.held_out=[docstrings]", "stream.length=32", "model=decoder",
    "stream.tokens_per_task=6000", "stream.test_tokens=2000", "model.width=32", "model.depth=2", "model.hidden=64",
    "trainer.epochs=2", "trainer.batch_size=8", *SMALL[5:],
)  # fmt: skip


def rehearsed_run(settings):
    cfg = compose_config(*settings)
    expand(cfg)
    return rehearse(cfg)


@pytest.mark.parametrize(
    "settings",
    [
        (*SMALL, "model=mlp"),
        (*SMALL, "model=cnn", "strategy=partial", "selector.warmup_tasks=1"),
        (*SMALL, "model=mlp", "strategy=[replay,ewc]", "strategy.replay.capacity=10"),
        (*SMALL, "model=mlp", "strategy=lwf", "trainer.max_steps=20"),
        (*SMALL, "model=mlp", "strategy=partial", "selector=lisa", "selector.interval=3"),
        (*SMALL, "model=mlp", "strategy=joint", "trainer.seeds=[4,5]"),
        (*LANGUAGE, "strategy=partial", "selector=mlp_gate_up", "selector.warmup_tasks=0"),
        (*LANGUAGE, "strategy=replay", "strategy.replay.capacity=8", "trainer.loss_in_pieces=on"),
    ],
    ids=lambda settings: " ".join(s for s in settings if s.startswith(("strategy", "model=", "selector="))),
)
def test_operations_steps_and_samples_are_those_of_the_run(settings, tmp_path, capsys):
    rehearsed = rehearsed_run(settings)
    assert "Learning will take" in capsys.readouterr().out
    code, said = in_process(*settings, f"hydra.run.dir={tmp_path}")
    assert not code, said
    folder = tmp_path / "seed_4" if (tmp_path / "seed_4").is_dir() else tmp_path
    real = [row for row in results.read(folder)["ledger"] if row["flops"] or row["steps"]]
    ours = [row for row in rehearsed.meter.rows if row.flops or row.steps]
    assert [(row.task, row.phase, row.steps, row.samples, row.flops) for row in ours] == [
        tuple(row[key] for key in ("task", "phase", "steps", "samples", "flops")) for row in real
    ]


def test_memory_is_that_of_the_run(tmp_path):
    settings = (*SMALL, "model=cnn", "model.channels=[64,128]")
    rehearsed = max(row.peak_memory_bytes for row in rehearsed_run(settings).meter.rows)
    in_process(*settings, f"hydra.run.dir={tmp_path}")
    assert rehearsed == pytest.approx(max(r["peak_memory_bytes"] for r in results.read(tmp_path)["ledger"]), rel=0.1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dry-run", "-m", "seed=0,1"), "--dry-run is for one run that has not begun, not with -m"),
        (("--dry-run", "resume=x"), "--dry-run is for one run that has not begun, not with resume=x"),
        (("--dry-run", "strategy=partail"), "partial"),
        (("--dry-run", *SMALL, "model=decoder"), "needs sequences of token ids"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(flags, message):
    code, said = in_process(*flags)
    assert code == 1
    assert message in said


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    code, said = in_process("--dry-run", *SMALL, "model=mlp", "tracking=wandb", f"hydra.run.dir={tmp_path / 'mine'}")
    assert (code, said) == (0, "")
    assert [path.name for path in tmp_path.rglob("*")] in ([], ["temporary"])


def test_a_method_of_ones_own_is_rehearsed(tmp_path):
    (tmp_path / "strategy").mkdir()
    own = "# @package strategy\nmine:\n  _target_: frostline.strategies.replay.Replay\n  capacity: 7\n"
    (tmp_path / "strategy" / "mine.yaml").write_text(own)
    code, said = in_process(
        "--dry-run", "--config-dir", str(tmp_path), "strategy=mine", *(s for s in SMALL if "track" not in s)
    )
    assert (code, said) == (0, "")
