"""From a path, bytes or a ModelProto to a parsed model whose large weights were left where they lie.

Protocol buffers copy everything they parse. The weights of the main graph are most of a file, so their bytes are cut out
of what the parser is given and are read straight from the file's map (or from the caller's bytes) when first asked for.
The wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ...ir.errors import HostileModelError
from .problems import shown

MOST_BYTES = (1 << 31) - 1  # protobuf's own limit on a message
MAPPED = 64 << 20  # files above are mapped; smaller ones are read, so that they may be overwritten while the model is in use
SCANNED = 1 << 20  # below this size cutting weights out saves nothing
LARGE = 4096  # raw data above this size is left out of what protobuf parses

# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW, _TENSOR_LOCATION = 7, 5, 9, 14


class _Unusual(Exception):
    """Legal protobuf that no exporter writes: it is parsed as a whole."""


@dataclass
class Source:
    """A parsed model, what messages call it, the folder that its external data may lie in (None: it has none), and the raw
    data of the main graph's initializers that was left out of `proto`, by the initializer's position."""

    proto: onnx.ModelProto
    name: str
    folder: Path | None = None
    raw: dict[int, memoryview] = field(default_factory=dict)


def load(source: str | os.PathLike | bytes | onnx.ModelProto) -> Source:
    """Parses `source`. Raises FileNotFoundError, and HostileModelError for what is no ONNX protobuf."""
    if isinstance(source, onnx.ModelProto):
        return Source(source, "the model")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _parse(memoryview(bytes(source)), "the model", None)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"expected a path, bytes or an onnx.ModelProto, not a {type(source).__name__}")
    path = Path(source)
    return _parse(_contents(path), shown(path.name), path.parent)


def _contents(path: Path) -> memoryview:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise HostileModelError(f"{shown(path.name)} is no regular file; expected an ONNX model")
    with os.fdopen(fd, "rb") as f:
        if info.st_size > MOST_BYTES:
            raise HostileModelError(
                f"{shown(path.name)} has {info.st_size} bytes, more than the {MOST_BYTES} of any protobuf; "
                "save the model with its weights as external data"
            )
        if info.st_size > MAPPED:
            return memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
        return memoryview(f.read())


def _parse(data: memoryview, name: str, folder: Path | None) -> Source:
    raw: dict[int, memoryview] = {}
    kept: bytes | None = None
    try:
        if len(data) > SCANNED:
            kept = _cut(data, raw)
    except _Unusual:
        if len(data) > MAPPED:
            raise _broken(name, "it is large and encoded as no exporter does") from None
        raw = {}
    except ValueError as e:
        raise _broken(name, str(e)) from None
    try:
        proto = onnx.ModelProto.FromString(bytes(data) if kept is None else kept)
    except DecodeError as e:
        raise _broken(name, str(e)) from None
    if not proto.HasField("graph"):
        raise _broken(name, "it holds no graph")
    return Source(proto, name, folder, raw)


def _broken(name: str, reason: str) -> HostileModelError:
    return HostileModelError(
        f"{name} is no readable ONNX protobuf ({reason}): it is truncated, damaged, of another format, or nested deeper than "
        "protobuf allows; expected what onnx.checker.check_model accepts"
    )


# ---- the wire format --------------------------------------------------------------------------------------------


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"a broken number at byte {at}")


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """(field number, wire type, start of the tag, start and end of the contents) of each field in data[at:end]."""
    while at < end:
        start = at
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError(f"a broken field at byte {start}")
        if wire == 2:
            size, at = _varint(data, at, end)
            stop = at + size
        elif wire == 0:
            _, stop = _varint(data, at, end)
        elif wire in (1, 5):
            stop = at + (8 if wire == 1 else 4)
        else:
            raise _Unusual
        if stop > end:
            raise ValueError(f"a field at byte {start} is longer than the message around it")
        yield number, wire, start, at, stop
        at = stop


def _encode(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _cut(data: memoryview, raw: dict[int, memoryview]) -> bytes:
    """The model's bytes without the large raw data of the main graph's initializers, which goes into `raw`."""
    graphs = [f for f in _fields(data, 0, len(data)) if f[0] == _MODEL_GRAPH]
    if len(graphs) != 1 or graphs[0][1] != 2:
        raise _Unusual
    _, _, tag, start, stop = graphs[0]
    pieces: list[bytes | memoryview] = []
    done, index = start, 0
    for number, wire, at, inside, end in _fields(data, start, stop):
        if number != _GRAPH_INITIALIZER:
            continue
        if wire != 2:
            raise _Unusual
        if end - inside > LARGE and (found := _raw_field(data, inside, end)):
            at_raw, raw_start, raw_end = found
            raw[index] = data[raw_start:raw_end]
            rest = [data[inside:at_raw], data[raw_end:end]]
            pieces += [data[done:at], _encode(_GRAPH_INITIALIZER << 3 | 2), _encode(sum(map(len, rest))), *rest]
            done = end
        index += 1
    pieces.append(data[done:stop])
    size = sum(map(len, pieces))
    return b"".join([data[:tag], _encode(_MODEL_GRAPH << 3 | 2), _encode(size), *pieces, data[stop:]])


def _raw_field(data: memoryview, start: int, stop: int) -> tuple[int, int, int] | None:
    """Where the large raw_data of a tensor begins (its tag, its contents) and ends; None where it has none."""
    found = None
    for number, wire, at, inside, end in _fields(data, start, stop):
        if number == _TENSOR_LOCATION:
            return None
        if number == _TENSOR_RAW:
            if found is not None or wire != 2:
                raise _Unusual
            found = (at, inside, end)
    return found if found is not None and found[2] - found[1] > LARGE else None
