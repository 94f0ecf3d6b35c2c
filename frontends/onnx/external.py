"""External data: tensors whose bytes lie in a file beside the model.

A model names the file, so the name is hostile input: it must be a plain relative path below the model's folder, and no step of
it may be a symbolic link; the file must be a regular file with one name only (a hard link could be any file of the same
disk), and is never waited for (FIFOs, devices). Offsets and lengths are compared with the file's size. Every check is made
when the model is read and again when the bytes are mapped.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import onnx

from ...ir.errors import HostileModelError
from .problems import shown, text

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class ExternalData:
    """A checked range of a file: `map()` gives its bytes, read-only. `identity` is the file's inode, size and time."""

    folder: Path
    location: str
    offset: int
    length: int
    identity: tuple[int, ...]

    def map(self) -> np.ndarray:
        """The bytes, mapped read-only. Raises HostileModelError where the file is another than when the model was read."""
        fd = open_below(self.folder, self.location)
        with os.fdopen(fd, "rb") as f:
            if _identity(os.fstat(fd)) != self.identity:
                raise HostileModelError(
                    f"external data {shown(self.location)} changed after the model was read; read the model again"
                )
            if not self.length:
                return np.zeros(0, np.uint8)
            return np.memmap(f, np.uint8, "r", self.offset, (self.length,))


def locate(tensor: onnx.TensorProto, nbytes: int, folder: Path | None) -> ExternalData:
    """Checks where a tensor of `nbytes` bytes says that its data lies. Raises HostileModelError."""
    entries = {text(e.key): text(e.value) for e in tensor.external_data}
    location = entries.get("location", "")
    what = f"external data {shown(location)}"
    if folder is None:
        raise HostileModelError(f"{what}: the model was not read from a file; read it from its path, so that its folder is known")
    offset = _number(what, "offset", entries.get("offset", "0"))
    length = _number(what, "length", entries.get("length", str(nbytes)))
    if length != nbytes:
        raise HostileModelError(f"{what}: its length is given as {length} bytes, expected {nbytes} from the tensor's dims and type")
    fd = open_below(folder, location)
    try:
        info = os.fstat(fd)
    finally:
        os.close(fd)
    if offset + length > info.st_size:
        raise HostileModelError(
            f"{what}: bytes {offset} to {offset + length} lie past the end of the file, which has {info.st_size}"
        )
    return ExternalData(folder, location, offset, length, _identity(info))


def _identity(info: os.stat_result) -> tuple[int, ...]:
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


def _number(what: str, key: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise HostileModelError(f"{what}: {key} = {shown(value)!r}, expected a decimal number of bytes >= 0")
    return int(value)


def open_below(folder: Path, location: str) -> int:
    """Opens the regular file `location` below `folder` for reading and returns its descriptor. Raises HostileModelError."""
    what = f"external data {shown(location)!r}"
    path = PurePosixPath(location)
    if not path.parts or "\0" in location or "\\" in location or path.is_absolute() or ".." in path.parts:
        raise HostileModelError(f"{what}: expected a relative path below the model's folder, without '..'")
    here = -1
    try:
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in path.parts[:-1]:
            below = os.open(part, _FLAGS | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        fd = os.open(path.parts[-1], _FLAGS, dir_fd=here)
    except OSError as e:
        raise HostileModelError(
            f"{what}: {e.strerror}; expected a regular file below the model's folder, reached without symbolic links "
            "(copy the file there)"
        ) from None
    finally:
        if here >= 0:
            os.close(here)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
        os.close(fd)
        kind = "has several hard links" if stat.S_ISREG(info.st_mode) else "is no regular file"
        raise HostileModelError(f"{what} {kind}; expected a regular file of its own (copy it)")
    return fd
