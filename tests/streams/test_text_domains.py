"""Windows of text by domain: what is in them, what is held out, and files that are not as expected."""

import json
import math
import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from frostline.core.checks import UsageError
from frostline.loop import probing
from frostline.streams import from_tasks, language
from frostline.streams.documents import PIECE, domains_in, fingerprint, is_test, pieces
from frostline.streams.tokens import tokens_for
from tests.conftest import in_process
from tests.streams.test_streams import everything_in


def lines(name, count=400):
    return [f"This is the document called {name} {word} and so it goes on and on." for word in words(count)]


def words(count):
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(letters[(i // 26**k) % 26] for k in range(4)) for i in range(count)]


@pytest.fixture
def corpus(tmp_path):
    """Three domains: a folder, JSON Lines, one long file."""
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    for number, text in enumerate(lines("notes")):
        (tmp_path / "notes" / ("deep" if number % 2 else ".") / f"{number}.txt").write_text(text)
    (tmp_path / "chat.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in lines("chat")) + "\n\n")
    (tmp_path / "book.txt").write_text("\n".join(lines("book", 9000)))
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def text_of(source):
    """Return what is written in all windows, one after another."""
    tokens = everything_in(source).x.flatten()
    return "".join(chr(t) if t < 256 else "\n\n" for t in tokens.tolist())


def test_every_token_asks_for_the_next(corpus):
    stream = language(str(corpus), length=32, tokens_per_task=5000)
    assert [task.name for task in stream.tasks] == ["0: book", "1: chat", "2: notes"]
    assert (stream.classes, stream.shape, stream.scenario) == (257, (32,), "domain")
    for task in stream.tasks:
        batch = next(iter(task.train.batches(len(task.train))))
        assert batch.x.shape == batch.y.shape == (len(task.train), 32)
        assert torch.equal(batch.x.flatten()[1:], batch.y.flatten()[:-1])
        assert len(task.train) == 4999 // 32
    shuffled = next(iter(stream[0].train.batches(3, torch.tensor([5, 0, 9]))))
    assert torch.equal(shuffled.x[:, 1:], shuffled.y[:, :-1])


def test_attention_within_documents_names_the_token_that_ends_them(corpus):
    assert language(str(corpus), tasks=["chat"], length=32).end is None
    assert language(str(corpus), tasks=["chat"], length=32, attention="within").end == 256
    with pytest.raises(UsageError, match=r"stream.attention='inside': expected one of across, within"):
        language(str(corpus), attention="inside")


def test_a_document_is_on_one_side_whatever_else_is_there(corpus):
    stream = language(str(corpus), tasks=["chat", "notes"], length=16, tokens_per_task=None, test_tokens=None)
    for task, name in zip(stream.tasks, ("chat", "notes"), strict=True):
        train, test = text_of(task.train), text_of(task.test)
        found = [(line[30:50] in train, line[30:50] in test, is_test(fingerprint(line), 0.1)) for line in lines(name)]
        assert all(not (tested if learned else learned) for learned, tested, _ in found)  # never both
        right = sum((learned, tested) == (not held, held) for learned, tested, held in found)
        assert right >= len(found) - 2  # the last of each side may not fill a window
    share = np.mean([is_test(fingerprint(line), 0.1) for line in lines("x", 5000)])
    assert share == pytest.approx(0.1, abs=0.015)
    again = language(str(corpus), tasks=["chat"], length=16, tokens_per_task=None, seed=5)
    assert text_of(again[0].train) == text_of(stream[0].train)


def test_copies_are_taken_once(tmp_path):
    texts = [f"One and the same text, said in {n} ways!" for n in range(50)] + lines("other")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    stream = language(str(tmp_path), length=8, tokens_per_task=None, test_tokens=None)
    whole = text_of(stream[0].train) + text_of(stream[0].test)
    assert whole.count("One and the same") == 1
    assert fingerprint("A b.") == fingerprint("a  B 7") != fingerprint("a c")


def test_mixtures_and_held_out_domains(corpus):
    stream = language(str(corpus), tasks=["book+chat"], held_out=["notes"], length=32, tokens_per_task=8000)
    text = text_of(stream[0].train)
    assert "called book" in text[:4000]
    assert "called chat" in text[4000:]
    assert [suite.name for suite in stream.suites] == ["notes"]
    assert "called notes" in text_of(stream.suites[0].source)
    assert [t.name for t in language(str(corpus), held_out=["notes"], length=32).tasks] == ["0: book", "1: chat"]
    whole = language(str(corpus), tasks=["book+chat"], length=32, tokens_per_task=None)
    alone = language(str(corpus), tasks=["chat"], length=32, tokens_per_task=None)
    assert len(whole[0].train) == pytest.approx(2 * len(alone[0].train), abs=2)


def test_a_tokenizer_of_ones_own(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(lines("chat"), trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>", "</s>"]))
    tokenizer.save(str(folder / "tokenizer.json"))
    stream = language(str(corpus), tasks=["chat"], length=16, tokenizer=str(folder))
    assert stream.classes == tokenizer.get_vocab_size()
    tokens = everything_in(stream[0].train).x.flatten()
    end = int((tokens == 1).nonzero()[0])
    assert tokenizer.decode(tokens[:end].tolist()).replace(" ", "").startswith("Thisisthedocumentcalledchat")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"is no tokenizer\.json"):
        language(str(corpus), tokenizer=str(folder))
    with pytest.raises(UsageError, match=r"expected the path of a tokenizer\.json, or of a folder"):
        language(str(corpus), tokenizer=str(folder / "none"))


def test_long_documents_are_cut_where_a_line_ends():
    assert list(pieces("short")) == ["short"]
    text = "\n".join(lines("x", 3000))
    parts = list(pieces(text))
    assert "".join(parts) == text
    assert all(part.endswith("\n") for part in parts[:-1])
    line = "x" * (3 * PIECE)  # without an end
    assert [len(part) for part in pieces(line)] == [PIECE] * 3
    assert list(pieces("")) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad/a.txt", b"\x00\x01binary", "a.txt is no text: it has a byte of 0"),
        ("bad/a.txt", "f\xfcr".encode("latin-1"), "a.txt is no utf-8 .byte 1.. Expected stream.encoding=latin-1"),
        ("bad.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "line 2 has no text under 'text', but 'txt'"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is no JSON"),
        ("bad.jsonl", '{"text": "für"}'.encode("latin-1"), "^[^(]*bad.jsonl is no utf-8 .byte 11"),
        ("bad.jsonl", b"[1]\n", "line 1 is no object but list"),
        ("bad/a.txt", b"", "bad: 0 tokens to learn from, of 0 different documents"),
        ("bad.txt", b"", "bad: 0 tokens to learn from"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        language(str(tmp_path))


def test_other_encodings_and_wrong_words(corpus):
    (corpus / "old.txt").write_bytes("\n".join(lines("f\xfcr", 4000)).encode("latin-1"))
    stream = language(str(corpus), tasks=["old"], encoding="latin-1", length=32)
    assert bytes([0xC3, 0xBC]).decode("latin-1") in text_of(stream[0].train)  # two bytes of utf-8
    (corpus / "notes" / "old.txt").write_bytes(b"f\xfcr")
    with pytest.raises(UsageError, match=r"old\.txt is no utf-8 .* stream\.skip_unreadable=true"):
        language(str(corpus), tasks=["notes"], length=32)
    assert language(str(corpus), tasks=["notes"], length=32, skip_unreadable=True)
    with pytest.raises(UsageError, match=r"stream\.encoding='latin-x'"):
        language(str(corpus), tasks=["old"], encoding="latin-x")
    with pytest.raises(UsageError, match=r"stream\.tasks='boook'.*book"):
        language(str(corpus), tasks=["boook"])
    with pytest.raises(UsageError, match=r"stream\.held_out='no'"):
        language(str(corpus), held_out=["no"])
    with pytest.raises(UsageError, match="there is no such folder"):
        language(str(corpus / "nowhere"))
    (corpus / "chat.txt").write_text("twice")
    with pytest.raises(UsageError, match="several files or folders called chat"):
        language(str(corpus))


def test_a_word_may_be_in_the_test_data_alone():
    train, test = torch.tensor([[1, 2, 3], [2, 3, 1]]), torch.tensor([[1, 2, 7]])
    stream = from_tasks([((train, train), (test, test))], scenario="domain")
    assert stream.classes == 8


def test_what_is_installed_needs_no_files():
    assert {"docstrings", "python", "cpp"} <= set(domains_in(None, "utf-8"))
    stream = language(tasks=["python", "docstrings"], length=64, tokens_per_task=20_000, test_tokens=2000)
    assert "import" in text_of(stream[0].train)
    assert "def __init__(self" not in text_of(stream[1].train)


def test_a_pattern_that_no_token_has_matters_only_where_it_is_asked_for(tmp_path):
    """The default group is numbers, and a tokenizer of one's own may know none."""
    own = Tokenizer(models.WordLevel({"<eos>": 0, "up": 1, "down": 2, "?": 3}, unk_token="?"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.save(str(tmp_path / "tokenizer.json"))
    rng = random.Random(0)
    (tmp_path / "texts").mkdir()
    rows = [{"text": " ".join(rng.choices(["up", "down"], k=40))} for _ in range(200)]
    (tmp_path / "texts" / "ways.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"length": 16, "tokenizer": str(tmp_path / "tokenizer.json"), "held_out": ["ways"], "tasks": ["ways"]}
    stream = language(str(tmp_path / "texts"), token_groups={"numbers": r"^\W?[0-9]+$"}, **settings)
    assert stream.groups is not None
    with pytest.raises(UsageError, match=r"none of the 4 tokens .* or stream\.token_groups\.numbers=null"):
        probing.check(8, stream)
    probing.check(None, stream)
    probing.check(8, language(str(tmp_path / "texts"), token_groups={"numbers": None}, **settings))
    named = language(str(tmp_path / "texts"), token_groups={"down": "^d"}, **settings)
    assert named.groups is not None
    assert named.groups() == {"down": (2,)}


ODD = "Grüße,  aus\tKöln \u4e2d\u6587 \U0001f600!\n"


@pytest.mark.parametrize("kind", ["bytes", "byte_level", "byte_fallback"])
def test_the_bytes_of_a_texts_tokens_are_the_bytes_of_the_text(kind, tmp_path):
    tokens = tokens_for(None if kind == "bytes" else _trained(kind, tmp_path))
    lengths, texts = tokens.octets, [ODD, "plain words and so on", ODD[::-1]]
    lead = 1 if kind == "byte_fallback" else 0  # SentencePiece writes a space before a text
    for text, ids in zip(texts, tokens.documents(texts), strict=True):
        assert lengths[torch.from_numpy(ids).long()].sum() == lead + len(text.encode())


def test_tokens_that_do_not_say_all_of_a_text_have_no_bytes(tmp_path):
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "[SEP]": 1, "a": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert tokens_for(str(tmp_path)).octets is None


def _trained(kind, folder):
    if kind == "byte_level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
        alphabet, special = pre_tokenizers.ByteLevel.alphabet(), []
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        alphabet, special = [], ["<unk>"]
    octets = [f"<0x{i:02X}>" for i in range(256)] if special else []
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*special, "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(lines("any"), trainer)
    if octets:  # the trainer would make them special, which they are not
        model = json.loads(tokenizer.to_str())
        model["model"]["vocab"] |= {o: len(model["model"]["vocab"]) + i for i, o in enumerate(octets)}
        tokenizer = Tokenizer.from_str(json.dumps(model))
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def test_a_run_ends_with_bits_a_byte(corpus, tmp_path):
    """Of bytes: the loss in bits, and a little more, since what ends a document costs bits and is no byte."""
    folder = tmp_path / "run"
    code, error = in_process(
        "stream=language", f"stream.path={corpus}", "stream.length=32", "stream.tokens_per_task=2000", "stream.tasks=[chat]",
        "stream.held_out=[notes]", "model=decoder", "model.width=16", f"hydra.run.dir={folder}",
    )  # fmt: skip
    assert code == 0, error
    found = json.loads((folder / "result.json").read_text())
    stream = language(str(corpus), tasks=["chat"], held_out=["notes"], length=32, tokens_per_task=2000)
    for losses, bits, source in (
        (found["loss"][0], found["bits_per_byte"]["tasks"][0], stream[0].test),
        (found["held_out"]["notes"]["loss"], found["bits_per_byte"]["held_out"]["notes"], stream.suites[0].source),
    ):
        text = int((source.labels < 256).sum())
        assert bits[0] == pytest.approx(losses[0] / math.log(2) * source.labels.numel() / text)
        assert 1 < source.labels.numel() / text < 1.03
