"""Documents by domain: folders of text files, rows with a text, or what is installed anyway."""

import ast
import hashlib
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from frostline.core.checks import UsageError
from frostline.streams.rows import ENDINGS, Places, Rows, UnreadableError, decoded, has_rows, places, text_in

INSTALLED = {  # what most environments have, by how its files are called
    "docstrings": "*.py",
    "python": "*.py",
    "cpp": "*.h",
    "stubs": "*.pyi",
    "readmes": "METADATA",
}
LARGEST_INSTALLED = 400_000  # bytes; larger ones are generated
PIECE = 2**13  # characters; a longer document is several
TEXTS = (".txt", ".md")


class Documents(Protocol):
    """The documents of a domain; `place`: the file or folder that they are in, or the name of a data set."""

    place: Path

    def __call__(self) -> Iterator[tuple[str, bool | None]]:
        """Yield each text, and whether to test on it where something says so."""
        ...


def domains_in(path: str | Places | None, encoding: str, skip: bool = False) -> dict[str, Documents]:
    """Return what reads each domain's documents: see rows.places; without a path what is installed.

    A domain is a folder of text files, a document each; a .txt or .md, which is one document; or rows with `text`, a document
    each: a .jsonl, a .parquet, a data set of Hugging Face's. Hidden files are left out, and with `skip` files in a folder that
    cannot be read as text. Files of a folder come in an order of their own, that of a hash of their names.
    """
    if path is None:
        root = Path(sysconfig.get_paths()["purelib"])
        return {name: _Installed(name, root) for name in INSTALLED}
    return {name: _reader(place, encoding, skip) for name, place in places(path, (*TEXTS, *ENDINGS)).items()}


def _reader(place: str, encoding: str, skip: bool) -> Documents:
    path = Path(place).expanduser()
    if path.suffix in TEXTS or (path.is_dir() and not has_rows(path)):
        return _Texts(path, encoding, skip)
    return _Column(path, Rows(place, encoding))


def pieces(document: str) -> Iterator[str]:
    """Yield a long document in pieces, cut where a line ends if any does, so that some can be held out to test on."""
    start = 0
    while start < len(document):
        end = start + PIECE
        cut = document.rfind("\n", start, end) + 1 if end < len(document) else 0
        yield document[start : cut or end]
        start = cut or end


def is_test(mark: bytes, share: float) -> bool:
    """Tell whether a document is one to test on, by its fingerprint: however often it comes, it is on one side."""
    return int.from_bytes(mark[:4], "big") < share * 2**32


def fingerprint(document: str) -> bytes:
    """Return a hash of a document's words: copies that differ in spaces, digits, punctuation or case have the same one."""
    words = " ".join(re.findall(r"[^\W\d_]+", document.lower())) or document
    return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _by_hash(path: Path) -> bytes:
    return hashlib.blake2b(path.name.encode("utf-8", "surrogatepass"), digest_size=8).digest() + str(path).encode()


class _Texts:
    def __init__(self, place: Path, encoding: str, skip: bool):
        self.place, self.encoding, self.skip = place, encoding, skip

    def __call__(self) -> Iterator[tuple[str, bool | None]]:
        for path in _files(self.place) if self.place.is_dir() else [self.place]:
            try:
                text = decoded(path.read_bytes(), path, self.encoding)
            except UnreadableError as error:
                if self.skip and self.place.is_dir():
                    continue
                raise UsageError(f"{error} Or leave such files out: stream.skip_unreadable=true.") from error
            yield text, None


class _Column:
    def __init__(self, place: Path, rows: Rows):
        self.place, self.rows = place, rows

    def __call__(self) -> Iterator[tuple[str, bool | None]]:
        for where, row, side in self.rows():
            yield text_in(row, "text", where), side


class _Installed:
    def __init__(self, name: str, place: Path):
        self.name, self.place = name, place

    def __call__(self) -> Iterator[tuple[str, bool | None]]:
        for path in _files(self.place, INSTALLED[self.name]):
            if not 1000 < path.stat().st_size < LARGEST_INSTALLED:
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            if self.name == "docstrings":
                text = _prose(text)
            if len(text) > 500 and max(map(len, text.splitlines())) < 2000:  # else it is made for machines
                yield text, None


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    def shown(path: Path) -> bool:
        return not any(part.startswith(".") for part in path.relative_to(folder).parts)

    return sorted((p for p in folder.rglob(pattern) if shown(p) and p.is_file()), key=_by_hash)


def _prose(source: str) -> str:
    """Return the docstrings of a Python file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's escape sequences
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (ast.get_docstring(node) for node in _statements(tree) if isinstance(node, kinds))
    return "\n\n".join(text for text in texts if text)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield a file's statements in the order of ast.walk, which would look through every expression as well."""
    nodes: list[ast.AST] = [tree]
    for node in nodes:  # grows meanwhile
        yield node
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(value, list):
                nodes += [v for v in value if isinstance(v, ast.stmt | ast.ExceptHandler | ast.match_case)]
