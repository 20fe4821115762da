"""Files that are whole or not there, and folders that have one owner."""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from frostline.core.checks import UsageError

PART = ".part"  # what a file is called while it is written
LOCK = ".lock"


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` when the block ends well; a kill leaves the old one whole.

    Text is UTF-8; who may read it is for the umask to say.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    text: dict[str, Any] = {} if "b" in mode else {"newline": "", "encoding": "utf-8"}
    try:
        with own.open(mode.replace("w", "x"), **text) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(own, path)
    except BaseException:
        own.unlink(missing_ok=True)
        raise


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a folder for the block; UsageError, with the host and the process, while somebody else does.

    The lock is the operating system's and goes with the process that holds it, however it ends: none is ever stale. What a
    kill left half written is removed.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, is_singleton=True, mode=0o644)
        lock.acquire(timeout=0)
    except Timeout:
        who = (folder / LOCK).read_text().strip() or "another process"
        raise UsageError(f"{folder} belongs to {who} now. Expected another folder, or to wait for its end.") from None
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written ({error.strerror}). Expected another folder: hydra.run.dir=FOLDER."
        ) from error
    try:
        if lock.lock_counter == 1:
            (folder / LOCK).write_text(f"process {os.getpid()} on {socket.gethostname()}")
            for left in folder.rglob(f".*{PART}"):
                left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def make_folder(folder: Path, key: str) -> None:
    """Make a folder, with those above it; UsageError where it cannot be. key: the setting that names it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_be_made(folder, key, error) from error


def cannot_be_made(folder: Path, key: str, error: OSError) -> UsageError:
    """Return the error that says so."""
    return UsageError(
        f"{folder.absolute()} cannot be made ({error.strerror}). Expected a folder to write to: {key}=FOLDER."
    )
