"""Answers to test prompts: those that decoding in one pass foresees, with a table, texts, a bill, and the same after a kill."""

import json

import pytest
import torch

from frostline.core.types import Writing
from frostline.loop.answering import Asked, _before, compared, prompts, rouge_l
from frostline.records.results import read
from frostline.streams.text_instructions import instructions
from frostline.streams.tokens import Bytes
from tests.conftest import in_process

WRITING = Bytes().writing()


@pytest.fixture(scope="module")
def skills(tmp_path_factory):
    folder = tmp_path_factory.mktemp("skills")
    tasks = {"double": lambda i: f"{i}{i}", "next": lambda i: str(i + 1)}
    for name, answer in tasks.items():
        rows = [{"prompt": f"{name} {i % 10}: ", "completion": answer(i % 10), "n": i} for i in range(10)]
        rows += [{"prompt": f"{name} of {i % 10}: ", "completion": answer(i % 10)} for i in range(10)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def arguments(skills, *more):
    return [
        "stream=instructions", f"stream.path={skills}", "stream.length=32", "stream.test_share=0.3", "stream.right=answer",
        "model=decoder", "model.width=32", "model.heads=2", "model.hidden=64", "model.depth=2", "optimizer=adamw",
        "optimizer.lr=0.01", "trainer.epochs=40", "trainer.batch_size=8", "trainer.answers=1000", *more,
    ]  # fmt: skip


def test_prompts_end_where_the_last_answer_begins(skills):
    task = instructions(str(skills), length=32).tasks[0]
    for asked in prompts(task.train, 5, WRITING, "x"):
        prompt, wanted = WRITING.decode(asked.prompt.tolist()), WRITING.decode(asked.wanted)
        assert prompt.endswith(": ")
        assert wanted == prompt.split()[-1].rstrip(":") * 2
        assert asked.wanted[-1] == 256
        assert len(wanted) < asked.most <= 32 - len(asked.prompt)
    with pytest.raises(Exception, match=r"ends within stream\.length with a token"):
        prompts(task.train, 5, Writing(WRITING.decode, ((999,),)), "x")


def test_what_ends_an_answer_is_no_part_of_it():
    assert _before([1, 2, 3, 4], ((3, 4), (9,))) == [1, 2]
    assert _before([1, 2, 9, 3, 4], ((3, 4), (9,))) == [1, 2]
    assert _before([1, 2, 3], ((3, 4),)) is None


def test_an_answer_that_does_not_end_is_shown_and_is_not_exact():
    """It was shown as nothing at all."""
    asked = Asked(torch.tensor(list(b"twice 5: ")), [*b"55", 256], 12)
    for said, exact, text in (
        ([*b"55", 256], True, "55"),
        (list(b"55  "), False, "55"),
        (list(b"5 and so on"), False, "5 and so on"),
    ):
        found = compared(asked, said, WRITING)
        assert (found["exact"], found["said"]) == (exact, text)
        assert found["wanted"] == "55"
        assert found["prompt"] == "twice 5: "
    assert compared(asked, list(b"55  "), WRITING)["rouge_l"] == 1


def test_rouge_is_lins():
    """Recall 3/4, precision 3/5 of the longest common subsequence 'police the gunman' (Lin 2004 has such an example)."""
    assert rouge_l("police killed the gunman", "police kill the gunman now") == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert rouge_l("same words", "same words") == 1
    assert rouge_l("a b", "c d") == 0


def test_generation_is_right_exactly_where_one_pass_says_so(skills, tmp_path):
    """The accuracy matrix with right=answer is exact match of greedy decoding: an oracle that generates nothing."""
    code, error = in_process(*arguments(skills), f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 0, error
    content = read(tmp_path / "run")
    names = content["stream"]["tasks"]
    rows = {(row["after"], row["of"]): row for row in content["answers"]}
    assert set(rows) == {(None, names[0]), (None, names[1]), (0, names[0]), (1, names[0]), (1, names[1])}
    for (after, of), row in rows.items():
        place = 0 if after is None else after + 1
        assert row["exact"] == pytest.approx(content["accuracy"][place][names.index(of)])
    assert rows[(0, names[0])]["exact"] > 0  # it learns something, else nothing was tested
    texts = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert len(texts) == sum(row["prompts"] for row in content["answers"])
    assert all((text["wanted"] == text["said"]) == text["exact"] for text in texts)
    assert any(text["prompt"].startswith("double") for text in texts)


def test_without_prompts_it_is_refused_and_a_rehearsal_has_its_bill(skills, tmp_path, capsys):
    code, error = in_process("stream=split_digits", "trainer.answers=5", f"hydra.run.dir={tmp_path / 'a'}")
    assert code == 1
    assert "has no prompts with answers. Expected stream=instructions" in error
    code, error = in_process("--dry-run", *arguments(skills), "trainer.epochs=1")
    assert code == 0, error


def test_looking_changes_nothing(skills, tmp_path):
    found = []
    for number, answers in enumerate(("5", "null")):
        own = [a for a in arguments(skills) if "answers" not in a and "epochs" not in a]
        code, error = in_process(
            *own, "trainer.epochs=3", f"trainer.answers={answers}", f"hydra.run.dir={tmp_path / str(number)}"
        )
        assert code == 0, error
        found.append(read(tmp_path / str(number)))
    assert found[0]["accuracy"] == found[1]["accuracy"]
    assert found[0]["loss"] == found[1]["loss"]
    assert torch.isfinite(torch.tensor(found[0]["loss"][-1])).all()
    spent = [sum(r["flops"] for r in c["ledger"] if r["phase"] == "evaluate") for c in found]
    assert spent[0] > spent[1]
