"""A folder has one owner, data a digest, and signals end a run with a checkpoint; as processes, as a user starts them."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from PIL import Image

from frostline.app.arguments import quoted
from frostline.records import checkpoints, curve, results
from tests.conftest import ROOT

QUICK = (
    "tracking=none", "stream=split_digits", "stream.tasks=2", "model=linear", "trainer.epochs=1", "trainer.threads=1",
    "figures=[]", "cost.reference_steps=0",
)  # fmt: skip
LONG = (*(a for a in QUICK if not a.startswith("trainer.epochs")), "trainer.epochs=500")


def read(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def start(tmp_path):
    """Return a function that starts `python run.py ...` and does not wait; what still runs at the end is killed."""
    with ExitStack() as stack:

        def begin(*arguments):
            run = subprocess.Popen(
                [sys.executable, str(ROOT / "run.py"), *arguments],
                cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.enter_context(run)
            stack.callback(run.kill)
            return run

        yield begin


def wait_for(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)


def began(folder):
    return lambda: (folder / "checkpoint.pt").is_file()


def test_two_runs_at_once_have_a_folder_each(start, tmp_path):
    runs = [start(*QUICK, f"seed={seed}") for seed in (0, 1)]
    assert [run.wait() for run in runs] == [0, 0]
    found = [read(path.parent)["seed"] for path in tmp_path.glob("outputs/*/*/result.json")]
    assert sorted(found) == [0, 1]


def test_a_folder_belongs_to_one_run(cli, start, tmp_path):
    first = start(*LONG[:-1], "trainer.epochs=100000", "hydra.run.dir=a")
    wait_for(began(tmp_path / "a"), "the first run's beginning")
    before = (tmp_path / "a" / ".hydra" / "overrides.yaml").read_text()
    for arguments in ([*QUICK, "hydra.run.dir=a", "seed=1"], ["resume=a"], ["-m", *QUICK, "hydra.sweep.dir=a"]):
        second = cli(tmp_path, *arguments)
        assert second.returncode == 1
        assert re.search(rf"a belongs to process {first.pid} on \S+ now", second.stderr), second.stderr
    assert (tmp_path / "a" / ".hydra" / "overrides.yaml").read_text() == before
    first.kill()
    first.wait()
    other = cli(tmp_path, *QUICK, "hydra.run.dir=a")  # a lock goes with its process
    assert other.returncode == 0, other.stderr


def test_what_is_complete_is_not_overwritten_unasked(cli, tmp_path):
    assert cli(tmp_path, *QUICK, "hydra.run.dir=a").returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    again = cli(tmp_path, *QUICK, "hydra.run.dir=a", "seed=1")
    assert again.returncode == 1
    assert "a holds a complete run. Expected another folder; overwrite=true" in again.stderr
    sweep = cli(tmp_path, "-m", *QUICK, "hydra.sweep.dir=.", "hydra.sweep.subdir=a")
    assert "holds a complete run" in sweep.stderr
    assert {path: path.read_bytes() for path in before} == before
    asked = cli(tmp_path, *QUICK, "hydra.run.dir=a", "seed=1", "overwrite=true")
    assert asked.returncode == 0, asked.stderr
    assert read(tmp_path / "a")["seed"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hydra.run.dir="], "expected the name of a folder"),
        (["hydra.run.dir=file"], r"file: cannot be written \(File exists\)"),
        (["hydra.run.dir=/proc/nowhere"], "/proc/nowhere: cannot be written"),
    ],
)
def test_folders_that_cannot_be(cli, tmp_path, arguments, message):
    (tmp_path / "file").touch()
    done = cli(tmp_path, *QUICK, *arguments)
    assert done.returncode == 1
    assert re.search(message, done.stderr)
    assert "Traceback" not in done.stderr


def test_a_refused_setting_leaves_no_folder(cli, tmp_path):
    assert cli(tmp_path, *QUICK, "stratgy=ewc").returncode == 1
    assert not list(tmp_path.glob("outputs/*/*"))


def test_what_a_kill_left_half_written_goes(cli, tmp_path):
    assert cli(tmp_path, *QUICK, "hydra.run.dir=a").returncode == 0
    left = tmp_path / "a" / ".checkpoint.pt.0a1b2c3d.part"
    left.write_bytes(bytes(100))
    cli(tmp_path, "resume=a")
    assert not left.exists()


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "Ended by SIGTERM"), (signal.SIGINT, 130, "Interrupted")]
)
def test_a_signal_waits_for_a_checkpoint(cli, start, tmp_path, number, code, word):
    """Without one the run would lose all since the last: a minute by default, here the whole task."""
    run = start(*LONG, "hydra.run.dir=a", "trainer.checkpoint_every_s=9999")
    wait_for(lambda: curve.read(tmp_path / "a" / curve.NAME), "the first steps")
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == code
    assert f"{word}. Go on from the last checkpoint with: " in errors
    assert "Traceback" not in errors
    progress = checkpoints.load(tmp_path / "a")["progress"]
    assert progress["step"] > 0 or progress["task"] > 0
    assert read(tmp_path / "a")["status"] == "failed"
    if number == signal.SIGINT:
        return
    assert cli(tmp_path, "resume=a", "trainer.checkpoint_every_s=60").returncode == 0
    assert cli(tmp_path, *LONG, "hydra.run.dir=b").returncode == 0
    resumed, whole = (checkpoints.load(tmp_path / name)["model"] for name in ("a", "b"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def images(root, each=4):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(each):
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(root / part / name / f"{i}.png")


def test_a_resume_on_other_data_is_refused(cli, start, tmp_path):
    images(tmp_path / "photos")
    given = [
        "stream=image_folder", "stream.data_root=photos", "stream.tasks=2", "stream.image_size=8", "stream.workers=0",
        *(a for a in LONG if not a.startswith("stream")), "trainer.epochs=100000",
    ]  # fmt: skip
    run = start(*given, "hydra.run.dir=a")
    wait_for(began(tmp_path / "a"), "the beginning")
    run.terminate()
    run.wait()
    digests = read(tmp_path / "a")["data"]
    assert set(digests) == {"train", "test", "set"}
    extra = tmp_path / "photos" / "train" / "cat" / "more.png"
    Image.new("RGB", (8, 8)).save(extra)
    refused = cli(tmp_path, "resume=a")
    assert refused.returncode == 1
    assert "the training data of image_folder are not those that the run began with" in refused.stderr
    assert read(tmp_path / "a")["data"] == digests
    told = start("resume=a", "checkpoint.other_data=true")
    assert any("it goes on with what is there now" in line for line in told.stdout)


def test_a_setting_may_be_longer_than_a_files_name():
    seeds = f"trainer.seeds=[{','.join(map(str, range(200)))}]"
    assert quoted(seeds) == seeds


def test_a_flag_that_is_none_of_hydras(cli, tmp_path):
    done = cli(tmp_path, "--epochs", "3")
    assert done.returncode == 1
    assert "--epochs: settings are written key=value" in done.stderr
    assert "trainer.epochs=3" in done.stderr


def test_a_terminal_without_umlauts_ends_nothing(cli, tmp_path):
    done = cli(tmp_path, *QUICK, "hydra.run.dir='L\u00e4ufe'", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "L\u00e4ufe")["status"] == "complete"
    compared = cli(tmp_path, "compare", "L\u00e4ufe", program="module", PYTHONIOENCODING="ascii")
    assert compared.returncode == 0, compared.stderr
    assert "linear" in compared.stdout or "finetune" in compared.stdout


def test_a_sweep_whose_folders_are_named_by_their_settings_goes_on(cli, tmp_path):
    sweep = ["-m", *QUICK, "seed=0,1", "hydra.sweep.dir=s", "hydra.sweep.subdir=${hydra.job.override_dirname}"]
    assert cli(tmp_path, *sweep).returncode == 0
    folders = sorted(path.parent for path in (tmp_path / "s").glob("*/result.json"))
    assert len(folders) == 2
    again = cli(tmp_path, "resume=s", "trainer.checkpoint_every_s=5")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is already complete") == 2
    assert sorted(path.parent for path in (tmp_path / "s").glob("*/result.json")) == folders


def test_a_setting_that_only_the_runs_own_stream_has_may_be_given_on_a_resume(cli, tmp_path):
    images(tmp_path / "photos")
    given = [
        "stream=image_folder", "stream.data_root=photos", "stream.tasks=2", "stream.image_size=8",
        *(a for a in QUICK if not a.startswith("stream")),
    ]  # fmt: skip
    assert cli(tmp_path, *given, "hydra.run.dir=a").returncode == 0
    again = cli(tmp_path, "resume=a", "stream.workers=1")
    assert again.returncode == 0, again.stderr
    assert "already complete" in again.stdout


def test_a_run_that_was_ended_before_it_began_begins(cli, tmp_path):
    assert cli(tmp_path, *QUICK, "hydra.run.dir=a", "seed=4").returncode == 0
    wanted = read(tmp_path / "a")
    for path in (tmp_path / "a").iterdir():
        if path.is_file():
            path.unlink()
    begun = cli(tmp_path, "resume=a")
    assert begun.returncode == 0, begun.stderr
    assert "was ended before it began; it begins now" in begun.stdout
    assert read(tmp_path / "a")["accuracy"] == wanted["accuracy"]
    assert read(tmp_path / "a")["seed"] == 4


def test_a_run_killed_while_its_settings_were_written_is_told_to_start_again(cli, tmp_path):
    (tmp_path / "a" / ".hydra").mkdir(parents=True)
    (tmp_path / "a" / ".hydra" / "config.yaml").write_text("seed: 0\ntrainer:\n  epo")
    done = cli(tmp_path, "resume=a")
    assert done.returncode == 1
    assert "ended before its settings were written, and nothing was learned. Start it again" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_was_ended_between_its_last_checkpoint_and_its_result_is_completed(cli, tmp_path):
    """A full disk or a kill there leaves nothing to learn, but everything to write."""
    for seeds in ([], ["trainer.seeds=[0,1]"]):
        assert cli(tmp_path, *QUICK, *seeds, "hydra.run.dir=a", "overwrite=true").returncode == 0
        folders = [path.parent for path in (tmp_path / "a").rglob("checkpoint.pt")]
        wanted = {folder: read(folder)["accuracy"] for folder in folders}
        for folder in folders:
            content = read(folder)
            results.write(folder, {k: v for k, v in content.items() if k != "checksum"} | {"status": "running"})
            (folder / "model.safetensors").unlink()
        again = cli(tmp_path, "resume=a")
        assert again.returncode == 0, again.stderr
        for folder, accuracy in wanted.items():
            assert (read(folder)["status"], read(folder)["accuracy"]) == ("complete", accuracy)
            assert (folder / "model.safetensors").is_file()
        shutil.rmtree(tmp_path / "a")
