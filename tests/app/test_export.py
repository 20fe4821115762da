"""What a run leaves of its model, from one run into the next, and out of frostline."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.export import load as load_program

from frostline.app.config import check, compose_config
from frostline.app.export import export
from frostline.app.job import execute
from frostline.core.checks import UsageError
from tests.conftest import in_process

QUIET = ["tracking=none", "figures=[]", "cost.reference_steps=0", "trainer.epochs=1", "trainer.threads=2"]
TEXT = [
    "stream=package_docs", "stream.packages=[rich,networkx,scipy,sympy]", "stream.tasks=2", "stream.length=16",
    "stream.texts_per_package=30", "model=minilm", "selector=lora", "optimizer=adamw",
]  # fmt: skip


def run(folder, *overrides):
    cfg = compose_config(*QUIET, *overrides)
    execute(cfg, folder)
    return folder


SMALL_VIT = ("model=vit", "model.patch=4", "model.width=16", "model.depth=1", "model.heads=2")


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    return run(tmp_path_factory.mktemp("run") / "digits", "stream=split_digits", "model=cnn", "model.hidden=16")


@pytest.mark.parametrize(
    "overrides",
    [
        TEXT,
        ["stream=split_digits", "model=mlp", "strategy=slda"],
        ["stream=split_digits", "model=mlp", "strategy=ncm"],
        ["stream=split_digits", "model=mlp", "strategy=fecam"],
        ["stream=split_digits", "model=mlp", "strategy=ranpac", "strategy.ranpac.projection=50"],
        ["stream=split_digits", "model=mlp", "strategy=ema"],
        ["stream=split_digits", "model=cnn", "strategy=der_pp"],
        ["stream=split_digits", *SMALL_VIT],
        ["stream=split_digits", *SMALL_VIT, "selector=llama_pro"],
        ["stream=split_digits", *SMALL_VIT, "strategy=o_lora", "selector.warmup_tasks=0"],
    ],
    ids=["minilm with LoRA", "slda", "ncm", "fecam", "ranpac", "ema", "der_pp", "vit", "llama_pro", "o_lora"],
)
def test_exported_programs_answer_as_the_run_did(overrides, tmp_path):
    """In a process that cannot import frostline, for another size of batch too."""
    folder = run(tmp_path / "run", *overrides)
    distances = export(folder, tmp_path / "out")
    assert set(distances) == {"model", "model.pt2"}
    code = f"""
import sys
sys.modules["frostline"] = None
import torch
from safetensors.torch import load_file
served = load_file({str(folder / "served.safetensors")!r})
program = torch.export.load({str(tmp_path / "out" / "model.pt2")!r}).module()
with torch.no_grad():
    logits = program(served["x"])
    more = program(torch.cat([served["x"]] * 3))
scale = max(1.0, float(served["logits"].abs().max()))
assert float((logits - served["logits"]).abs().max()) < 1e-5 * scale
assert len(more) == 6
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_exported_weights_have_the_names_of_their_library(tmp_path):
    from transformers import AutoModel

    from frostline.models.language import minilm_folder

    folder = run(tmp_path / "run", *TEXT)
    export(folder, tmp_path / "out", "none")
    tensors = load_file(tmp_path / "out" / "weights.safetensors")
    theirs = AutoModel.from_pretrained(minilm_folder(), local_files_only=True)
    answer = theirs.load_state_dict(tensors, strict=False)
    assert set(answer.unexpected_keys) == {"head.weight", "head.bias"}
    assert all("pooler" in key or "position_ids" in key for key in answer.missing_keys)
    assert not (tmp_path / "out" / "model.pt2").exists()


def test_a_run_starts_from_anothers_weights(digits_run, tmp_path, capsys):
    """Its first row, before any training, is the other's last."""
    second = run(
        tmp_path / "second", "stream=split_digits", "model=cnn", "model.hidden=16", f"model.weights={digits_run}"
    )
    first_row = json.loads((second / "result.json").read_text())["accuracy"][0]
    last_row = json.loads((digits_run / "result.json").read_text())["accuracy"][-1]
    assert first_row[-1] == last_row[-1]
    assert "Weights of" in capsys.readouterr().out


def test_a_head_of_other_classes_is_left_out_and_said_so(digits_run, tmp_path, capsys):
    other = ["stream=rotated_digits", "stream.scenario=class", "stream.tasks=2", "model=cnn", "model.hidden=16"]
    run(tmp_path / "second", *other, f"model.weights={digits_run / 'model.safetensors'}")
    assert "not the head, which answers for other classes" in capsys.readouterr().out


def test_weights_that_do_not_fit_are_refused(digits_run, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((digits_run / "model.safetensors").read_bytes()[:-40])
    tensors = load_file(digits_run / "model.safetensors")
    save_file(
        {"backbon." + n if n == "backbone.conv1.0.bias" else n: t for n, t in tensors.items()},
        tmp_path / "renamed.safetensors",
    )
    (tmp_path / "pickle.pt").write_bytes(b"cos\nsystem\n")
    for path, message in {
        tmp_path / "nowhere": "Expected the folder of a complete run",
        tmp_path: "Expected the folder of a complete run",
        damaged: "damaged or no safetensors file",
        tmp_path / "renamed.safetensors": "which this model has not",
        tmp_path / "pickle.pt": "other formats may hold code",
    }.items():
        with pytest.raises(UsageError, match=message):
            run(tmp_path / "run", "stream=split_digits", "model=cnn", "model.hidden=16", f"model.weights={path}")
    with pytest.raises(UsageError, match="Expected the same model"):
        run(tmp_path / "run", "stream=split_digits", "model=cnn", "model.hidden=17", f"model.weights={digits_run}")


def test_export_refuses_what_is_no_run_or_answers_otherwise(digits_run, tmp_path):
    with pytest.raises(UsageError, match="Expected the folder of a complete run"):
        export(tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match="Did you mean 'torch'"):
        export(digits_run, tmp_path / "out", "torhc")
    served = load_file(digits_run / "served.safetensors")
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("model.json", "model.safetensors"):
        (broken / name).write_bytes((digits_run / name).read_bytes())
    save_file({"x": served["x"], "logits": served["logits"] + 1}, broken / "served.safetensors")
    with pytest.raises(UsageError, match="answers otherwise"):
        export(broken, tmp_path / "out")


def test_the_program_is_checked_against_the_run(digits_run, tmp_path):
    export(digits_run, tmp_path / "out")
    served = load_file(digits_run / "served.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(load_program(tmp_path / "out" / "model.pt2").module()(served["x"]), served["logits"])


def test_every_model_yaml_takes_weights():
    check(compose_config("model=resnet18", "model.weights=somewhere"))


def test_onnx_answers_as_the_run_did(digits_run, tmp_path):
    """For another size of batch too."""
    onnxruntime = pytest.importorskip("onnxruntime")
    assert export(digits_run, tmp_path / "out", "onnx")["model.onnx"] < 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    x = load_file(digits_run / "served.safetensors")["x"]
    many = torch.cat([x] * 3).numpy()
    assert session.run(None, {session.get_inputs()[0].name: many})[0].shape == (6, 10)


def test_a_net_with_prompts_between_its_layers_is_refused_and_its_weights_may_be_started_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = ("model=vit", "model.patch=4", "model.width=8", "model.heads=2", "model.depth=2")
    quick = ("stream=split_digits", "stream.scenario=class", "trainer.epochs=1", "tracking=none", "figures=[]")
    code, errors = in_process("strategy=l2p", *net, *quick, "cost.reference_steps=0", "hydra.run.dir=a")
    assert code == 0, errors
    with pytest.raises(UsageError, match="prompts between the layers"):
        export(tmp_path / "a", tmp_path / "out")
    code, errors = in_process("model.weights=a", *net, *quick, "cost.reference_steps=0", "trainer.max_steps=1")
    assert code == 0, errors


@pytest.mark.parametrize("strategy", ["pnn", "dualprompt"])
def test_what_a_method_put_into_the_net_is_no_traceback(strategy, tmp_path, monkeypatch):
    """Decided task by task, such a run once passed the check and ended in load_state_dict."""
    monkeypatch.chdir(tmp_path)
    quick = ("stream=split_digits", "stream.scenario=task", "trainer.epochs=1", "tracking=none", "figures=[]")
    net = ("model=mlp",) if strategy == "pnn" else SMALL_VIT
    code, errors = in_process(f"strategy={strategy}", *net, *quick, "cost.reference_steps=0", "hydra.run.dir=a")
    assert code == 0, errors
    with pytest.raises(UsageError, match="put parts into the net"):
        export(tmp_path / "a", tmp_path / "out")
