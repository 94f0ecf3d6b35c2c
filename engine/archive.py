"""The container of an artifact: a stored (uncompressed) zip of a few members, each at a 64-byte boundary.

There is exactly one file for given members: the headers follow from names, sizes and checksums, times are fixed, nothing may lie
between, before or behind. Reading rebuilds the headers and compares them with the file's, so that whatever a hostile zip may say
(members that overlap or occur twice, compressed ones, paths, lying sizes, two directories) is refused by one comparison.
Source of the format: PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.5.3 (sizes are always given in 64 bits).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import struct
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ir.errors import ArtifactError

ALIGN = 64
MOST_MEMBERS = 16
REMAKE = "copy the file again, or make it anew with save()"
_LOCAL, _CENTRAL, _END64, _LOCATOR, _END = 0x04034B50, 0x02014B50, 0x06064B50, 0x07064B50, 0x06054B50
_VERSION, _DATE, _MODE = 45, 0x21, 0o100644 << 16  # zip64; 1 January 1980; a file that its owner may write
_PADDING = 0xD935  # the extra field that zipalign pads with
_TAIL = 56 + 20 + 22  # the three records at the end
_BIG = 0xFFFFFFFF


def canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def sha256_of(parts: Sequence[Any]) -> str:
    h = hashlib.sha256()
    for p in parts:
        h.update(p)
    return h.hexdigest()


@dataclass(frozen=True)
class Member:
    """A member's name, bytes and CRC-32, and where its contents start in the file."""

    name: str
    nbytes: int
    crc: int
    start: int = 0


def headers(members: Sequence[Member]) -> tuple[list[Member], list[bytes], bytes]:
    """The members with their places, the header before each, and the directory that ends the file."""
    placed, local, central, at = [], [], b"", 0
    for m in members:
        name = m.name.encode()
        sizes = struct.pack("<HHQQ", 1, 16, m.nbytes, m.nbytes)
        before = at + 30 + len(name) + len(sizes) + 4
        padding = -before % ALIGN
        common = struct.pack("<HHHHHIII", _VERSION, 0x800, 0, 0, _DATE, m.crc, _BIG, _BIG) + struct.pack("<H", len(name))
        extra = sizes + struct.pack("<HH", _PADDING, padding) + bytes(padding)
        local.append(struct.pack("<I", _LOCAL) + common + struct.pack("<H", len(extra)) + name + extra)
        places = struct.pack("<HHQQQ", 1, 24, m.nbytes, m.nbytes, at)
        central += struct.pack("<IH", _CENTRAL, 3 << 8 | _VERSION) + common
        central += struct.pack("<HHHHII", len(places), 0, 0, 0, _MODE, _BIG) + name + places
        placed.append(Member(m.name, m.nbytes, m.crc, before + padding))
        at = before + padding + m.nbytes
    n = len(members)
    end = struct.pack("<IQHHIIQQQQ", _END64, 44, 3 << 8 | _VERSION, _VERSION, 0, 0, n, n, len(central), at)
    end += struct.pack("<IIQI", _LOCATOR, 0, at + len(central), 1)
    end += struct.pack("<IHHHHIIH", _END, 0, 0, n, n, len(central), _BIG, 0)
    return placed, local, central + end


def write_archive(path: str | os.PathLike, members: Mapping[str, Sequence[Any]]) -> None:
    """Writes members, each a sequence of buffers, beside `path` and moves the file there."""
    views = {name: [memoryview(b).cast("B") for b in parts if memoryview(b).nbytes] for name, parts in members.items()}
    listed = []
    for name, parts in views.items():
        crc = 0
        for part in parts:
            crc = zlib.crc32(part, crc)
        listed.append(Member(name, sum(p.nbytes for p in parts), crc))
    _, local, directory = headers(listed)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=Path(path).parent, suffix=".gmill.tmp", delete=False) as f:
            temporary = f.name
            for header, parts in zip(local, views.values()):
                f.write(header)
                for part in parts:
                    f.write(part)
            f.write(directory)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Archive:
    """An artifact's file, mapped. Raises ArtifactError where it is not exactly what `write_archive` writes."""

    def __init__(self, path: str | os.PathLike):
        self.name = os.path.basename(os.fspath(path))
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a FIFO is not waited for
        with open(fd, "rb") as f:
            info = os.fstat(f.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise ArtifactError(f"{self.name} is no regular file; expected an artifact that save() wrote")
            if info.st_size < _TAIL:
                self.refuse("the directory", f"the file has {info.st_size} bytes, expected at least {_TAIL}")
            self.map = memoryview(mmap.mmap(f.fileno(), info.st_size, access=mmap.ACCESS_READ))
        self.members = {m.name: m for m in self._members()}

    def refuse(self, member: str, problem: str, advice: str = REMAKE) -> None:
        raise ArtifactError(f"{self.name}: {member}: {problem}; {advice}")

    def _members(self) -> list[Member]:
        total = self.map.nbytes
        count, size, at = struct.unpack_from("<QQQ", self.map, total - _TAIL + 32)
        whole = "expected what save() writes, whole and unchanged"
        if count > MOST_MEMBERS or size > count * 256 or at + size + _TAIL != total:
            self.refuse("the directory", f"it is cut off, or no artifact's: {whole}")
        found, where = [], at
        for _ in range(count):
            if where + 46 > total - _TAIL:
                self.refuse("the directory", f"it ends early; {whole}")
            crc, n = struct.unpack_from("<I", self.map, where + 16)[0], struct.unpack_from("<H", self.map, where + 28)[0]
            if where + 46 + n + 28 > total - _TAIL:
                self.refuse("the directory", f"it ends early; {whole}")
            name = bytes(self.map[where + 46 : where + 46 + n])
            nbytes = struct.unpack_from("<Q", self.map, where + 46 + n + 4)[0]
            if not name.isascii() or nbytes > total:
                self.refuse("the directory", f"it names {name[:40]!r} of {nbytes} bytes, in a file of {total}; {whole}")
            found.append(Member(name.decode("ascii"), nbytes, crc))
            where += 46 + n + 28
        placed, local, directory = headers(found)
        if len({m.name for m in found}) < count or self.map[at:] != directory:
            self.refuse("the directory", f"its members overlap, occur twice or are not stored as they are; {whole}")
        for m, header in zip(placed, local):
            if m.start + m.nbytes > at or self.map[m.start - len(header) : m.start] != header:
                self.refuse(m.name, f"its header contradicts the directory; {whole}")
        return placed

    def member(self, name: str) -> memoryview:
        """The contents of a member; nothing is read."""
        if name not in self.members:
            self.refuse(name, f"it is missing; the file has {', '.join(self.members) or 'nothing'}")
        m = self.members[name]
        return self.map[m.start : m.start + m.nbytes]
