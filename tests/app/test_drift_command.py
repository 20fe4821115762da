"""`frostline drift`, as a stranger calls it."""

import json

import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

from frostline.app.cli import app
from frostline.app.config import compose_config
from frostline.app.drift import drift
from frostline.app.job import execute
from frostline.core.checks import UsageError

QUIET = ["tracking=none", "figures=[]", "cost.reference_steps=0", "trainer.threads=1"]


def market(rows=1200, moved_after=900, seed=0):
    """Return a table by time, whose demand is another from some row on."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    y = (x.sum(1) > 0).astype(int)
    x[moved_after:, 1] += 3
    return pandas.DataFrame(x, columns=["price", "demand", "transfer"]).assign(up=y)


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drift")
    market().to_csv(folder / "market.csv", index=False)
    cfg = compose_config(
        *QUIET, "strategy=frozen", "stream=table", f"stream.path={folder / 'market.csv'}", "stream.label=up",
        "stream.task_column=row", "stream.tasks=4", "stream.prequential=true", "model=mlp", "model.hidden=[16]",
        "optimizer=adamw", "optimizer.lr=0.01", "trainer.epochs=5",
    )  # fmt: skip
    execute(cfg, folder / "run")
    return folder


def test_the_task_in_which_it_changed_is_named(table_run):
    done = CliRunner().invoke(app, ["drift", str(table_run / "run"), "--learned", "1"])
    assert done.exit_code == 0, done.output
    found = json.loads((table_run / "run" / "drift.json").read_text())
    assert [task["suggestion"] for task in found["tasks"]] == ["nothing", "nothing", "selector=everything"]
    assert "1 of 3 differ" in done.output
    assert (table_run / "run" / "drift.png").stat().st_size > 5000
    before = drift(table_run / "run", learned=1, against="previous")
    assert [task["differences"]["inputs"]["moved"] for task in before["tasks"]] == [False, False, True]


def test_rows_that_came_later_on_the_scale_of_the_others(table_run):
    for name, data in (("same", market(300, 300, seed=1)), ("moved", market(300, 0, seed=1))):
        data.to_csv(table_run / f"{name}.csv", index=False)
    same = drift(table_run / "run", [str(table_run / "same.csv")], learned=3)
    moved = drift(table_run / "run", [str(table_run / "moved.csv")], learned=3)
    assert same["tasks"][0]["suggestion"] == "nothing"
    assert moved["tasks"][0]["suggestion"] == "selector=everything"
    assert moved["tasks"][0]["samples"] == 300


def test_rows_later_than_those_that_came_later(table_run, tmp_path):
    market(300, 300, seed=1).to_csv(tmp_path / "later.csv", index=False)
    market(300, 0, seed=2).to_csv(tmp_path / "latest.csv", index=False)
    cfg = compose_config(
        *QUIET, "stream=table", f"stream.path={table_run / 'market.csv'}", "stream.label=up", "stream.task_column=row",
        "stream.tasks=2", f"stream.later_path={tmp_path / 'later.csv'}", "model=mlp", "model.hidden=[16]",
        "trainer.epochs=1",
    )  # fmt: skip
    execute(cfg, tmp_path / "run")
    (task,) = drift(tmp_path / "run", [str(tmp_path / "latest.csv")])["tasks"]
    assert task["suggestion"] == "selector=everything"


def test_classes_are_told_among_the_same_ones(tmp_path):
    """The same data again, of the first tasks too, are no news to a class-incremental run."""
    cfg = compose_config(*QUIET, "stream=split_digits", "model=mlp", "model.hidden=[16]", "trainer.epochs=3")
    execute(cfg, tmp_path / "run")
    (task,) = drift(tmp_path / "run", ["stream.tasks=1"])["tasks"]
    assert task["suggestion"] == "nothing"
    with pytest.raises(UsageError, match=r"stream.labl"):
        drift(tmp_path / "run", ["stream.labl=up"])


def test_another_stream_of_the_same_kind(tmp_path):
    cfg = compose_config(
        *QUIET, "stream=rotated_digits", "stream.tasks=1", "model=mlp", "model.hidden=[16]", "trainer.epochs=1"
    )
    execute(cfg, tmp_path / "run")
    (task,) = drift(tmp_path / "run", ["stream.tasks=2", "stream.max_angle=0"])["tasks"][1:]
    assert task["suggestion"] == "nothing"
    (task,) = drift(tmp_path / "run", ["stream.tasks=2"])["tasks"][1:]
    assert task["suggestion"] == "selector=everything"


def test_refusals(table_run, tmp_path):
    run = table_run / "run"
    with pytest.raises(UsageError, match=r"there is no model\.json"):
        drift(tmp_path)
    with pytest.raises(UsageError, match="Expected new data, or --learned"):
        drift(run)
    with pytest.raises(UsageError, match="has no task after these"):
        drift(run, learned=4)
    with pytest.raises(UsageError, match=r"--learned=9"):
        drift(run, learned=9)
    with pytest.raises(UsageError, match="no such file"):
        drift(run, [str(tmp_path / "nowhere.csv")])
    with pytest.raises(UsageError, match=r"expected a file, a folder, or stream.KEY=VALUE"):
        drift(run, ["optimizer.lr=1"])
    with pytest.raises(UsageError, match="another table would be read on a scale of its own"):
        drift(run, [f"stream.path={table_run / 'market.csv'}"], learned=1)
    with pytest.raises(UsageError, match=r"2 files or folders, a.csv, b.csv: expected one"):
        drift(run, ["a.csv", "b.csv"], learned=1)
    market()[["price", "up"]].to_csv(tmp_path / "narrow.csv", index=False)
    with pytest.raises(UsageError, match="no column 'demand'"):
        drift(run, [str(tmp_path / "narrow.csv")], learned=1)
    with pytest.raises(UsageError, match="--against"):
        drift(run, learned=1, against="nothing")
