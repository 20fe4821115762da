"""Documents by domain: folders of text files, files of JSON Lines, or what is installed anyway."""

import ast
import hashlib
import json
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from frostline.core.checks import UsageError

INSTALLED = {  # what most environments have, by how its files are called
    "docstrings": "*.py",
    "python": "*.py",
    "cpp": "*.h",
    "stubs": "*.pyi",
    "readmes": "METADATA",
}
LARGEST_INSTALLED = 400_000  # bytes; larger ones are generated
PIECE = 2**13  # characters; a longer document is several
Documents = Callable[[], Iterator[str]]


def domains_in(path: str | None, encoding: str, skip: bool = False) -> dict[str, Documents]:
    """Return what reads each domain's documents: of a folder, its folders and files of text; else what is installed.

    FOLDER/DOMAIN/ holds text files, a document each; FOLDER/DOMAIN.txt is one document; FOLDER/DOMAIN.jsonl has one a line,
    as {"text": ...}. Hidden files are left out, and with `skip` files in a folder that cannot be read as text. Documents
    come in an order of their own, that of a hash of their names.
    """
    if path is None:
        root = Path(sysconfig.get_paths()["purelib"])
        return {name: _Installed(name, root) for name in INSTALLED}
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UsageError(
            f"stream.path={path!r}: there is no such folder. Expected one with a folder of text files, a .txt or a .jsonl for "
            "each domain."
        )
    found: dict[str, Documents] = {}
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.stem in found:
            raise UsageError(f"{root}: there are several files or folders called {entry.stem}. Expected one a domain.")
        if entry.is_dir() or entry.suffix in (".txt", ".md"):
            found[entry.stem] = _Texts(entry, encoding, skip)
        elif entry.suffix == ".jsonl":
            found[entry.stem] = _Lines(entry, encoding)
    if not found:
        raise UsageError(f"stream.path={path!r} holds no folders, no .txt and no .jsonl. Expected one for each domain.")
    return found


def pieces(document: str) -> Iterator[str]:
    """Yield a long document in pieces, cut where a line ends if any does, so that some can be held out to test on."""
    start = 0
    while start < len(document):
        end = start + PIECE
        cut = document.rfind("\n", start, end) + 1 if end < len(document) else 0
        yield document[start : cut or end]
        start = cut or end


def is_test(document: str, share: float) -> bool:
    """Tell whether a document is one to test on, by a hash of what it says: however often it comes, it is on one side."""
    return int.from_bytes(fingerprint(document)[:4], "big") < share * 2**32


def fingerprint(document: str) -> bytes:
    """Return a hash of a document's words: copies that differ in spaces, digits, punctuation or case have the same one."""
    words = " ".join(re.findall(r"[^\W\d_]+", document.lower())) or document
    return hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _by_hash(path: Path) -> bytes:
    return hashlib.blake2b(path.name.encode("utf-8", "surrogatepass"), digest_size=8).digest() + str(path).encode()


class UnreadableError(UsageError):
    """A file is no text of the encoding."""


class _Texts:
    def __init__(self, path: Path, encoding: str, skip: bool):
        self.path, self.encoding, self.skip = path, encoding, skip

    def __call__(self) -> Iterator[str]:
        for path in _files(self.path) if self.path.is_dir() else [self.path]:
            try:
                text = _decoded(path.read_bytes(), path, self.encoding)
            except UnreadableError as error:
                if self.skip and self.path.is_dir():
                    continue
                raise UsageError(f"{error} Or leave such files out: stream.skip_unreadable=true.") from error
            yield text


class _Lines:
    def __init__(self, path: Path, encoding: str):
        self.path, self.encoding = path, encoding

    def __call__(self) -> Iterator[str]:
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                where = f"{self.path}, line {number}"
                try:
                    row = json.loads(_decoded(raw, self.path, self.encoding))
                except ValueError as error:
                    raise UsageError(f'{where} is no JSON ({error}). Expected {{"text": ...}} in each line.') from error
                if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                    known = f", but {', '.join(map(repr, row))}" if isinstance(row, dict) else ""
                    raise UsageError(f'{where} has no text under "text"{known}. Expected {{"text": ...}} in each line.')
                yield row["text"]


class _Installed:
    def __init__(self, name: str, root: Path):
        self.name, self.root = name, root

    def __call__(self) -> Iterator[str]:
        for path in _files(self.root, INSTALLED[self.name]):
            if not 1000 < path.stat().st_size < LARGEST_INSTALLED:
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            if self.name == "docstrings":
                text = _prose(text)
            if len(text) > 500 and max(map(len, text.splitlines())) < 2000:  # else it is made for machines
                yield text


def _files(folder: Path, pattern: str = "*") -> list[Path]:
    def shown(path: Path) -> bool:
        return not any(part.startswith(".") for part in path.relative_to(folder).parts)

    return sorted((p for p in folder.rglob(pattern) if shown(p) and p.is_file()), key=_by_hash)


def _decoded(raw: bytes, path: Path, encoding: str) -> str:
    if b"\0" in raw and "16" not in encoding and "32" not in encoding:
        raise UnreadableError(f"{path} is no text: it has a byte of 0. Expected text, or stream.encoding=utf-16.")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"{path} is no {encoding} (byte {error.start}). Expected stream.encoding=latin-1, or whichever it is in."
        ) from error
    except LookupError as error:
        raise UsageError(f"stream.encoding={encoding!r}: {error}. Expected utf-8, latin-1, utf-16, ...") from error


def _prose(source: str) -> str:
    """Return the docstrings of a Python file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's escape sequences
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return "\n\n".join(text for text in texts if text)
