"""Prompts with answers: which tokens count, whole answers against greedy decoding, templates, rows that are odd."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from frostline.core.checks import UsageError
from frostline.core.objectives import IGNORED, Classification
from frostline.core.torchvision_schemas import torchvision
from frostline.models import decoder
from frostline.streams import instructions
from frostline.streams.rows import Rows, places
from tests.streams.test_streams import everything_in

TALK = [
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "and three?"},
    {"role": "assistant", "content": "Three, of course."},
]
GENERATION = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def sums(tmp_path):
    write(
        tmp_path / "sums.jsonl",
        [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(20) for b in range(20)],
    )
    return tmp_path


def said(tokens):
    return "".join(chr(t) if t < 256 else "#" for t in tokens.tolist())


def answers(source):
    """Return what each sample asks for, in its order."""
    batch = everything_in(source)
    return [said(y[y != IGNORED]) for y in batch.y], [said(x) for x in batch.x], batch


def test_only_the_answers_count_and_each_stands_after_its_prompt(sums):
    stream = instructions(str(sums), length=16)
    assert (stream.classes, stream.shape, stream.scenario, stream[0].name) == (257, (16,), "domain", "0: sums")
    found, whole, batch = answers(stream[0].train)
    assert len(found) + len(stream[0].test) == 400
    for answer, x, y in zip(found, whole, batch.y, strict=True):
        left, right = x.split("=")[0].split("+")
        assert answer == f"{int(left) + int(right)}#"
        assert (y != IGNORED).nonzero().flatten().tolist() == [
            len(left) + len(right) + 1 + i for i in range(len(answer))
        ]
    assert set(found) & set(answers(stream[0].test)[0])
    assert not {*whole} & {*answers(stream[0].test)[1]}


def test_the_split_is_the_rows_own_and_no_row_is_twice(sums):
    rows = [json.loads(line) for line in (sums / "sums.jsonl").read_text().splitlines()]
    write(sums / "sums.jsonl", [*rows, *rows])
    write(sums / "other.jsonl", rows[::-1][:300])
    both = instructions(str(sums), tasks=["sums", "other"], length=16, seed=3)
    assert sum(len(getattr(both[0], side)) for side in ("train", "test")) == 400
    tested = {*answers(both[0].test)[1]}
    assert {*answers(both[1].test)[1]} <= tested
    assert not {*answers(both[1].train)[1]} & tested


def test_a_longer_prompt_is_left_out_and_a_longer_answer_is_cut(sums, capsys):
    write(sums / "long.jsonl", [{"prompt": "p" * n, "completion": "answer"} for n in range(1, 40)])
    task = instructions(str(sums), tasks=["long"], length=16, test_share=0.2)[0]
    found, whole, _ = (
        a + b for a, b in zip((*answers(task.train)[:2], []), (*answers(task.test)[:2], []), strict=True)
    )
    assert len(found) == 16  # p * 16 still leaves the first letter
    for answer, x in zip(found, whole, strict=True):
        assert answer == "answer#"[: 17 - x.count("p")]
    assert "long: 23 of 39 rows left out" in capsys.readouterr().err


@pytest.mark.parametrize(("learn_from", "wanted"), [
    ("answers", "Two.<|im_end|>\nThree, of course.<|im_end|>\n"),
    ("last", "Three, of course.<|im_end|>\n"),
])  # fmt: skip
def test_of_a_conversation_the_answers_count(tmp_path, learn_from, wanted):
    write(
        tmp_path / "talk.jsonl", [{"messages": [*TALK, {"role": "user", "content": f"thanks {n}"}]} for n in range(40)]
    )
    found, whole, _ = answers(instructions(str(tmp_path), length=250, learn_from=learn_from)[0].train)
    assert set(found) == {wanted}
    assert whole[0].startswith(
        "<|im_start|>user\ntwo?<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n<|im_start|>user\nand"
    )


@pytest.mark.parametrize("ending", [".jsonl", ""])
def test_files_from_windows_are_read(tmp_path, ending):
    lines = "\r\n".join(json.dumps({"prompt": f"q{n}", "completion": "ja"}) for n in range(30))
    file = tmp_path / "x.jsonl" if ending else tmp_path / "x" / "train.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"\xef\xbb\xbf" + lines.encode())
    task = instructions(str(tmp_path), length=16, test_share=0.3)[0]
    assert len(task.train) + len(task.test) == 30
    assert {*answers(task.train)[0]} == {"ja#"}


def test_sharegpts_conversations_are_messages(tmp_path):
    talks = [
        {"conversations": [{"from": "human", "value": str(n)}, {"from": "gpt", "value": "so."}]} for n in range(30)
    ]
    write(tmp_path / "x.jsonl", talks)
    found, whole, _ = answers(instructions(str(tmp_path), messages="conversations", length=90)[0].train)
    assert set(found) == {"so.<|im_end|>\n"}
    assert whole[0].startswith("<|im_start|>user\n")


def test_all_tokens_count_where_asked_but_padding_never_does(sums):
    batch = everything_in(instructions(str(sums), length=16, learn_from="all")[0].train)
    for x, y in zip(batch.x, batch.y, strict=True):
        length = said(x).index("#") + 1 if 256 in x else 16
        assert torch.equal(y[: length - 1], x[1:length])
        assert y[length - 1] in (256, IGNORED)
        assert (y[length:] == IGNORED).all()


@pytest.fixture
def tokenizer(tmp_path):
    """A small BPE tokenizer with a token that begins texts and a chat template that marks its answers, in a folder."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["and three? Three, of course. two? Two. the answer"] * 9, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "</s>", "chat_template": GENERATION, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_answers_are_the_tokens_that_transformers_says_the_assistant_made(tmp_path, tokenizer):
    torchvision()
    from transformers import PreTrainedTokenizerFast

    data = [{"messages": [{"role": "user", "content": f"say {n}"}, *TALK[1:]]} for n in range(30)]
    write(tmp_path / "data" / "talk.jsonl", data)
    stream = instructions(str(tmp_path / "data"), tokenizer=str(tokenizer), length=100)
    known = PreTrainedTokenizerFast.from_pretrained(tokenizer)
    wanted = set()
    for row in data:
        told = known.apply_chat_template(row["messages"], return_assistant_tokens_mask=True, return_dict=True)
        wanted.add((tuple(told["input_ids"]), tuple(told["assistant_masks"])))
    for source in (stream[0].train, stream[0].test):
        batch = everything_in(source)
        for x, y in zip(batch.x.tolist(), batch.y.tolist(), strict=True):
            length = max(i for i, target in enumerate(y) if target != IGNORED) + 1
            ids = (*x[:length], y[length - 1])
            assert (ids, (0, *(int(target != IGNORED) for target in y[:length]))) in wanted


def test_a_prompt_begins_and_an_answer_ends_with_the_tokenizers_own_tokens(tmp_path, tokenizer):
    write(tmp_path / "data" / "one.jsonl", [{"prompt": f"two {n}?", "completion": " Two."} for n in range(30)])
    batch = everything_in(instructions(str(tmp_path / "data"), tokenizer=str(tokenizer), length=40)[0].train)
    made = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    for x, y in zip(batch.x, batch.y, strict=True):
        assert x[0] == made.token_to_id("<s>")
        answer = y[y != IGNORED].tolist()
        assert answer[-1] == made.token_to_id("</s>")
        assert made.decode(answer) == " Two."


def test_a_template_of_ones_own_is_taken(tmp_path, tokenizer):
    write(
        tmp_path / "data" / "talk.jsonl",
        [{"messages": [*TALK, {"role": "user", "content": str(n)}]} for n in range(30)],
    )
    (tmp_path / "own.jinja").write_text(
        "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a: {% endif %}"
    )
    found, whole, _ = answers(
        instructions(str(tmp_path / "data"), template=str(tmp_path / "own.jinja"), length=99)[0].train
    )
    assert set(found) == {"Two.\nThree, of course.\n"}
    assert whole[0].startswith("u: two?\na: Two.\nu: and three?\n")


def test_a_whole_answer_is_right_exactly_where_greedy_decoding_gives_it(sums):
    torch.manual_seed(0)
    model = decoder((16,), 257, width=16, depth=1, heads=2, kv_heads=1, hidden=16).eval()
    batch = everything_in(instructions(str(sums), length=16, right="answer")[0].train).rows(slice(0, 60))
    x, y = batch.x.clone(), batch.y.clone()
    with torch.no_grad():
        for row in range(0, 60, 2):  # every other answer is what the model says; some of the rest have a wrong end
            for place in (y[row] != IGNORED).nonzero().flatten().tolist():
                y[row, place] = model(x[row : row + 1])[0, place].argmax()
                if place + 1 < 16:
                    x[row, place + 1] = y[row, place]
            if row % 4 == 0:
                last = (y[row] != IGNORED).nonzero().flatten()[-1]
                y[row, last] = (y[row, last] + 1) % 257
        objective = Classification(whole=True)
        hits, asked = objective.hits(model(x), y), objective.asked(y)
        decoded = []
        for row in range(60):
            places_ = (y[row] != IGNORED).nonzero().flatten().tolist()
            told = x[row : row + 1, : places_[0] + 1]
            for _ in places_:
                told = torch.cat((told, model(told)[:, -1:].argmax(-1)), 1)
            decoded.append(told[0, places_[0] + 1 :].tolist() == y[row, places_].tolist())
    assert asked.sum(1).tolist() == [1] * 60
    assert hits.any(1).tolist() == decoded
    assert 10 <= sum(decoded) < 60
    assert (hits <= asked).all()


def test_rows_are_found_wherever_they_are(tmp_path):
    import datasets

    rows = {side: [{"prompt": f"{side} {n}", "completion": "yes"} for n in range(20)] for side in ("train", "test")}
    for side, own in rows.items():
        write(tmp_path / "all" / "lines" / f"{side}.jsonl", own)
    saved = datasets.DatasetDict({side: datasets.Dataset.from_list(own) for side, own in rows.items()})
    saved.save_to_disk(tmp_path / "all" / "saved")
    saved["train"].to_parquet(tmp_path / "all" / "file.parquet")
    (tmp_path / "all" / "folder").mkdir()
    for side in rows:
        saved[side].to_parquet(tmp_path / "all" / "folder" / f"{side}.parquet")
    found = places(str(tmp_path / "all"))
    assert list(found) == ["file", "folder", "lines", "saved"]
    for name, place in found.items():
        sides = [side for _, row, side in Rows(place)() if row["completion"] == "yes"]
        assert sides == ([None] * 20 if name == "file" else [True] * 20 + [False] * 20), name
    stream = instructions({"a": found["saved"], "b": found["lines"]}, length=16)
    assert [task.name for task in stream.tasks] == ["0: a", "1: b"]
    assert [(len(task.train), len(task.test)) for task in stream.tasks] == [(20, 20)] * 2
    alone = instructions(found["saved"], length=16)
    assert [task.name for task in alone.tasks] == ["0: saved"]


@pytest.mark.parametrize(("rows", "options", "message"), [
    ([{"prompt": "a"}], {}, r"line 1 has 'prompt': expected 'prompt' and 'completion', or 'messages'"),
    (
        [{"instruction": "Add.", "input": "1 and 2", "output": "3"}],
        {"prompt": "instruction", "completion": "output"},
        r"line 1 has an 'input' too.*stream\.prompt=\[instruction,input\]",
    ),
    ([{"prompt": "a", "completion": "b"}], {"prompt": []}, r"stream\.prompt=\[\]: expected the name of a column"),
    ([{"a": [{"role": "user", "content": "x"}], "b": "c", "completion": "d"}], {"prompt": ["a", "b"]}, "no text under 'a'"),
    ([{"prompt": "a", "completion": 3}], {}, r"line 1 has no text under 'completion'"),
    (["text"], {}, r"line 1 is no object but str"),
    ([{"messages": "hello"}], {}, r"line 1, 'messages': expected a list of"),
    ([{"messages": [{"role": "user"}]}], {}, r"line 1, 'messages': expected .*not {'role': 'user'}"),
    ([{"messages": TALK[:1]}], {}, r"line 1: no message is the assistant's"),
    ([{"prompt": "long" * 9, "completion": "a"}], {}, r"x: no rows to learn from, of 1 different ones, of which 1 have"),
    ([], {}, r"x: no rows to learn from, of 0 different ones"),
    ([{"prompt": "a", "completion": "b"}], {"tasks": ["y"]}, r"stream.tasks='y': expected one of x"),
    ([{"prompt": "a", "completion": "b"}], {"learn_from": "answer"}, r"Did you mean 'answers'"),
    ([{"prompt": "a", "completion": "b"}], {"right": "sentence"}, r"stream.right='sentence'"),
    ([{"messages": TALK}], {"template": "no.jinja"}, r"stream.template='no.jinja': expected chatml, or the path"),
])  # fmt: skip
def test_what_is_not_as_expected_is_named(tmp_path, rows, options, message):
    write(tmp_path / "x.jsonl", rows)
    with pytest.raises(UsageError, match=message):
        instructions(str(tmp_path), length=16, **options)


def test_a_template_that_writes_answers_differently_later_is_named(tmp_path, tokenizer):
    write(tmp_path / "data" / "talk.jsonl", [{"messages": TALK}] * 3)
    (tmp_path / "own.jinja").write_text("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(UsageError, match=r"line 1: the chat template writes the messages up to number 2 differently"):
        instructions(str(tmp_path / "data"), template=str(tmp_path / "own.jinja"))
    (tokenizer / "tokenizer_config.json").write_text("[")
    with pytest.raises(UsageError, match=r"tokenizer_config.json beside it is no JSON object"):
        instructions(str(tmp_path / "data"), tokenizer=str(tokenizer))
    (tokenizer / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"has no chat template. Expected stream.template=chatml"):
        instructions(str(tmp_path / "data"), tokenizer=str(tokenizer))


def test_a_prompt_may_be_several_columns(tmp_path):
    """Alpaca's rows have an instruction and, some of them, an input."""
    rows = [
        {"instruction": f"Say {n}.", "input": "in words" if n % 2 else "", "output": f"It is {n}"} for n in range(40)
    ]
    write(tmp_path / "alpaca.jsonl", rows)
    stream = instructions(str(tmp_path), prompt=["instruction", "input"], completion="output", length=48)
    batch = next(iter(stream[0].train.batches(100)))
    said = {bytes(t for t in x.tolist() if t < 256).decode().split("It is")[0] for x in batch.x}
    assert said <= {f"Say {n}." + "\n\nin words" * (n % 2) for n in range(40)}
    assert {"words" in text for text in said} == {True, False}
