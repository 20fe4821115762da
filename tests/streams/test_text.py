import pytest
import torch

from frostline.streams import package_docs


def test_real_texts_are_split_without_overlap():
    stream = package_docs(packages=["numpy", "scipy", "torch", "rich"], tasks=2, texts_per_package=60, length=16)
    assert stream.shape == (16,)
    assert [t.classes for t in stream.tasks] == [(0, 1), (2, 3)]
    task = stream[0]
    train, test = (next(iter(s.batches(len(s)))) for s in (task.train, task.test))
    assert train.x.dtype == torch.int64
    assert len(train) == 96
    assert len(test) == 24
    rows = {tuple(row) for row in train.x.tolist()}
    assert len(rows & {tuple(row) for row in test.x.tolist()}) <= 2  # texts differ, some only after 16 tokens
    assert (train.x[:, 0] == 101).all()  # [CLS]: MiniLM's own tokenizer
    again = package_docs(packages=["numpy", "scipy", "torch", "rich"], tasks=2, texts_per_package=60, length=16)
    assert torch.equal(next(iter(again[1].test.batches(99))).x, next(iter(stream[1].test.batches(99))).x)


def test_the_name_of_the_package_is_left_out():
    from tokenizers import Tokenizer

    from frostline.models.language import minilm_folder

    stream = package_docs(packages=["numpy", "scipy"], tasks=1, texts_per_package=40)
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    batch = next(iter(stream[0].train.batches(999)))
    for x, y in zip(batch.x.tolist(), batch.y.tolist(), strict=True):
        assert ["numpy", "scipy"][y] not in tokenizer.decode(x).replace(" ", "")


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match="'nunpy' is not an installed package"):
        package_docs(packages=["nunpy"], tasks=1)
    with pytest.raises(ValueError, match="not divisible by 3"):
        package_docs(tasks=3)
    with pytest.raises(ValueError, match=r"expected the path of a tokenizer\.json"):
        package_docs(packages=["numpy"], tasks=1, tokenizer="nowhere.json")


def test_the_name_is_left_out_in_any_case_and_a_package_is_one_class():
    from tokenizers import Tokenizer

    from frostline.models.language import minilm_folder

    stream = package_docs(packages=["PIL"], tasks=1, texts_per_package=200, length=64)
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    for x in next(iter(stream[0].train.batches(999))).x.tolist():
        words = tokenizer.decode(x).split()
        assert "pil" not in words
    with pytest.raises(ValueError, match="expected different packages"):
        package_docs(packages=["rich", "rich"], tasks=2)
