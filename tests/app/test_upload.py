"""What W&B recorded offline is sent once, with a sweep's comparison beside its runs. No server is at hand: its refusals are."""

import pytest

from frostline.app.upload import RECORDS, upload
from frostline.core.checks import UsageError
from tests.conftest import in_process, wandb_records

QUICK = (
    "stream=split_digits", "model=mlp", "trainer.max_steps=2", "trainer.threads=1", "cost.reference_steps=0", "figures=[]",
)  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wandb") / "sweep"
    code, said = in_process("-m", "strategy=finetune,replay", *QUICK, f"hydra.sweep.dir={folder}")
    assert code == 0, said
    return folder


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """Log nobody in, and let nothing be reached."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nothing listens


def test_a_sweep_has_a_comparison_and_waits_for_a_key_and_a_server(sweep, monkeypatch):
    assert len(list(sweep.rglob(RECORDS))) == 2
    with pytest.raises(UsageError, match=r"no key for http://127.0.0.1:9.*WANDB_API_KEY"):
        upload([sweep])
    records = sorted(sweep.rglob(RECORDS))
    assert len(records) == 3  # the comparison is one more
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with pytest.raises(UsageError, match=r"out of reach .*same command sends them later"):
        upload([sweep])
    assert sorted(sweep.rglob(RECORDS)) == records  # made once
    (own,) = sweep.glob(RECORDS)
    runs = [r.run for r in wandb_records(own) if r.HasField("run")]
    assert {(run.run_group, run.job_type, run.project) for run in runs} == {("sweep", "comparison", "frostline")}
    keys = {item.nested_key[0] for r in wandb_records(own) for item in r.history.item if item.nested_key}
    assert {"frontier", "ledger", "figures/frontier"} <= keys
    groups = {r.run.run_group for path in records for r in wandb_records(path) if r.HasField("run")}
    assert groups == {"sweep"}


def test_what_was_sent_is_not_sent_again(sweep, capsys):
    for path in sweep.rglob(RECORDS):
        path.with_name(f"{path.name}.synced").touch()  # as `wandb sync` does
    upload([sweep])
    assert "were sent before" in capsys.readouterr().out


def test_nothing_to_send_is_said(tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        upload([tmp_path / "sweeep"])
    code, said = in_process(*QUICK, "tracking=none", f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 0, said
    with pytest.raises(UsageError, match="tracking=none writes none"):
        upload([tmp_path])
