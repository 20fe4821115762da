"""The programs as processes, as a user starts them."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pytest
import torch
from omegaconf import OmegaConf

from frostline.costs.meter import LEARNING
from frostline.loop.training import run_stream
from frostline.records import checkpoints
from frostline.report import terminal
from frostline.streams.datasets import DEBIAN_FASHION_MNIST
from tests.conftest import ROOT, in_process, wandb_records

QUICK = ("tracking=none", "stream=split_digits", "model=mlp", "model.hidden=[32]", "trainer.epochs=1")
NO_NUMBER = {"seconds", "energy_joules", "peak_memory_bytes", "usd", "co2e_kg"}


def only_run(folder):
    return next(iter(folder.glob("outputs/*/*")))


def read(folder):
    return json.loads((folder / "result.json").read_text())


def same(a, b):
    """Compare results in all but what a clock or the memory decides."""
    assert a["accuracy"] == b["accuracy"]
    assert a["metrics"] == b["metrics"]
    for x, y in zip(a["ledger"], b["ledger"], strict=True):
        assert {k: v for k, v in x.items() if k not in NO_NUMBER} == {k: v for k, v in y.items() if k not in NO_NUMBER}
    assert a["full_finetuning"]["flops"] == b["full_finetuning"]["flops"]


def test_a_run_leaves_what_the_contract_says(cli, tmp_path):
    done = cli(tmp_path, *QUICK, "model.hidden=[32,32]", "strategy=partial", "seed=3", "cost.price_per_hour=1.5")
    assert done.returncode == 0, done.stderr
    for text in (
        "Test accuracy after each task",
        "average accuracy",
        "The bill",
        "Full fine-tuning of the same batches",
        "outputs",
    ):
        assert text in done.stdout
    folder = only_run(tmp_path)
    content = read(folder)
    assert content["schema"] == "frostline.result/2"
    assert content["status"] == "complete"
    assert content["seed"] == content["config"]["seed"] == 3
    assert {"versions", "device_name", "cores", "git_commit"} <= set(content["environment"])
    assert content["stream"]["scenario"] == "class"
    assert len(content["accuracy"]) == 6
    assert set(content["metrics"]) == {
        "average_accuracy", "average_incremental_accuracy", "learning_accuracy", "backward_transfer",
        "forward_transfer", "forgetting", "intransigence", "worst_case_accuracy",
        "anytime_accuracy", "stability_gap", "worst_case_within", "task_aware_accuracy", "negative_flip_rate",
        "prequential_accuracy", "held_out_change", "held_out_loss_rise", "output_drift",
    }  # fmt: skip
    row = content["ledger"][-1]
    assert {
        "task", "phase", "steps", "samples", "flops", "seconds", "energy_joules", "energy_source", "peak_memory_bytes",
        "stored_bytes", "trainable_parameters", "usd", "co2e_kg",
    } == set(row)  # fmt: skip
    assert content["totals"]["flops"] == sum(r["flops"] for r in content["ledger"])
    assert content["totals"]["usd"] == pytest.approx(content["totals"]["seconds"] / 3600 * 1.5)
    assert content["full_finetuning"]["flops_ratio"] < 1
    assert (folder / "ledger.csv").read_text().count("\n") == len(content["ledger"]) + 1
    assert (folder / "accuracy.csv").read_text().startswith("after,")
    for figure in ("accuracy_matrix", "accuracy_against_cost"):
        assert (folder / "figures" / f"{figure}.png").stat().st_size > 5000
    assert (folder / "checkpoint.pt").is_file()


def test_kill_and_resume_equal_uninterrupted(cli, tmp_path):
    """kill -9 in the middle of a task; weights, metrics and FLOPs end bit for bit as without it."""
    arguments = [
        "tracking=none", "stream=split_fashion_mnist_mini", "model=cnn", "strategy=[replay,ewc]",
        "strategy.ewc.strength=10.0", "strategy.ewc.samples=50", "selector=last_k", "trainer.epochs=12",
    ]  # fmt: skip
    whole = cli(tmp_path, *arguments, "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *arguments, "trainer.checkpoint_every_s=0.1",
         "checkpoint.delta=true", "hydra.run.dir=killed"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    path, position, deadline = tmp_path / "killed" / "checkpoint.pt", [0, 0], time.time() + 120
    while not (position[0] >= 1 and position[1] > 0):
        assert time.time() < deadline
        assert process.poll() is None, "the run was over before it could be killed"
        time.sleep(0.02)
        if path.exists():
            progress = torch.load(path, weights_only=True)["progress"]
            position = [progress["task"], progress["step"]]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read(tmp_path / "killed")["status"] == "running"
    resumed = cli(tmp_path, "resume=killed")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on at task" in resumed.stdout
    assert not (tmp_path / "outputs").exists()
    same(read(tmp_path / "whole"), read(tmp_path / "killed"))
    assert len(list((tmp_path / "killed").glob("base-*.pt"))) == 1
    states = [checkpoints.load(tmp_path / f)["model"] for f in ("whole", "killed")]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    again = cli(tmp_path, "resume=killed")
    assert again.returncode == 0
    assert "already complete" in again.stdout


def test_resume_of_another_config_or_a_damaged_checkpoint(cli, tmp_path):
    assert cli(tmp_path, *QUICK, "seed=3", "strategy=replay", "hydra.run.dir=a").returncode == 0
    same_again = cli(tmp_path, "resume=a", "strategy=replay", "tracking=none", "trainer.epochs=1")
    assert "already complete" in same_again.stdout, same_again.stderr
    before = {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file() and p.name != ".lock"}
    other = cli(tmp_path, "resume=a", "strategy=ewc")
    assert other.returncode == 1
    assert "was started with strategy" in other.stderr
    epochs = cli(tmp_path, "resume=a", "trainer.epochs=7")
    assert "trainer.epochs=1, not 7" in epochs.stderr
    experiment = cli(tmp_path, "resume=a", "experiment=split_fashion_mnist_sgd")
    assert "was started with stream.dataset='digits', not 'fashion_mnist'" in experiment.stderr
    (tmp_path / "a" / "checkpoint.pt").write_bytes(b"PK damaged")
    damaged = cli(tmp_path, "resume=a")
    assert damaged.returncode == 1
    assert "damaged or was not written by frostline" in damaged.stderr
    assert (tmp_path / "a" / "checkpoint.pt").read_bytes() == b"PK damaged"
    after = {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file() and p.name != ".lock"}
    assert {p: c for p, c in before.items() if p.name != "checkpoint.pt"} == {
        p: c for p, c in after.items() if p.name != "checkpoint.pt"
    }
    assert "no such folder" in cli(tmp_path, "resume=nowhere").stderr


def test_sweep_and_compare(cli, tmp_path):
    swept = cli(tmp_path, "-m", *QUICK, "strategy=finetune,replay,cumulative", "seed=0,1", "hydra.sweep.dir=sweep")
    assert swept.returncode == 0, swept.stderr
    assert len(list(tmp_path.glob("sweep/*/result.json"))) == 6
    (tmp_path / "sweep" / "broken").mkdir()
    (tmp_path / "sweep" / "broken" / "result.json").write_text("{")
    compared = cli(tmp_path, "compare", "sweep", "sweep/0", program="module")
    assert compared.returncode == 0, compared.stderr
    assert "left out" in compared.stdout
    rows = list(csv.DictReader((tmp_path / "comparison" / "comparison.csv").read_text().splitlines()))
    assert [(r["configuration"], r["seeds"]) for r in rows] == [("finetune", "2"), ("replay", "2"), ("cumulative", "2")]
    accuracies = [read(tmp_path / "sweep" / str(i))["metrics"]["average_accuracy"] for i in (0, 1)]
    assert float(rows[0]["accuracy_mean"]) == pytest.approx(sum(accuracies) / 2)
    assert rows[0]["intransigence_mean"] != ""  # the cumulative runs are the reference of intransigence
    assert (tmp_path / "comparison" / "accuracy_against_cost.png").stat().st_size > 5000
    nothing = cli(tmp_path, "compare", "nowhere", program="module")
    assert nothing.returncode == 1
    assert "no such folder" in nothing.stderr


def test_wandb_offline_file_holds_the_run(cli, tmp_path):
    done = cli(tmp_path, *QUICK[1:], "strategy=replay", "tracking=wandb", "tracking.tags=[mine]")
    assert done.returncode == 0, done.stderr
    (path,) = only_run(tmp_path).glob("wandb/offline-run-*/run-*.wandb")
    records = list(wandb_records(path))
    started = next(r.run for r in records if r.HasField("run"))
    assert {"mine", "replay"} <= set(started.tags)
    config = {u.key: json.loads(u.value_json) for u in started.config.update}
    assert config["trainer"]["epochs"] == 1
    history = [
        {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}
        for r in records
        if r.HasField("history")
    ]
    content = read(only_run(tmp_path))
    tasks = [entry for entry in history if "task" in entry]
    assert [entry["task"] for entry in tasks] == [0, 1, 2, 3, 4]
    assert {"train/loss", "train/rate", "train/gradient_norm", "train/step"} <= set(history[0])
    assert tasks[4]["cost/flops_so_far"] == sum(r["flops"] for r in content["ledger"] if r["phase"] in LEARNING)
    assert tasks[4]["average_accuracy"] == pytest.approx(content["metrics"]["average_accuracy"])
    assert any("accuracy_matrix" in str(list(h)) and "ledger" in str(list(h)) for h in history)
    summary = {}
    for r in records:
        if r.HasField("summary"):
            summary |= {"/".join(u.nested_key) or u.key: json.loads(u.value_json) for u in r.summary.update}
    assert summary["flops"] == content["totals"]["flops"]


def test_unreachable_wandb_never_stops_a_run(cli, tmp_path):
    done = cli(
        tmp_path, *QUICK[1:], "tracking=wandb", "tracking.mode=online",
        WANDB_MODE="online", WANDB_API_KEY="0" * 40, WANDB_BASE_URL="http://127.0.0.1:9",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "W&B could not start" in done.stdout
    assert "W&B records offline; wandb sync" in done.stdout
    assert list(only_run(tmp_path).glob("wandb/offline-run-*/run-*.wandb"))
    assert read(only_run(tmp_path))["status"] == "complete"


REFUSED = [
    (["stream.tasks=two"], "stream.tasks='two': expected a whole number"),
    (["model=mlp", "model.hidden=400"], "expected a list, such as model.hidden=[400]"),
    (["strategy.ewc.strength=5"], "this run's strategy is finetune, which has no ewc. Expected strategy=ewc"),
    (["strategy=ewc", "strategy.ewc.lambda=3"], "Did you mean 'strength'?"),
    (["strategy=replay", "strategy.replay.mem_size=3"], "Did you mean 'capacity'?"),
    (["optimizer.learning_rate=3"], "Did you mean 'lr'?"),
    (["optimizer.lr=null"], "optimizer.lr=null: expected a number"),
    (["+optimizer.nesterov=true"], "optimizer: Nesterov momentum requires a momentum"),
    (["trainer.threads=100000"], "trainer.threads=100000: expected a finite number"),
    (["strategy=[joint,replay]"], "Replay beside it does nothing"),
    (["trainer.prefix_cache=on"], "selector=everything freezes nothing"),
    (["trainer.seeds=[0,1]", "seed=3"], "those are the seeds. Leave seed out"),
    (["stream.class_order=3"], "expected natural, random, a list"),
    (["strategy.finetune._target_=frostline.strategies.L2"], "frostline.strategies has no L2"),
    (["strategy.finetune._target_=nowhere.L2"], "nowhere cannot be imported (ModuleNotFoundError"),
    (
        ["stream=package_docs", "model=linear", "stream.packages=[rich,numpy]", "stream.tasks=2"],
        "Token ids want a language",
    ),
    (["strategy=ewcc"], "Did you mean 'ewc'?"),
    (["selector=lastk"], "Did you mean 'last_k'?"),
    (["trainer.epoch=3"], "Did you mean 'epochs'?"),
    (["trainer.epochs=many"], "trainer.epochs=many"),
    (["strategy=ewc", "strategy.ewc.strenght=3"], "Did you mean 'strength'?"),
    (["selector=last_k", "selector.k=9"], "The nearest valid value is 3."),
    (["stream.tasks=3"], "The nearest number of tasks that divides them is 2"),
    (["optimizer.lr=nan"], "optimizer.lr=nan: expected a finite number."),
    (["strategy=[replay,replay]"], "each named once"),
    (["figures=[pgn]"], "Did you mean 'png'?"),
    (["selector=[head,last_k]"], "only strategies can be combined"),
    (["strategy=null"], "Expected group=option"),
    (["+foo=1"], "foo: there is no such setting."),
    (["stream=arrays"], "Missing mandatory value: stream.dataset"),
    (["stream=split_mnist", "stream.data_root=nowhere"], "stream.download=true"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_bad_input_is_one_message_before_any_training(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, errors = in_process("tracking=none", *arguments)
    assert code == 1
    assert message in errors
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_every_wrong_run_of_a_sweep_is_named(cli, tmp_path):
    done = cli(tmp_path, "-m", "tracking=none", "seed=0,1", "trainer.epochs=0")
    assert done.returncode == 1
    for number in (0, 1):
        assert f"frostline: run {number}: trainer.epochs=0: expected a finite number >= 1." in done.stderr
    assert "Not every run of the sweep is complete, as said above." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sweep_can_run_several_at_a_time(cli, tmp_path):
    """The same results as one after another, the machine's threads shared out, and a wrong run named by its process."""
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=together")
    together = cli(tmp_path, *QUICK[:-1], "-m", *parallel, "seed=0,1", "trainer.epochs=1,0", PYTHONUNBUFFERED="1")
    assert together.returncode == 1
    for number in (1, 3):
        assert f"frostline: run {number}: trainer.epochs=0: expected a finite number >= 1." in together.stderr
    assert together.stderr.endswith("Not every run of the sweep is complete, as said above.\n")
    assert "Traceback" not in together.stderr
    threads = max(1, joblib.cpu_count() // 2)
    for number, seed in ((0, 0), (2, 1)):
        alone = cli(tmp_path, *QUICK, f"seed={seed}", f"trainer.threads={threads}", "hydra.run.dir=a", "overwrite=true")
        assert alone.returncode == 0, alone.stderr
        one, other = read(tmp_path / "a"), read(tmp_path / "together" / str(number))
        assert other["environment"]["threads"] == threads
        assert one["accuracy"] == other["accuracy"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the children")
def test_a_killed_sweep_takes_its_runs_with_it(tmp_path):
    """Nobody would see them, and whoever resumes one would write into the same folder."""
    command = [sys.executable, str(ROOT / "run.py"), "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    settings = ["tracking=none", "stream=split_digits", "model=mlp", "trainer.epochs=5000", "seed=0,1"]
    sweep = subprocess.Popen([*command, *settings], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("multirun/*/*/*/.hydra"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(5)
        children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children").read_text().split()
        assert len(children) >= 2
    finally:
        sweep.kill()
        sweep.wait()
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_a_killed_sweep_goes_on_as_a_whole(cli, tmp_path):
    """What is complete stays as it is; what had begun goes on, what had not begins; twice."""
    sweep = [*QUICK, "strategy=finetune,replay", "seed=0,1", "hydra.sweep.dir='a folder, killed'"]
    started = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "-m", *sweep], cwd=tmp_path, stdout=subprocess.PIPE
    )
    folder, deadline = tmp_path / "a folder, killed", time.monotonic() + 120
    while not (folder / "1" / "checkpoint.pt").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    started.kill()
    begun = started.communicate()[0].decode()
    assert f"run.py 'resume={folder}'" in begun  # ready for a shell
    first = (folder / "0" / "result.json").read_text()
    assert not (folder / "3" / "checkpoint.pt").exists()
    for threads in ((), ("trainer.checkpoint_every_s=5", "cost.reference_steps=1")):
        again = cli(tmp_path, f"resume={folder.name}", *threads)
        assert again.returncode == 0, again.stderr
        assert f"the run in {folder / '0'} is already complete" in again.stdout
        assert (folder / "0" / "result.json").read_text() == first
        results = [read(folder / str(n)) for n in range(4)]
        assert [r["status"] for r in results] == ["complete"] * 4
        assert [r["seed"] for r in results] == [0, 1, 0, 1]
        assert [list(r["config"]["strategy"]) for r in results] == [["finetune"]] * 2 + [["replay"]] * 2
        assert all(r["config"]["resume"] is None for r in results)
    alone = cli(tmp_path, *QUICK, "strategy=replay", "seed=1", "hydra.run.dir=alone")
    assert alone.returncode == 0, alone.stderr
    assert read(tmp_path / "alone")["accuracy"] == results[3]["accuracy"]


def test_a_sweep_goes_on_with_its_own_settings(cli, tmp_path):
    """Seeds at once in each run, and settings that follow others, which Hydra's record holds as they were typed."""
    sweep = [*QUICK, "strategy=replay", "trainer.seeds=[0,1],[2,3]", "hydra.sweep.dir=s"]
    sweep += ["strategy.replay.batch_size=${trainer.batch_size}", "trainer.batch_size=32"]
    sweep += ["hydra.sweep.subdir=${hydra.job.num}_${trainer.batch_size}"]
    done = cli(tmp_path, "-m", *sweep)
    assert done.returncode == 0, done.stderr
    wanted = [read(tmp_path / "s" / "1_32" / f"seed_{seed}") for seed in (2, 3)]
    record = (tmp_path / "s" / "multirun.yaml").read_text()
    for changed in ("trainer.epochs=7", "seed=4", "hydra.sweep.dir=elsewhere", "trainer.kernels=wrong"):
        refused = cli(tmp_path, "resume=s", changed)
        assert refused.returncode == 1
        assert f"{changed}: a sweep goes on as it was started" in refused.stderr
    assert (tmp_path / "s" / "multirun.yaml").read_text() == record
    shutil.rmtree(tmp_path / "s" / "1_32")  # as if killed before
    again = cli(tmp_path, "resume=s", "trainer.batch_size=32")
    assert again.returncode == 0, again.stderr
    assert f"the run in {tmp_path / 's' / '0_32'} is already complete" in again.stdout
    for result, seed in zip(wanted, (2, 3), strict=True):
        second = read(tmp_path / "s" / "1_32" / f"seed_{seed}")
        assert second["config"] == result["config"]
        assert second["accuracy"] == result["accuracy"]


def test_an_earlier_sweep_in_the_same_folder_is_not_taken_up(cli, tmp_path):
    sweep = [*QUICK, "seed=0,1", "hydra.sweep.dir=s"]
    assert cli(tmp_path, "-m", *sweep).returncode == 0
    shutil.copytree(tmp_path / "s" / "1", tmp_path / "old")
    assert cli(tmp_path, "-m", *sweep, "optimizer.lr=0.2", "overwrite=true").returncode == 0
    wanted = read(tmp_path / "s" / "1")
    shutil.rmtree(tmp_path / "s" / "1")
    (tmp_path / "old").rename(tmp_path / "s" / "1")  # as if killed before the second run
    again = cli(tmp_path, "resume=s")
    assert again.returncode == 0, again.stderr
    assert "holds an earlier run with other settings; this one begins anew" in again.stdout
    assert read(tmp_path / "s" / "1")["config"] == wanted["config"]
    assert read(tmp_path / "s" / "1")["accuracy"] == wanted["accuracy"]


def test_a_diverging_run_says_where_and_keeps_the_checkpoint(cli, tmp_path):
    done = cli(tmp_path, *QUICK, "optimizer.lr=1e20", "trainer.epochs=3", "hydra.run.dir=a")
    assert done.returncode == 1
    assert re.search(r"The loss became \S+ in task \d .* epoch \d, step \d", done.stderr)
    assert read(tmp_path / "a")["status"] == "failed"
    assert "Diverged" in read(tmp_path / "a")["error"]


def test_a_diverging_seed_stops_alone(cli, tmp_path):
    """The others go on from their checkpoints, and end as they would have ended without it."""
    wild = [*QUICK, "strategy=ewc", "strategy.ewc.strength='${oc.decode:1e${seed}}'", "trainer.checkpoint_every_s=1e9"]
    done = cli(tmp_path, *wild, "trainer.seeds=[0,30,1]", "hydra.run.dir=a")
    assert done.returncode == 1
    assert re.search(r"seed_30: The loss became \S+ in task 1 ", done.stderr)
    assert "seed_30: diverged, as said above. The other seeds are complete." in done.stderr
    assert "Traceback" not in done.stderr
    results = {seed: read(tmp_path / "a" / f"seed_{seed}") for seed in (0, 30, 1)}
    assert [r["status"] for r in results.values()] == ["complete", "failed", "complete"]
    fine = cli(tmp_path, *wild, "trainer.seeds=[0,1]", "hydra.run.dir=b")
    assert fine.returncode == 0, fine.stderr
    for seed in (0, 1):
        other = read(tmp_path / "b" / f"seed_{seed}")
        assert other["accuracy"] == results[seed]["accuracy"]
        assert [r["flops"] for r in other["ledger"]] == [r["flops"] for r in results[seed]["ledger"]]


def test_a_new_run_in_an_old_folder_forgets_the_old_checkpoint(cli, tmp_path):
    """Or else a kill before the first checkpoint would go on with the earlier run."""
    done = cli(tmp_path, *QUICK, "hydra.run.dir=a")
    assert done.returncode == 0, done.stderr
    for settings in (["trainer.seeds=[0,1]"], []):
        done = cli(tmp_path, *QUICK, "optimizer.lr=1e20", *settings, "hydra.run.dir=a", "overwrite=true")
        assert done.returncode == 1
        again = cli(tmp_path, "resume=a")  # from before the first task
        assert again.returncode == 1
        assert "The loss became" in again.stderr
        assert "already complete" not in again.stdout


def test_imports_are_left_out_of_garbage_collection_which_then_goes_on(tmp_path):
    script = (
        "import gc; from frostline.app.launch import _import_trainer as prepare; "
        "prepare(); a = gc.get_freeze_count(); own = [[]]; own[0].append(own); prepare(); "
        "print(gc.isenabled(), a, gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    enabled, first, second = done.stdout.split()
    assert enabled == "True"
    assert int(first) > 100_000
    assert int(second) <= int(first)  # what a run makes is collected when the next one begins


def test_list_prints_what_the_files_say(capsys):
    """Brackets are no markup."""
    from frostline.app.listing import show_options

    show_options()
    said = " ".join(capsys.readouterr().out.split())
    assert "strategy=[replay,er_ace]" in said
    assert "schedule=" in said


def test_help_is_quick_and_complete(cli, tmp_path):
    begin = time.perf_counter()
    done = cli(tmp_path, "--help")
    assert done.returncode == 0
    assert "strategy: acil, agem, bic, cls_er, " in done.stdout
    assert time.perf_counter() - begin < 15  # a smoke bound; the figure is in the README
    probe = "import sys; sys.argv = ['run.py', '--help']; import runpy\ntry: runpy.run_path('run.py', run_name='__main__')\n"
    probe += "except SystemExit: pass\nassert 'torch' not in sys.modules and 'wandb' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True, capture_output=True)


def test_list_and_doctor(cli, tmp_path):
    listed = cli(tmp_path, "list", program="module")
    assert "last_k" in listed.stdout
    assert "slim_resnet18" in listed.stdout
    doctor = cli(tmp_path, "doctor", program="module")
    assert doctor.returncode == 0, doctor.stderr
    assert re.search(r"digits +│ 1,347", doctor.stdout)
    assert re.search(r"mnist +│ not found", doctor.stdout)


def test_run_through_the_installed_command(cli, tmp_path):
    done = cli(tmp_path, "run", *QUICK, "hydra.run.dir=a", program="module")
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "a")["status"] == "complete"


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_protocol_on_the_full_fashion_mnist_lands_where_independent_loops_do(cli, tmp_path):
    """Fine-tuning .199 accuracy and .98 forgetting; replay with 500 samples .69 to .76."""
    done = cli(
        tmp_path,
        "-m",
        "experiment=split_fashion_mnist_sgd",
        "tracking=none",
        "strategy=finetune,replay",
        "hydra.sweep.dir=s",
    )
    assert done.returncode == 0, done.stderr
    finetune, replay = (read(tmp_path / "s" / str(i))["metrics"] for i in (0, 1))
    assert finetune["average_accuracy"] == pytest.approx(0.199, abs=0.005)
    assert finetune["forgetting"] == pytest.approx(0.98, abs=0.015)
    assert 0.69 <= replay["average_accuracy"] <= 0.76


def test_several_seeds_at_once(cli, tmp_path):
    quick = ["stream=split_digits", "model=mlp", "model.hidden=[32]", "trainer.epochs=1", "tracking=none"]
    quick += ["figures=[svg,pdf]"]
    done = cli(tmp_path, *quick, "strategy=replay", "trainer.seeds=[3,5]", "hydra.run.dir=both")
    assert done.returncode == 0, done.stderr
    assert "seeds 3, 5 at once" in done.stdout
    assert "mean ± 95 % confidence interval" in done.stdout
    results = {seed: json.loads((tmp_path / "both" / f"seed_{seed}" / "result.json").read_text()) for seed in (3, 5)}
    for seed, result in results.items():
        assert (result["status"], result["seed"]) == ("complete", seed)
        assert result["config"]["strategy"]["replay"]["seed"] == seed  # what is interpolated from the seed follows it
        assert result["config"]["trainer"]["seeds"] is None
        names = {path.name for path in (tmp_path / "both" / f"seed_{seed}" / "figures").iterdir()}
        drawn = ("accuracy_matrix", "accuracy_against_cost", "learning_curve")
        assert names == {f"{what}.{kind}" for what in drawn for kind in ("svg", "pdf")}
        alone = cli(tmp_path, *quick, "strategy=replay", f"seed={seed}", f"hydra.run.dir=alone{seed}")
        assert alone.returncode == 0, alone.stderr
        single = json.loads((tmp_path / f"alone{seed}" / "result.json").read_text())
        assert single["config"] == result["config"]
        assert single["metrics"]["average_accuracy"] == pytest.approx(result["metrics"]["average_accuracy"], abs=0.01)
        bills = [[(r["phase"], r["task"], r["steps"], r["flops"]) for r in run["ledger"]] for run in (single, result)]
        assert sorted(bills[0], key=str) == sorted(bills[1], key=str)
        same = (tmp_path / f"alone{seed}" / "checkpoint.pt").stat().st_size
        assert (
            tmp_path / "both" / f"seed_{seed}" / "checkpoint.pt"
        ).stat().st_size < 1.1 * same  # not the others' weights
    again = cli(tmp_path, "resume=both")
    assert "already complete" in again.stdout
    (tmp_path / "both" / "seed_5" / "checkpoint.pt").unlink()  # as if killed before the first one was written
    again = cli(tmp_path, "resume=both")
    assert again.returncode == 0, again.stderr
    second = json.loads((tmp_path / "both" / "seed_5" / "result.json").read_text())
    assert second["metrics"]["average_accuracy"] == pytest.approx(results[5]["metrics"]["average_accuracy"], abs=0.01)
    refused = cli(tmp_path, *quick, "trainer.seeds=[1,2]", "optimizer.lr='${oc.decode:1e-${seed}}'")
    assert refused.returncode == 1
    assert "optimizer differs from seed to seed" in refused.stderr
    for wrong in ("[1,1]", "[]", "[-1]"):
        refused = cli(tmp_path, *quick, f"trainer.seeds={wrong}")
        assert refused.returncode == 1
        assert "trainer.seeds" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_a_sweep_over_nothing_is_refused():
    code, errors = in_process("-m", "seed=range(0,0)", "stream=split_digits")
    assert code == 1
    assert "seed=range(0,0): a sweep over nothing. Expected a range with values" in errors


def test_an_interruption_that_comes_out_as_another_error_is_still_one(monkeypatch):
    """As where it hits a library's own cleaning up."""

    def broken(*_):
        try:
            raise KeyboardInterrupt
        finally:
            None.nothing  # type: ignore[attr-defined]  # noqa: B018

    monkeypatch.setattr("frostline.app.launch._run_hydra", broken)
    code, errors = in_process("stream=split_digits")
    assert code == 130
    assert "Interrupted" in errors


@pytest.mark.parametrize(
    "name", ["sensor déjà vu.csv", "market (1).csv", "it's 5 % & more; #2.csv", "数据.csv", "a,b.csv", "[1].csv"]
)
def test_a_file_may_be_called_anything(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 7},{i % 3},m{i % 2}" for i in range(90)]
    (tmp_path / name).write_text("\n".join(["a,state,month", *rows]), encoding="utf-8")
    given = ("stream=table", f"stream.path={name}", "stream.label=state", "stream.task_column=month", "model=linear")
    quick = ("trainer.epochs=1", "tracking=none", "figures=[]", "cost.reference_steps=0")
    code, errors = in_process(*given, *quick, "hydra.run.dir=runs (été)")
    assert code == 0, errors
    assert (tmp_path / "runs (été)" / "result.json").is_file()
    code, errors = in_process(*given, *quick, "stream.test=no such (1).csv")
    assert code == 1
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "argument",
    [
        "+strategy.x._target_=pathlib.Path.touch",
        "+strategy.x={_target_:pathlib.Path,_args_:[pwned]}",
        "+hydra.callbacks.evil.x=1",
        "hydra.searchpath=[file:///tmp]",
        "hydra.job.env_set.LD_PRELOAD=x",
        "strategy.replay.capacity=${oc.decode:x}",
    ],
)
def test_the_record_of_a_sweep_calls_nothing(argument, tmp_path):
    """It may be anybody's, as a checkpoint may."""
    record = tmp_path / "multirun.yaml"
    of_hydra = argument.lstrip("+").startswith("hydra")
    overrides = {"hydra": [argument] if of_hydra else [], "task": [*QUICK, *([] if of_hydra else [argument])]}
    OmegaConf.save({"hydra": {"overrides": overrides, "sweep": {}}}, record)
    code, wrong = in_process(f"resume={tmp_path}")
    assert code == 1
    assert f"{record} holds {argument}, which may call anything" in wrong
    assert sorted(p.name for p in tmp_path.iterdir()) == ["multirun.yaml"]


def test_flags_may_follow_settings(tmp_path):
    (tmp_path / "conf" / "strategy").mkdir(parents=True)
    (tmp_path / "conf" / "strategy" / "mine.yaml").write_text("mine:\n  _target_: frostline.strategies.Finetune\n")
    where = ["--config-dir", str(tmp_path / "conf"), "strategy=mine", f"hydra.run.dir={tmp_path / 'out'}"]
    code, wrong = in_process(*QUICK, *where)
    assert code == 0, wrong


def test_a_checkpoint_whose_settings_were_changed_is_refused(tmp_path):
    folder = tmp_path / "out"
    assert in_process(*QUICK, f"hydra.run.dir={folder}")[0] == 0
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["config"]["optimizer"].pop("lr")
    torch.save(state, folder / "checkpoint.pt")
    (folder / "result.json").unlink()
    code, wrong = in_process(f"resume={folder}")
    assert code == 1
    assert "the settings in it were changed since it was written" in wrong


def test_without_a_terminal_a_long_task_says_how_far_it_is(make_run, monkeypatch, capsys):
    monkeypatch.setattr(terminal, "SAY_WITHIN_EVERY_S", 0.0)
    run = make_run()
    run.observers = [terminal.TerminalReport("finetune")]
    run_stream(run)
    assert re.search(r"task 1/5, \d+ %, loss", capsys.readouterr().out)


@pytest.mark.parametrize("text", ["{}", "hydra: [", "- 1", "hydra: {overrides: {task: [seed=1]}}"])
def test_a_damaged_record_of_a_sweep_is_a_message(text, tmp_path):
    (tmp_path / "multirun.yaml").write_text(text)
    code, wrong = in_process(f"resume={tmp_path}")
    assert code == 1
    assert "is damaged or is not Hydra's record of a sweep" in wrong
