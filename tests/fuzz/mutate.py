"""Mutations of model files: of the bytes as such, and of the message inside so that it parses and lies."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

INTEGERS = (0, 1, -1, 2, 3, 7, 1 << 31, -(1 << 31), (1 << 31) - 1, 1 << 40, (1 << 63) - 1, -(1 << 63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e30, -1e30, float("inf"), float("nan"), 1e-40)
WORDS = (
    "",
    "x",
    "y",
    "\x1b[31m",
    "a\nb",
    "'",
    '"',
    "}",
    "N",
    "../x",
    "Relu",
    "Conv",
    "Loop",
    "If",
    "MatMul",
    "Reshape",
    "Gather",
    "Cast",
    "Concat",
)


def flip(data: bytes, r: random.Random) -> bytes:
    """Some bits turned over."""
    out = bytearray(data)
    for _ in range(r.choice([1, 1, 2, 8])):
        out[r.randrange(len(out))] ^= 1 << r.randrange(8)
    return bytes(out)


def splice(data: bytes, r: random.Random) -> bytes:
    """A stretch of bytes removed, doubled, overwritten by another or by noise, or the end cut off."""
    a, n = r.randrange(len(data)), r.choice([1, 2, 4, 16, 64, 256])
    b = r.randrange(len(data))
    return r.choice([data[:a] + data[a + n :], data[:a] + data[a : a + n] + data[a:], data[:a] + data[b : b + n] + data[a + n :],
                     data[:a] + r.randbytes(n) + data[a + n :], data[:a]])  # fmt: skip


def messages(m: Message) -> Iterator[Message]:
    """A message and all below it."""
    yield m
    for field, value in m.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for below in value if is_repeated(field) else [value]:
                yield from messages(below)


def is_repeated(field: FieldDescriptor) -> bool:
    return getattr(field, "is_repeated", None) if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED  # type: ignore[return-value]


def lie(data: bytes, r: random.Random) -> bytes:
    """Some fields of the parsed model changed: a number for another, a name for another, an element doubled, dropped or moved."""
    model = onnx.ModelProto()
    model.ParseFromString(data)
    for _ in range(r.choice([1, 1, 2, 4])):
        found = [(m, f) for m in messages(model) for f, _ in m.ListFields()]
        if not found:
            break
        change(*r.choice(found), r, model)
    return model.SerializeToString()


def change(m: Message, field: FieldDescriptor, r: random.Random, model: onnx.ModelProto) -> None:
    value = getattr(m, field.name)
    if is_repeated(field):
        i, kind = r.randrange(len(value)), r.choice(["drop", "double", "swap", "set", "set", "set"])
        if kind == "drop":
            del value[i]
        elif kind == "double":
            value.append(value[i])
        elif kind == "swap" and field.type == FieldDescriptor.TYPE_MESSAGE:
            j = r.randrange(len(value))
            a, b = value[i].SerializeToString(), value[j].SerializeToString()
            value[i].ParseFromString(b), value[j].ParseFromString(a)
        elif field.type != FieldDescriptor.TYPE_MESSAGE:
            value[i] = other(value[i], field, r, model)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        m.ClearField(field.name)
    else:
        setattr(m, field.name, other(value, field, r, model))


def other(value: Any, field: FieldDescriptor, r: random.Random, model: onnx.ModelProto) -> Any:
    """Another value of the field's type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return r.choice(FLOATS)
    if isinstance(value, int):
        if field.enum_type is not None:
            return r.choice(field.enum_type.values).number
        n = r.choice([*INTEGERS, value + 1, value - 1, -value])
        return max(min(n, (1 << 31) - 1), -(1 << 31)) if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else max(min(n, (1 << 63) - 1), -(1 << 63)) \
            if field.cpp_type == FieldDescriptor.CPPTYPE_INT64 else abs(n) % (1 << 32)  # fmt: skip
    names = [n for node in model.graph.node for n in (*node.input, *node.output, node.op_type)]
    word = r.choice([*WORDS, *names])
    if isinstance(value, str):
        return word
    return r.choice([word.encode("utf-8"), value[: len(value) // 2], value + value[:8], flip(value, r) if value else b"\xff"])


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, splice, lie, lie, lie, lie)


def mutate(data: bytes, seed: int) -> bytes:
    """The mutation of that seed."""
    r = random.Random(seed)
    kind = r.choice(MUTATIONS)
    try:
        return kind(data, r)
    except (ValueError, TypeError):  # the message refuses what was put into it (text that is none)
        return flip(data, r)
