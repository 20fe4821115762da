"""What the docs show is run as they show it."""

import csv
import json
import os
import re
import subprocess
import sys

import pytest
import torch

from frostline.core.torchvision_schemas import torchvision
from tests.conftest import ROOT


def blocks(document, language):
    text = (ROOT / document).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_readmes_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("README.md", "python")
    assert len(code.strip().splitlines()) <= 12
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    assert "Learned " in capsys.readouterr().out


def test_the_trainers_callback(tmp_path, capsys):
    torchvision()  # before transformers
    from transformers import TrainingArguments

    from tests.integrations.test_trainer_callback import language_model, texts

    settings = TrainingArguments(str(tmp_path), report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no")
    names = {"english": texts(1), "german": texts(2), "french": texts(3), "model": language_model(), "args": settings}
    code = blocks("docs/integrations.md", "python")[0]
    assert len(code.strip().splitlines()) <= 10
    exec(compile(code, "integrations.md", "exec"), names)
    assert "'english': " in capsys.readouterr().out
    assert json.loads((tmp_path / "frostline.json").read_text())["totals"]["usd"] > 0


@pytest.mark.filterwarnings("ignore")
def test_lightnings_callback(tmp_path, monkeypatch, capsys):
    from tests.integrations.test_lightning_callback import Classifier, loader

    monkeypatch.chdir(tmp_path)
    names = {"english": loader(1), "german": loader(2), "french": loader(3), "module": Classifier()}
    code = blocks("docs/integrations.md", "python")[1]
    assert len(code.strip().splitlines()) <= 10
    exec(compile(code, "integrations.md", "exec"), names)
    assert "'english': " in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "frostline.json").read_text())["totals"]["usd"] > 0


@pytest.mark.filterwarnings("ignore")
def test_avalanches_plugin(capsys):
    from frostline.streams import from_arrays
    from tests.integrations.test_avalanche_plugin import benchmark_of, small

    model = small(shape=(1, 8, 8), classes=10)
    names = {
        "benchmark": benchmark_of(from_arrays("digits", samples_per_class=6)),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "criterion": torch.nn.CrossEntropyLoss(),
    }
    code = blocks("docs/integrations.md", "python")[2]
    assert len(code.strip().splitlines()) <= 10
    exec(compile(code, "integrations.md", "exec"), names)
    assert "usd" in capsys.readouterr().out


def test_the_notebook(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs/from_python.ipynb").read_text())["cells"]
    space: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), space)
    said = capsys.readouterr().out
    assert said.count("Learned ") == 3
    assert (
        space["partial"].content["full_finetuning"]["flops_ratio"]
        < space["full"].content["full_finetuning"]["flops_ratio"]
    )
    assert space["scope"].names == {"2.weight", "2.bias", "4.weight", "4.bias"}


def test_a_strategy_and_a_selector_outside_the_repository(tmp_path):
    """The two files of each example in a folder of one's own, as the page says."""
    strategy, selector = blocks("docs/adding-a-strategy.md", "python")
    strategy_yaml, selector_yaml = blocks("docs/adding-a-strategy.md", "yaml")
    (tmp_path / "mine.py").write_text(f"{strategy}\n\n{selector}")
    for group, name, text in (("strategy", "l2", strategy_yaml), ("selector", "cheapest", selector_yaml)):
        folder = tmp_path / "conf" / group
        folder.mkdir(parents=True)
        (folder / f"{name}.yaml").write_text(re.sub(r"frostline\.\w+\.\w+\.(\w+)", r"mine.\1", text))
    done = subprocess.run(
        [
            sys.executable, "-m", "frostline", "run", "--config-dir", "conf", "strategy=[replay,l2]", "selector=cheapest",
            "stream=split_digits", "model=mlp", "trainer.epochs=1", "tracking=none", "figures=[]", "cost.reference_steps=0",
            "strategy.l2.strength=0.5",
        ],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "replay + l2 with Cheapest" in done.stdout
    ledger = next(tmp_path.glob("outputs/*/*/ledger.csv"))
    rows = csv.DictReader(ledger.read_text().splitlines())
    trained = {int(row["trainable_parameters"]) for row in rows if row["phase"] == "train"}
    whole, head_and = (
        64 * 400 + 400 + 400 * 400 + 400 + 4010,
        400 * 400 + 400 + 4010,
    )  # the deeper hidden layer costs least
    assert trained == {whole, head_and}


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / document).parent.joinpath(target).exists(), target
