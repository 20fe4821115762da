import pickle

import pytest
import torch

from frostline import checkpoints
from frostline.files import atomic_write


class Bomb:
    def __reduce__(self):
        return (print, ("code ran while a checkpoint was read",))


def test_round_trip(tmp_path):
    checkpoints.save(tmp_path, {"a": torch.arange(3), "b": [1, "x", None]})
    state = checkpoints.load(tmp_path)
    assert torch.equal(state["a"], torch.arange(3))
    assert state["b"] == [1, "x", None]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"cut"])
def test_damaged_is_refused_and_left_alone(tmp_path, damage):
    checkpoints.save(tmp_path, {"a": torch.arange(1000)})
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
    checkpoints.save(tmp_path / "0", {})
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
