"""The folder where compiled kernels are kept: `GRAPHMILL_CACHE`, else the user's cache folder.

A kernel is one file `objects/<first two digits>/<key>.o`: SHA-256 of the rest, length of the JSON that says what the key was made
of, that JSON, the object. A file is written beside its place and moved there, so that none is ever seen half written, however
many processes write and whenever one is killed; what a killed one left is removed by the next that writes there. Files are
verified when read. A folder that cannot be written serves as it is.

`packed/<key>.json` says what types the packed weights of an artifact have that this machine packed before (see engine/artifact),
or what was measured of a problem on a GPU (see engine/tuning).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ABANDONED = 600  # seconds after which a file that is still being written never will be
USED_AGAIN = 86_400  # seconds after which reading a file marks it as used once more
_MOST_ABOUT = 1 << 16  # bytes of JSON at the head of an object


def cache_dir() -> Path:
    """The folder of the cache."""
    if os.environ.get("GRAPHMILL_CACHE"):
        return Path(os.environ["GRAPHMILL_CACHE"])
    import platformdirs

    return Path(platformdirs.user_cache_dir("graphmill"))


def object_path(key: str) -> Path:
    return cache_dir() / "objects" / key[:2] / f"{key}.o"


def receipt_path(key: str) -> Path:
    return cache_dir() / "packed" / f"{key}.json"


def writable() -> bool:
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(cache_dir(), os.W_OK)


# ---- reading and writing ----------------------------------------------------------------------------------------


def read_cached(key: str) -> bytes | None:
    """The object of that key, None where there is none or where it is damaged."""
    raw = _read(object_path(key))
    found = None if raw is None else _verified(raw)
    return None if found is None else found[1]


def write_cached(key: str, data: bytes, about: Mapping[str, Any]) -> bool:
    """Stores an object and what its key was made of; False where the folder does not let us."""
    head = json.dumps(about, sort_keys=True).encode()
    body = len(head).to_bytes(4, "little") + head + data
    return _write(object_path(key), hashlib.sha256(body).digest() + body)


def read_receipt(key: str) -> Any:
    """What `write_receipt` stored, None where there is nothing that can be read."""
    raw = _read(receipt_path(key))
    try:
        return None if raw is None else json.loads(raw)
    except (ValueError, RecursionError):
        return None


def write_receipt(key: str, value: Any) -> bool:
    return _write(receipt_path(key), json.dumps(value).encode())


def _read(path: Path) -> bytes | None:
    try:
        raw = path.read_bytes()
        if time.time() - path.stat().st_mtime > USED_AGAIN:
            with suppress(OSError):
                os.utime(path)  # what `prune` goes by
        return raw
    except OSError:
        return None


def _verified(raw: bytes) -> tuple[dict[str, Any], bytes] | None:
    """What is said of an object, and the object; None where the file is damaged."""
    about = _about(raw)
    if about is None or hashlib.sha256(memoryview(raw)[32:]).digest() != raw[:32]:
        return None
    return about, raw[36 + int.from_bytes(raw[32:36], "little") :]


def _about(raw: bytes) -> dict[str, Any] | None:
    n = int.from_bytes(raw[32:36], "little")
    if n > min(_MOST_ABOUT, len(raw) - 36):
        return None
    try:
        about = json.loads(raw[36 : 36 + n])
    except (ValueError, RecursionError):
        return None
    return about if isinstance(about, dict) else None


def _write(path: Path, data: bytes) -> bool:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as f:
            temporary = f.name
            f.write(data)
        os.replace(temporary, path)
        return True
    except OSError:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        return False


def remove_abandoned(folder: Path, pattern: str = "*.tmp") -> int:
    """Removes what killed processes left half written; how many files."""
    n = 0
    for path in folder.glob(pattern):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
                n += 1
    return n


# ---- what is there ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A file of the cache: `kind` is object or receipt, `used` when it was last read (to a day) or written."""

    path: Path
    kind: str
    nbytes: int
    used: float

    @property
    def key(self) -> str:
        return self.path.stem

    def about(self) -> dict[str, Any] | None:
        """What an object's key was made of, from the head of its file; None where that cannot be read."""
        if self.kind != "object":
            return {}
        try:
            with open(self.path, "rb") as f:
                head = f.read(36)
                return _about(head + f.read(min(_MOST_ABOUT, int.from_bytes(head[32:36], "little"))))
        except OSError:
            return None

    def is_good(self) -> bool:
        """Whether the whole file is as it was written."""
        raw = _read(self.path)
        if raw is None:
            return False
        return _verified(raw) is not None if self.kind == "object" else read_receipt(self.key) is not None


def entries() -> Iterator[Entry]:
    """All files of the cache. Those that vanish meanwhile are left out."""
    for kind, pattern in (("object", "objects/??/*.o"), ("receipt", "packed/*.json")):
        for path in sorted(cache_dir().glob(pattern)):
            with suppress(OSError):
                s = path.stat()
                yield Entry(path, kind, s.st_size, s.st_mtime)


def remove(found: Iterable[Entry]) -> list[Entry]:
    """Removes files, and what killed processes left; those that are gone now."""
    remove_abandoned(cache_dir(), "**/*.tmp")
    gone = []
    for e in found:
        with suppress(OSError):
            e.path.unlink(missing_ok=True)
            gone.append(e)
    return gone


def prunable(most_bytes: int | None = None, most_days: float | None = None) -> list[Entry]:
    """What has to go so that at most `most_bytes` are left and nothing unused for `most_days`: the longest unused go first."""
    now, held, out = time.time(), 0, []
    for e in sorted(entries(), key=lambda e: -e.used):
        held += e.nbytes
        old = most_days is not None and now - e.used > most_days * 86_400
        if old or (most_bytes is not None and held > most_bytes):
            out.append(e)
    return out


# ---- why something is not there ---------------------------------------------------------------------------------


def explain_misses(wanted: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """For each key and what it is made of: why the cache does not have it, by the nearest object of the same text."""
    known: dict[str, list[Mapping[str, Any]]] = {}
    for e in entries():
        about = e.about() if e.kind == "object" else None
        if about:
            known.setdefault(about.get("text", ""), []).append(about)
    return [_why(key, about, known.get(about["text"], [])) for key, about in wanted]


def _why(key: str, about: Mapping[str, Any], near: list[Mapping[str, Any]]) -> str:
    if object_path(key).exists():
        return "damaged: its file is not as it was written"
    if not near:
        return "text: no kernel of this text was compiled yet"
    best = min(near, key=lambda other: len(_differences(about, other)))
    return ", ".join(_differences(about, best)) or "it was stored while this process looked"


def _differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    out = []
    for field in sorted(now.keys() | then.keys()):
        a, b = then.get(field), now.get(field)
        if a == b:
            continue
        if field == "code":
            out.append("code: graphmill's kernel generator has changed")
        elif field == "features":
            old, new = set(str(a).split(",")), set(str(b).split(","))
            shown = [f"{x} is new" for x in sorted(new - old)] + [f"{x} is gone" for x in sorted(old - new)]
            out.append(f"features: {', '.join(shown[:4])}{', ...' if len(shown) > 4 else ''}")
        else:
            out.append(f"{field}: {a}, now {b}")
    return out
