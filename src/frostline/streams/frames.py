"""Reading tables: files, and Hugging Face data sets by folder or name, as data frames to learn from and to test on."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frostline.core.checks import UsageError, nearest

Frames = tuple[Any, Any]  # rows to learn from, and to test on or None
_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")  # owner/name:configuration


def read(path: str, pair: tuple[str, str], columns: Sequence[str | None] = ()) -> Frames:
    """Return the rows of a file, or of a data set of Hugging Face's: a folder or a name such as owner/name:configuration.

    pair: what the two columns of a list of [text, label] are called. columns: those that must be there. A data set's own test
    rows are told apart (its validation rows where it has no others), as are those of a JSON file that has `train` and `test`.
    """
    place = Path(path).expanduser()
    try:
        if place.is_dir() or (not place.suffix and not place.exists() and HUB_NAME.fullmatch(path)):
            found = _hugging_face(path)
        elif not place.is_file():
            raise UsageError(f"stream.path={path!r}: there is no such file. Expected {_ENDINGS}.")
        elif place.suffix not in _READERS:
            raise UsageError(f"stream.path={path!r}: expected {_ENDINGS}, not {place.suffix!r}.")
        else:
            found = _READERS[place.suffix](place, pair)
    except UsageError:
        raise
    except Exception as error:  # readers fail in many ways
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"stream.path={path!r} could not be read: {type(error).__name__}: {reason}.") from error
    for frame in (frame for frame in found if frame is not None):
        check_columns(frame, columns)
        if not len(frame):
            raise UsageError(f"stream.path={path!r} has no rows.")
    return found


def check_columns(frame: Any, columns: Sequence[str | None]) -> None:
    """Raise UsageError where a column is missing, or two have one name."""
    there = list(map(str, frame.columns))
    for column in columns:
        if column is not None and column not in frame.columns:
            raise UsageError(f"There is no column {column!r}.{nearest(column, there)} Columns: {', '.join(there)}.")
    twice = [name for name in there if there.count(name) > 1]
    if twice:
        raise UsageError(f"Two columns are called {twice[0]!r}: expected a name for each.")


def _csv(file: Path, pair: tuple[str, str]) -> Frames:
    """Read a table whose separator is the sign that its first line has most of: a comma, semicolon, tab or bar."""
    import pandas

    with file.open(encoding="utf-8-sig") as lines:
        header = lines.readline()
    separator = max(",;\t|", key=header.count)
    return pandas.read_csv(file, sep=separator, encoding="utf-8-sig", low_memory=False), None


def _parquet(file: Path, pair: tuple[str, str]) -> Frames:
    import pandas

    return pandas.read_parquet(file), None


def _lines(file: Path, pair: tuple[str, str]) -> Frames:
    with file.open(encoding="utf-8-sig") as lines:
        return _records([json.loads(line) for line in lines if line.strip()], pair), None


def _json(file: Path, pair: tuple[str, str]) -> Frames:
    content = json.loads(file.read_text(encoding="utf-8-sig"))
    if isinstance(content, list):
        return _records(content, pair), None
    if not isinstance(content, dict) or "train" not in content:
        raise UsageError(
            f"stream.path={str(file)!r}: expected a list of records, or one each under `train` and `test`."
        )
    return _records(content["train"], pair), _records(content["test"], pair) if "test" in content else None


def _records(rows: Any, pair: tuple[str, str]) -> Any:
    import pandas

    return pandas.DataFrame(rows, columns=list(pair)) if rows and isinstance(rows[0], list) else pandas.DataFrame(rows)


def _npz(file: Path, pair: tuple[str, str]) -> Frames:
    with file.open("rb") as f, np.load(f, allow_pickle=False) as arrays:  # given a name, it leaves damaged files open
        return _arrays(dict(arrays), pair[1], file)


def _safetensors(file: Path, pair: tuple[str, str]) -> Frames:
    from safetensors.numpy import load_file

    return _arrays(load_file(file), pair[1], file)


def _arrays(arrays: dict[str, np.ndarray], label: str, file: Path) -> Frames:
    """Return x [N, ...], y [N] and whatever else has an entry for each row, such as task [N]."""
    import pandas

    if "x" not in arrays or "y" not in arrays or len(arrays["x"]) != len(arrays["y"]):
        shapes = {name: list(a.shape) for name, a in arrays.items()}
        raise UsageError(f"stream.path={str(file)!r} holds {shapes}: expected x [N, ...] and y [N].")
    flat = arrays["x"].reshape(len(arrays["x"]), -1)
    frame = pandas.DataFrame(flat, columns=[f"x{i}" for i in range(flat.shape[1])])
    frame[label] = arrays["y"]
    for name, column in arrays.items():
        if name not in ("x", "y") and column.shape == (len(frame),):
            frame[name] = column
    return frame, None


_READERS: dict[str, Callable[[Path, tuple[str, str]], Frames]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".json": _json,
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".npz": _npz,
    ".safetensors": _safetensors,
}
_ENDINGS = ", ".join(_READERS) + ", or a Hugging Face data set's folder or name"


def is_saved(folder: Path) -> bool:
    """Tell whether a folder is what a data set's save_to_disk wrote."""
    return any((folder / name).is_file() for name in _SAVED)


def is_hugging_face(place: Path) -> bool:
    """Tell whether a folder holds a data set of Hugging Face's; owner/name, which is no folder, may be one's name."""
    if place.is_dir():
        return is_saved(place) or any(place.glob("**/*.parquet"))
    return is_named(str(place))


def is_named(place: str) -> bool:
    """Tell whether a place, which is nothing here, may be a data set's name: owner/name, name:configuration."""
    return HUB_NAME.fullmatch(place) is not None and ("/" in place or ":" in place) and not Path(place).exists()


def hugging_face(path: str) -> tuple[Any, Any]:
    """Return the training and the test rows of a data set of Hugging Face's, the latter None where it has none.

    A folder holds what save_to_disk wrote, or files that load_dataset knows; a name is fetched. No code of a data set's is run.
    """
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"stream.path={path!r}: data sets of Hugging Face's need `datasets`: pip install 'frostline[huggingface]'."
        ) from error
    datasets.disable_progress_bars()
    folder = Path(path).expanduser()
    try:
        if is_saved(folder):
            found: Any = datasets.load_from_disk(str(folder))
        elif folder.is_dir():
            found = datasets.load_dataset(str(folder))
        else:
            name, _, configuration = path.partition(":")
            found = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # network, cache, format: they fail in many ways
        what = "is no file or folder here, and could not be fetched" if not folder.exists() else "could not be read"
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"stream.path={path!r} {what}: {type(error).__name__}: {reason}.") from error
    if not isinstance(found, dict):
        return found, None
    splits = list(found)
    train = "train" if "train" in found else splits[0] if len(splits) == 1 else None
    if train is None:
        raise UsageError(f"stream.path={path!r} has the parts {', '.join(splits)}: expected one called train.")
    test = next((name for name in ("test", "validation") if name in found and name != train), None)
    return found[train], found[test] if test else None


def _hugging_face(path: str) -> Frames:
    """Return a data set's rows as data frames, its classes by name."""
    train, test = (_frame(part, path) for part in hugging_face(path))
    return train, test


def _frame(rows: Any, path: str) -> Any:
    if rows is None:
        return None
    images = [name for name, feature in rows.features.items() if type(feature).__name__ == "Image"]
    if images:
        raise UsageError(
            f"stream.path={path!r}: column {images[0]!r} holds images. Expected stream=image_folder stream.data_root={path}."
        )
    frame = rows.to_pandas()
    for name, feature in rows.features.items():
        if hasattr(feature, "int2str"):
            frame[name] = [feature.int2str(int(value)) if value >= 0 else None for value in frame[name]]
    return frame
