"""What is compared is complete and has all that is read; the rest is named and left out."""

import json

import pytest

from frostline.core.checks import UsageError
from frostline.records import results
from frostline.report.compare import compare_folders
from frostline.report.console import wide_console
from frostline.report.finding import find_runs
from tests.report.test_page import content


def whole(**more):
    made = content("finetune") | {"schema": results.SCHEMA, "status": "complete", "totals": {}, "training_state": []}
    return made | {"prefix_cache": [], **more}


def write(folder, made):
    folder.mkdir(parents=True)
    (folder / results.NAME).write_text(made if isinstance(made, str) else json.dumps(made))


BROKEN = {
    "cut": "{",
    "foreign": {"accuracy": 0.5},
    "future": whole(schema="frostline.result/9"),
    "failed": whole(status="failed"),
    "no_strategy": whole(config={"seed": 0}),
    "no_stream": whole(stream={}),
    "other_matrix": whole(accuracy=[[0.1, 0.2]]),
    "other_ledger": whole(ledger=[{"phase": "train"}]),
    "no_metrics": whole(metrics={}),
    "a_list": [1, 2],
}


def test_all_else_is_named_and_left_out(tmp_path, capsys):
    write(tmp_path / "in" / "fine", whole())
    for name, made in BROKEN.items():
        write(tmp_path / "in" / name, made)
    (group,) = compare_folders([tmp_path / "in"], tmp_path / "out", page=True, as_json=True, figures=True)
    assert len(group.runs) == 1
    said = capsys.readouterr().out
    assert said.count("left out") == len(BROKEN)
    left = {where for where, _ in json.loads((tmp_path / "out" / "comparison.json").read_text())["left_out"]}
    assert {name for name in BROKEN if any(f"/in/{name}" in where for where in left)} == set(BROKEN)


def test_none_at_all(tmp_path):
    write(tmp_path / "cut", "{")
    with pytest.raises(UsageError, match="No complete run below"):
        find_runs([tmp_path], wide_console())


def test_a_checksum_under_another_name_is_damage(tmp_path):
    write(tmp_path / "run", whole())
    made = whole()
    write(tmp_path / "renamed", made | {"shecksum": results._checksum(made)})
    assert results.read(tmp_path / "run")["status"] == "complete"
    with pytest.raises(ValueError, match="damaged"):
        results.read(tmp_path / "renamed")
