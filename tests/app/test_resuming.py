"""A run of an earlier version goes on: settings that came since take their defaults."""

import torch

from frostline.records import checkpoints
from frostline.records.results import read
from tests.conftest import in_process


def test_settings_that_came_since_take_their_defaults(tmp_path, capsys):
    arguments = ("stream=split_digits", "stream.samples_per_class=10", "model=mlp", "trainer.epochs=1")
    code, error = in_process(*arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 0, error
    before, path = read(tmp_path / "run"), tmp_path / "run" / checkpoints.NAME
    state = torch.load(path, weights_only=True)
    del state["config"]["trainer"]["answers"], state["config"]["cost"]["device"]
    state["settings"] = checkpoints._digest(state["config"])
    torch.save(state, path)
    code, error = in_process(f"resume={tmp_path / 'run'}")
    assert code == 0, error
    assert read(tmp_path / "run")["accuracy"] == before["accuracy"]
    state["config"]["trainer"]["epochs"] = 7  # changed by hand
    torch.save(state, path)
    code, error = in_process(f"resume={tmp_path / 'run'}")
    assert code == 1
    assert "were changed since it was written" in error
