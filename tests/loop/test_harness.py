"""The harness's tasks: the scores that its own model of transformers' gets, in the matrix, on the bill, after a kill too."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from frostline.core.checks import UsageError
from frostline.core.torchvision_schemas import torchvision
from frostline.loop import harness
from frostline.loop.settings import TrainerConfig
from frostline.models import decoder
from frostline.records.weights import read
from frostline.streams import from_tasks, language
from tests.conftest import in_process

CHOICE = """
task: more
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/more.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """
task: whole_texts
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/more.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}, {metric: word_perplexity}]
"""
GENERATED = """
task: said
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/more.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{said}}"
generation_kwargs: {until: ["."], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Texts, a tokenizer of bytes, three tasks of the harness's."""
    folder = tmp_path_factory.mktemp("place")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False, use_regex=False), decoders.ByteLevel()
    vocabulary = {sign: i for i, sign in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False, use_regex=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "add_bos_token": False})
    )
    (folder / "texts").mkdir()
    for name, word in (("a", "one"), ("b", "two")):
        rows = [{"text": f"{i} is {word} and {word} again, {'ab' * (i % 7)}{chr(97 + i % 23)}."} for i in range(400)]
        (folder / "texts" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [
        {
            "question": "and so on " * (6 * (i % 4 == 0)) + f"{i} is",  # longer than stream.length, some
            "choices": [" one and one", " two", " ü"],
            "answer": (0, 1, 1, 2, 1)[i % 5],
            "text": f"{i} is one and " * (1 + i % 4),
            "said": (" two and", " one and")[i % 3 == 0],
        }
        for i in range(12)
    ]
    (folder / "more.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "tasks").mkdir()
    for name, text in (("more", CHOICE), ("whole", ROLLING), ("said", GENERATED)):
        (folder / "tasks" / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    return folder


def arguments(place, *more):
    return [
        "stream=language", f"stream.path={place / 'texts'}", f"stream.tokenizer={place}", "stream.length=48",
        "stream.tokens_per_task=5000", "stream.test_tokens=500", "model=decoder", "model.width=32",
        "model.depth=2", "optimizer=adamw", "optimizer.lr=0.01", "trainer.batch_size=8", "trainer.epochs=5",
        "trainer.harness=[more,whole_texts,said]", f"trainer.harness_path={place / 'tasks'}", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    code, error = in_process(*arguments(place), f"hydra.run.dir={folder}")
    assert code == 0, error
    assert "it/s" not in error  # a bar for each step of the harness's
    assert "examples" not in error
    return folder


def test_scores_are_those_that_the_harness_gives_transformers_model(place, run, tmp_path):
    torchvision()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from frostline.app.export import export

    export(run, tmp_path / "model", "none")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=257, hidden_size=32, intermediate_size=384, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-6,
        )
    )  # fmt: skip
    assert not model.load_state_dict(read(tmp_path / "model" / "weights.safetensors"), strict=False).unexpected_keys
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(place / "tokenizer.json"), eos_token="</s>", pad_token="</s>"
    )
    theirs = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, max_length=48, add_bos_token=False, device="cpu"),
        tasks=["more", "whole_texts", "said"],
        task_manager=TaskManager(include_path=str(place / "tasks")),
        bootstrap_iters=0,
    )["results"]
    ours = {row["of"]: row for row in json.loads((run / "result.json").read_text())["harness"] if row["after"] == 1}
    assert set(ours) == {"more", "whole_texts", "said"}
    for name, row in ours.items():
        for key, value in row.items():
            if key not in ("after", "of"):
                assert value == pytest.approx(theirs[name][f"{key},none"], rel=1e-4), (name, key)
    assert ours["said"]["exact_match"] > 0.2
    assert ours["whole_texts"]["bits_per_byte"] < 4


def test_scores_are_held_out_suites_and_on_the_bill(place, run, tmp_path):
    found = json.loads((run / "result.json").read_text())
    assert [row["after"] for row in found["harness"][::3]] == [None, 0, 1]
    assert found["held_out"]["more"]["accuracy"] == [row["acc"] for row in found["harness"] if row["of"] == "more"]
    assert found["held_out"]["said"]["loss"] == [None] * 3
    assert "whole_texts" not in found["held_out"]
    changes = [s["accuracy"][-1] - s["accuracy"][0] for s in found["held_out"].values()]
    assert found["metrics"]["held_out_change"] == pytest.approx(sum(changes) / 2)
    assert found["metrics"]["held_out_loss_rise"] is None
    code, error = in_process(
        *arguments(place), "trainer.harness=null", "trainer.harness_path=null", f"hydra.run.dir={tmp_path}"
    )
    assert code == 0, error
    plain = json.loads((tmp_path / "result.json").read_text())
    assert plain["accuracy"] == found["accuracy"]
    flops = [sum(r["flops"] for r in c["ledger"] if r["phase"] == "evaluate") for c in (found, plain)]
    assert flops[0] > 1.5 * flops[1]


def test_what_cannot_be_asked_is_refused(place, tmp_path, digits):
    for more, message in (
        ("trainer.harness=[mor]", "no task 'mor'. Did you mean 'more'"),
        (f"trainer.harness_path={place}/no", "/no': expected a folder"),
        ("trainer.harness=null", "trainer.harness_path is for the harness's tasks"),
        ("trainer.harness_limit=0", "harness_limit=0"),
        ("trainer.harness=[a] stream.held_out=[a]", "'a' is held-out data of the stream already"),
    ):
        code, error = in_process(*arguments(place, *more.split()), f"hydra.run.dir={tmp_path}")
        assert code, more
        assert message in error.replace("\n", " "), error
    with pytest.raises(UsageError, match="does not predict tokens of text"):
        harness.check(TrainerConfig(harness=["more"]), digits)
    plain = from_tasks([((torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)),) * 2])
    harness.check(TrainerConfig(), plain)


def test_the_worked_examples_are_the_same_at_each_moment(place, make_run, monkeypatch):
    """They were drawn further and further: a run that went on after a kill would have asked other questions."""
    from frostline.loop.harness_model import HarnessModel

    texts, more = str(place / "texts"), {"harness": ["more"], "harness_path": str(place / "tasks"), "harness_shots": 2}
    stream = language(texts, tasks=["a"], tokenizer=str(place), length=96, tokens_per_task=2000, test_tokens=500)
    run, asked, own = make_run(model=decoder, stream=stream, **more), [], HarnessModel._loglikelihood_tokens

    def noting(self, requests, **settings):
        asked.append([request[1:] for request in requests])
        return own(self, requests, **settings)

    monkeypatch.setattr(HarnessModel, "_loglikelihood_tokens", noting)
    for moment in (None, 0):
        harness.ask(run, moment)
    assert len(asked[0]) == 36  # twelve questions, three choices
    assert asked[0] == asked[1]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("do_sample: true", "asks for drawn answers"),
        ("do_sample: false}\nunsafe_code: true\nmetadata: {a: b", "runs code"),
    ],
)
def test_what_would_be_answered_in_another_way_is_refused(setting, message, place, tmp_path):
    text = (
        GENERATED.replace("FOLDER", str(place))
        .replace("do_sample: false", setting)
        .replace("task: said", "task: other")
    )
    (tmp_path / "other.yaml").write_text(text)
    stream = language(str(place / "texts"), tasks=["a"], tokenizer=str(place), length=48, tokens_per_task=2000)
    with pytest.raises(UsageError, match=message):
        harness.check(TrainerConfig(harness=["other"], harness_path=str(tmp_path)), stream)


def test_a_perplexity_beyond_all_numbers_loses_no_run(place, tmp_path):
    text = ROLLING.replace("FOLDER/more", f"{place}/long").replace("whole_texts", "endless")
    (place / "tasks" / "endless.yaml").write_text(text)
    (place / "long.jsonl").write_text(json.dumps({"text": "q" * 4000}))
    code, error = in_process(*arguments(place), "trainer.harness=[endless,more]", f"hydra.run.dir={tmp_path}")
    assert code == 0, error
    rows = json.loads((tmp_path / "result.json").read_text())["harness"]
    assert [row["of"] for row in rows] == ["endless", "more"] * 3
    assert "word_perplexity" not in rows[0]
    assert rows[1]["acc"] >= 0


def test_a_dry_run_knows_what_the_harness_will_take(place, run, tmp_path):
    code, error = in_process("--dry-run", *arguments(place), f"hydra.run.dir={tmp_path}")
    assert code == 0, error
