import pickle

import pytest
import torch

from frostline.core.files import atomic_write
from frostline.records import checkpoints

REST = dict.fromkeys(checkpoints.KEYS)


class Bomb:
    def __reduce__(self):
        return (print, ("code ran while a checkpoint was read",))


def save(folder, state):
    checkpoints.Saver(folder)({**REST, "model": {}, **state})


def test_round_trip(tmp_path):
    save(tmp_path, {"a": torch.arange(3), "b": [1, "x", None]})
    state = checkpoints.load(tmp_path)
    assert torch.equal(state["a"], torch.arange(3))
    assert state["b"] == [1, "x", None]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"cut"])
def test_damaged_is_refused_and_left_alone(tmp_path, damage):
    save(tmp_path, {"a": torch.arange(1000)})
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()[:500] if damage == b"cut" else damage
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged or was not written by frostline"):
        checkpoints.load(tmp_path)
    assert path.read_bytes() == content


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_foreign_is_refused_and_no_code_runs(tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": torch.arange(3)}, path)
    with pytest.raises(ValueError, match="not a checkpoint of this version"):
        checkpoints.load(tmp_path)
    torch.save(Bomb(), path)
    with pytest.raises(ValueError, match="damaged or was not written"):
        checkpoints.load(tmp_path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="damaged or was not written"):
        checkpoints.load(tmp_path)
    assert "code ran" not in capsys.readouterr().out


def test_missing(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        checkpoints.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no checkpoint\.pt"):
        checkpoints.load(tmp_path)
    save(tmp_path / "0", {})
    with pytest.raises(ValueError, match="subfolders 0 hold runs"):
        checkpoints.load(tmp_path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    with atomic_write(path) as f:
        f.write("old")

    def interrupted():
        with atomic_write(path) as f:
            f.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def sizes(folder):
    return {p.name.split("-")[0]: p.stat().st_size for p in folder.iterdir()}


def test_a_delta_holds_what_changed_since_the_base(tmp_path):
    model = {f"layer{i}": torch.randn(100, 100) for i in range(10)}
    saver = checkpoints.Saver(tmp_path, delta=True)
    saver({**REST, "model": model})
    first = sizes(tmp_path)
    assert first["base"] > 400_000 > 10_000 > first["checkpoint.pt"]
    model["layer9"] = model["layer9"] + 1
    saver({**REST, "model": model})
    assert 40_000 < sizes(tmp_path)["checkpoint.pt"] < 60_000
    back = checkpoints.load(tmp_path)["model"]
    assert back.keys() == model.keys()
    assert all(torch.equal(back[n], v) for n, v in model.items())
    again = checkpoints.Saver(tmp_path, delta=True)  # as a resumed run
    base = next(tmp_path.glob("base-*"))
    again({**REST, "model": back})
    assert list(tmp_path.glob("base-*")) == [base]
    again({**REST, "model": {n: v + 1 for n, v in back.items()}})  # everything moves: a new base, and only that
    (newest,) = tmp_path.glob("base-*")
    assert newest != base
    assert all(torch.equal(v, back[n] + 1) for n, v in checkpoints.load(tmp_path)["model"].items())
    checkpoints.Saver(tmp_path)({**REST, "model": back})
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_kill_between_base_and_checkpoint_leaves_the_old_pair(tmp_path, monkeypatch):
    model = {"a": torch.zeros(1000)}
    saver = checkpoints.Saver(tmp_path, delta=True)
    saver({**REST, "model": model})
    plain = torch.save

    def die(content, f):
        if "position" in content:
            raise KeyboardInterrupt
        plain(content, f)

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        saver({**REST, "model": {"a": torch.ones(1000)}, "position": 1})
    assert torch.equal(checkpoints.load(tmp_path)["model"]["a"], torch.zeros(1000))


def test_a_delta_without_its_base_says_so(tmp_path):
    checkpoints.Saver(tmp_path, delta=True)({**REST, "model": {"a": torch.zeros(1000)}})
    next(tmp_path.glob("base-*")).unlink()
    with pytest.raises(ValueError, match="both files belong together"):
        checkpoints.load(tmp_path)


def test_seeds_that_learn_together_go_on_from_one_moment(tmp_path):
    """A kill while they write: what one of them has made count counts for all, what nobody has is forgotten."""

    def moment(folder):
        return checkpoints.load(folder)["progress"]["step"]

    def state(step):
        return {**REST, "model": {}, "progress": {"task": 0, "part": 0, "step": step}}

    folders = [tmp_path / f"seed_{seed}" for seed in range(3)]
    savers = [checkpoints.Saver(folder, waits=True) for folder in folders]
    for folder, saver in zip(folders, savers, strict=True):
        folder.mkdir()
        saver(state(1))
    for saver in savers:
        saver.settle()
    for saver in savers[:2]:  # killed before the third wrote
        saver(state(2))
    assert [moment(folder) for folder in folders] == [1, 1, 1]
    checkpoints.agree(folders)
    for saver in savers:
        saver(state(3))
    savers[0].settle()  # killed before the others
    assert [moment(folder) for folder in folders] == [3, 1, 1]
    checkpoints.agree(folders)
    assert [moment(folder) for folder in folders] == [3, 3, 3]
    assert not list(tmp_path.rglob("*next*"))
