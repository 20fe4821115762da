"""Rows of text data by domain: JSON Lines, Parquet, and data sets of Hugging Face's, read one after another."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from frostline.core.checks import UsageError, one_of
from frostline.streams.frames import hugging_face, is_hugging_face, is_named, is_saved

ENDINGS = (".jsonl", ".parquet")
Row = dict[str, Any]
Places = Mapping[str, str]


def places(path: str | Places, endings: Sequence[str] = ENDINGS) -> dict[str, str]:
    """Return where each domain's data are: what a folder has, a folder or file for each, or what is named one by one.

    path: a folder; {domain: place}; or one place, whose last part names the domain. A place is a file of these endings, a
    folder, or the name of a data set of Hugging Face's, such as owner/name:configuration. Hidden files are left out.
    """
    if isinstance(path, Mapping):
        for name, place in path.items():
            if Path(place).suffix in endings and not Path(place).expanduser().is_file():
                raise UsageError(f"stream.path: {name}: {place}: there is no such file.")
        return {str(name): str(place) for name, place in path.items()}
    root = Path(path).expanduser()
    single = has_rows(root, deep=False) if root.is_dir() else root.is_file() or is_named(path)
    if single:
        return {stem(path): path}
    what = f"a folder, a {' or a '.join(endings)}"
    if not root.is_dir():
        raise UsageError(
            f"stream.path={path!r}: there is no such folder. Expected one with {what} for each domain, or a data set's name."
        )
    found: dict[str, str] = {}
    for entry in sorted(root.iterdir()):
        if entry.name.startswith(".") or not (entry.is_dir() or entry.suffix in endings):
            continue
        if entry.stem in found:
            raise UsageError(f"{root}: there are several files or folders called {entry.stem}. Expected one a domain.")
        found[entry.stem] = str(entry)
    if not found:
        raise UsageError(f"stream.path={path!r} holds nothing that is {what}. Expected one for each domain.")
    return found


def has_rows(folder: Path, deep: bool = True) -> bool:
    """Tell whether a folder holds rows rather than files of text or domains; deep: also where Parquet is somewhere in it."""
    return (folder / "train.jsonl").is_file() or is_saved(folder) or (deep and is_hugging_face(folder))


def chosen(
    known: Mapping[str, Any], tasks: Sequence[str] | None, held_out: Sequence[str], mixtures: bool = False
) -> list[str]:
    """Return the names of the tasks: those given, or all that are not held out. mixtures: a+b names both.

    UsageError where one is not known, or there is none.
    """
    names = list(tasks) if tasks is not None else [name for name in known if name not in held_out]
    for key, given in (("stream.tasks", names), ("stream.held_out", held_out)):
        for part in (part for name in given for part in (name.split("+") if mixtures else [name])):
            one_of(key, part, known)
    if not names:
        raise UsageError("stream.tasks=[]: expected at least one.")
    return names


def stem(path: str | Places) -> str:
    """Return what a stream of these data is called."""
    return Path(path).stem.partition(":")[0] if isinstance(path, str) else "own"


class Rows:
    """The rows of one place: those to learn from, and those to test on where they are told apart."""

    def __init__(self, place: str, encoding: str = "utf-8"):
        path = Path(place).expanduser()
        self._train: Callable[[], Iterator[tuple[str, Row]]]
        self._test: Callable[[], Iterator[tuple[str, Row]]] | None = None
        if path.suffix == ".jsonl":
            self._train = lambda: _lines(path, encoding)
        elif path.suffix == ".parquet":
            self._train = lambda: _parquet(path)
        elif (path / "train.jsonl").is_file():
            self._train = lambda: _lines(path / "train.jsonl", encoding)
            if (path / "test.jsonl").is_file():
                self._test = lambda: _lines(path / "test.jsonl", encoding)
        elif is_hugging_face(path):
            train, test = hugging_face(place)
            self._train = lambda: _numbered(place, train)
            self._test = None if test is None else lambda: _numbered(place, test)
        else:
            raise UsageError(
                f"{place}: expected a {' or a '.join(ENDINGS)}, a folder with train.jsonl (and test.jsonl), or a data set of "
                "Hugging Face's: what save_to_disk wrote, or a name such as owner/name:configuration."
            )

    def __call__(self) -> Iterator[tuple[str, Row, bool | None]]:
        """Yield where a row stands, the row, and whether to test on it, None where nothing says so; those to test on first."""
        if self._test is not None:
            for where, row in self._test():
                yield where, row, True
        for where, row in self._train():
            yield where, row, None if self._test is None else False


def decoded(raw: bytes, path: Path, encoding: str) -> str:
    """Return bytes as text; UnreadableError where they are none."""
    if b"\0" in raw and "16" not in encoding and "32" not in encoding:
        raise UnreadableError(f"{path} is no text: it has a byte of 0. Expected text, or stream.encoding=utf-16.")
    try:  # a mark at the beginning, as editors on Windows leave it, is no text
        return raw.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"{path} is no {encoding} (byte {error.start}). Expected stream.encoding=latin-1, or whichever it is in."
        ) from error
    except LookupError as error:
        raise UsageError(f"stream.encoding={encoding!r}: {error}. Expected utf-8, latin-1, utf-16, ...") from error


class UnreadableError(UsageError):
    """A file is no text of the encoding."""


def text_in(row: Row, key: str, where: str) -> str:
    """Return the text under a key of a row."""
    if not isinstance(row.get(key), str):
        raise UsageError(f"{where} has no text under {key!r}, but {', '.join(map(repr, row)) or 'nothing'}.")
    return row[key]


def _lines(path: Path, encoding: str) -> Iterator[tuple[str, Row]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            where, text = f"{path}, line {number}", decoded(raw, path, encoding)
            try:
                row = json.loads(text)
            except ValueError as error:
                raise UsageError(f"{where} is no JSON ({error}). Expected an object in each line.") from error
            if not isinstance(row, dict):
                raise UsageError(f"{where} is no object but {type(row).__name__}. Expected one in each line.")
            yield where, row


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UsageError(f"{path}: Parquet needs pyarrow: pip install 'frostline[huggingface]'.") from error
    try:
        for batch in ParquetFile(path).iter_batches(1024):
            yield from _numbered(str(path), batch.to_pylist())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no Parquet file: {str(error).splitlines()[0]}.") from error


def _numbered(place: str, rows: Any) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows, 1):
        yield f"{place}, row {number}", row
