"""The learning curve: in a file, from Python, in a figure; a resumed run goes on with it."""

import math

import pytest

import frostline
from frostline.records import curve
from frostline.report.figures import learning_curve


def test_every_task_ends_with_a_row_and_costs_add_up(make_run, tmp_path):
    from frostline.loop.training import run_stream

    run, own = make_run(epochs=3, batch_size=16), curve.Curve(tmp_path)
    run.observers = [own]
    run_stream(run)
    rows = curve.read(tmp_path / curve.NAME)
    assert rows == own.rows
    ends = {row["task"]: row for row in rows}
    steps = [row.steps for row in run.meter.rows if row.phase == "train"]
    assert [ends[t]["steps_taken"] for t in range(5)] == [sum(steps[: t + 1]) for t in range(5)]
    assert [(ends[t]["epoch"], ends[t]["rate"]) for t in range(5)] == [(2, 0.05)] * 5
    assert all(row["gradient_norm"] > 0 and math.isfinite(row["loss"]) for row in rows)
    learned = [row for row in run.meter.rows if row.phase in ("train", "select", "consolidate")]
    assert rows[-1]["flops"] == sum(row.flops for row in learned)


def test_the_norm_is_that_of_the_gradients(make_run):
    import torch

    from frostline.loop.training import run_stream

    run, own, norms = make_run(epochs=1), curve.Curve(), []
    run.observers = [own]
    step = torch.optim.SGD.step

    def watched(self, *args, **kwargs):
        norms.append(float(torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()))
        return step(self, *args, **kwargs)

    torch.optim.SGD.step = watched
    try:
        run_stream(run)
    finally:
        torch.optim.SGD.step = step
    for row in own.rows:
        assert row["gradient_norm"] == pytest.approx(norms[row["steps_taken"] - 1], rel=1e-5)


def test_a_resumed_run_goes_on_with_the_lines_up_to_its_checkpoint(make_run, tmp_path):
    from frostline.loop.training import run_stream

    run = make_run(epochs=1)
    run.observers = [curve.Curve(tmp_path)]
    run_stream(run)
    whole = (tmp_path / curve.NAME).read_text()
    with (tmp_path / curve.NAME).open("a") as f:
        f.write("4,0,0,7,99")  # cut short
    again = make_run(epochs=1)
    again.meter.load_state_dict(run.meter.state_dict())
    again.meter.rows = [row for row in again.meter.rows if row.task in (None, 0, 1)]
    resumed = curve.Curve(tmp_path)
    resumed.started(again)
    assert {row["task"] for row in resumed.rows} == {0, 1}
    assert whole.startswith((tmp_path / curve.NAME).read_text())


def test_from_python_and_in_a_figure(tmp_path):
    from torch import nn

    result = frostline.run(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "split_digits", epochs=1, progress=False)
    assert list(result.curve.columns) == list(curve.COLUMNS)
    assert result.curve.task.tolist() == [0, 1, 2, 3, 4]
    figure = result.plot_curve()
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "learning rate", "gradient norm"]
    figure.savefig(tmp_path / "curve.png")
    result.save(tmp_path)
    assert len(curve.read(tmp_path / curve.NAME)) == 5
    assert learning_curve(result.content, result.rows).axes


def test_a_damaged_line_is_left_out(tmp_path, make_run):
    from frostline.loop.training import run_stream

    run = make_run(epochs=3, batch_size=16)
    run.observers = [curve.Curve(tmp_path)]
    run_stream(run)
    path = tmp_path / curve.NAME
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2] ^= 0x80
    before = curve.read(path)
    path.write_bytes(octets)
    assert len(curve.read(path)) in (len(before), len(before) - 1)
