"""What a job says before it begins."""

import psutil
import pytest

from frostline.app import job


@pytest.mark.parametrize(("percent", "said"), [(0.0, False), (100.0, True)])
def test_a_busy_machine_is_said_so(percent, said, monkeypatch, capsys):
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: percent)
    monkeypatch.setattr(job.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(job.torch, "get_num_threads", lambda: 2)
    job._say_if_busy()
    assert ("trainer.threads=1 waits for nobody" in capsys.readouterr().out) == said
