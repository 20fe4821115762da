"""Files that were damaged, changed or written by somebody else: one message, and nothing is called."""

import json
import os
import random
import shutil

import pytest
import torch
from omegaconf import OmegaConf

from frostline.app.config import compose_config
from frostline.app.targets import check_stored, refuse_foreign
from frostline.core.checks import UsageError
from frostline.models import mlp
from frostline.records import checkpoints, results, weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A complete run as the command line leaves it."""
    from frostline.app.job import execute

    place = tmp_path_factory.mktemp("run")
    cfg = compose_config(
        "stream=split_digits", "stream.tasks=2", "model=mlp", "model.hidden=[16]", "strategy=replay", "trainer.epochs=1",
        "tracking=none", "figures=[]", "cost.reference_steps=0", "optimizer=adam",
    )  # fmt: skip
    threads = torch.get_num_threads()
    execute(cfg, place, alone=False)
    torch.set_num_threads(threads)
    return place


@pytest.fixture
def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    return tmp_path / "run"


def flip(path, place, bit=3):
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1 << bit
    path.write_bytes(raw)


READERS = {
    checkpoints.NAME: lambda folder: checkpoints.load(folder),
    results.NAME: lambda folder: results.read(folder),
    weights.NAME: lambda folder: weights.load_into(mlp((1, 8, 8), 10, hidden=[16]), str(folder)),
}


@pytest.mark.parametrize("name", READERS)
def test_the_files_are_read_as_they_were_written(name, folder):
    READERS[name](folder)


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_noticed_wherever_it_is(name, copied):
    """In a checkpoint but for the archive's own padding and dates, which nobody reads."""
    path, draw = copied / name, random.Random(0)
    whole = path.read_bytes()
    before = READERS[name](copied)
    for place in draw.sample(range(len(whole)), 40):
        flip(path, place, draw.randrange(8))
        try:
            found = READERS[name](copied)
        except (UsageError, ValueError):
            pass
        else:
            assert name != weights.NAME or found == before
            assert repr(found) == repr(before), f"byte {place} of {name}"
        path.write_bytes(whole)


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_was_cut_short_or_emptied_is_refused(name, copied):
    whole = (copied / name).read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        (copied / name).write_bytes(whole[:length])
        with pytest.raises((UsageError, ValueError)):
            READERS[name](copied)


class Code:
    def __reduce__(self):
        return os.system, ("touch called",)


def test_a_pickle_with_code_is_not_run(copied, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": checkpoints.FORMAT, "model": Code()}, copied / checkpoints.NAME)
    with pytest.raises(UsageError, match="damaged or was not written by frostline") as caught:
        checkpoints.load(copied)
    assert "weights_only" not in str(caught.value)  # torch's advice to run it
    assert not (tmp_path / "called").exists()


def test_a_checkpoint_without_some_of_its_parts_is_refused(copied):
    state = torch.load(copied / checkpoints.NAME, weights_only=True)
    for key in checkpoints.KEYS:
        torch.save({k: v for k, v in state.items() if k != key}, copied / checkpoints.NAME)
        with pytest.raises(UsageError, match=f"lacks '{key}'"):
            checkpoints.load(copied)


FOREIGN = (
    "pathlib.Path.touch", "os.system", "frostline.app.job.os.system", "frostline.core.files.Path", "builtins.exec",
    "frostline.app.launch.main",  # a program of ours can be told to call anything
)  # fmt: skip


@pytest.mark.parametrize("target", FOREIGN)
def test_what_a_stored_configuration_names_is_not_called(target, folder):
    given = compose_config("stream=split_digits", "model=mlp")
    stored = OmegaConf.create(checkpoints.load(folder)["config"])
    check_stored(stored, given, "here")
    stored.optimizer = {"_target_": target}
    with pytest.raises(UsageError, match=r"here names .*, which is none of frostline's"):
        check_stored(stored, given, "here")
    stored.model = {"_target_": "frostline.models.mlp", "deeper": [{"_target_": target}]}
    with pytest.raises(UsageError, match="which is none of frostline's"):
        check_stored(stored, given, "here")
    with pytest.raises(UsageError, match="say so"):
        refuse_foreign({target}, "here", "say so")


def test_what_there_is_not_is_named():
    with pytest.raises(UsageError, match=r"frostline\.strategies\.base has no nowhere"):
        refuse_foreign({"frostline.strategies.base.nowhere"}, "here", "say so")


def test_a_method_of_ones_own_is_named_on_the_command_line_again(folder):
    given = compose_config("stream=split_digits", "model=mlp")
    stored = OmegaConf.create(checkpoints.load(folder)["config"])
    stored.strategy = {"mine": {"_target_": "mine.L2"}}
    with pytest.raises(UsageError, match="name it as when the run was started"):
        check_stored(stored, given, "here")
    OmegaConf.set_struct(given, False)
    given.strategy = {"mine": {"_target_": "mine.L2"}}
    check_stored(stored, given, "here")


@pytest.mark.parametrize(
    ("change", "message"), [("more", r"holds trainer\.odd"), ("less", r"lacks trainer\.batch_size")]
)
def test_settings_that_come_or_go_are_refused(change, message, folder):
    """A default that silently took the place of what the run began with would be another run."""
    stored = checkpoints.load(folder)["config"]
    if change == "more":
        stored["trainer"]["odd"] = 1
    else:
        del stored["trainer"]["batch_size"]
    with pytest.raises(UsageError, match=message):
        check_stored(OmegaConf.create(stored), compose_config("stream=split_digits"), "here")


@pytest.mark.parametrize("key", results.REQUIRED)
def test_a_result_with_a_part_missing_or_of_another_type_is_left_out_alone(key, folder, copied, tmp_path, capsys):
    from frostline.report.console import wide_console
    from frostline.report.finding import find_runs

    content = json.loads((copied / results.NAME).read_text())
    del content["checksum"]
    for wrong in (None, 3.5):
        changed = {k: v for k, v in content.items() if k != key} | ({} if wrong is None else {key: wrong})
        (copied / results.NAME).write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=f"has no {key}, or one of another type"):
            results.read(copied)
    assert len(find_runs([folder, copied], wide_console())) == 1
    assert "left out" in capsys.readouterr().out
