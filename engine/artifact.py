"""Compiled programs as files: `exe.save("m.gmill")` and `graphmill.load("m.gmill")`. docs/artifacts.md describes the format.

An artifact holds the optimized graph as text, its constants, packed constants and objects of kernels for the machine that saved
it, and the report. What it is trusted with: nothing. The text is parsed, typed anew and verified like any stranger's; objects
are machine code, and executed only if the caller trusts the file; packed constants are read by kernels that rely on their sizes,
hence taken only from a trusted file, or if this machine has packed the same graph before and got the same types.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.core import Module
from ..ir.errors import ArtifactError, GraphmillError, InputError, LimitError, UnsupportedError
from ..ir.infer import infer_module
from ..ir.limits import DEFAULT_LIMITS, Limits
from ..ir.parser import parse_module
from ..ir.passes.manager import PassRecord
from ..ir.printer import print_module
from ..ir.rewrite import Decision
from ..ir.types import DTYPES, STR, dtype_of
from ..ir.verify import verify as verify_module
from .archive import ALIGN, REMAKE, Archive, canonical_json, sha256_of, write_archive
from .buckets import Buckets, fits, trimmed
from .bundled import Chosen, adopt_cubins, cubins_of, keep_receipt, packed_of, packing_environment, tuning_in, tuning_out
from .compiler import ACCURACIES, DEVICES, TARGETS, build
from .executor import Executable
from .options import PRECISIONS, RUNGS, Options
from .report import CompileReport

FORMAT = 2
MANIFEST, GRAPH, REPORT = "manifest.json", "graph.gir", "report.json"
OBJECTS, WEIGHTS, PACKED = "objects.bin", "weights.bin", "packed.bin"
MEMBERS = (MANIFEST, GRAPH, REPORT, OBJECTS, WEIGHTS, PACKED)
MOST_MANIFEST = 16 << 20  # bytes
MOST_RANK = 64
CHEAP = 16 << 20  # a member of so many bytes is always verified
# Options that belong to the program, not to its user.
OPTIONS = ("target", "passes", "shapes", "strict_native", "accuracy", "device", "precision", "keep_fp32", "keep_io_types", "rung")
CHOICES = {"target": TARGETS, "accuracy": ACCURACIES, "device": DEVICES, "precision": PRECISIONS, "rung": RUNGS}
_ADVICE = "compile the model again with this version"


# ---- saving -----------------------------------------------------------------------------------------------------


def save(exe: Executable, path: str | os.PathLike, *, packed: bool = True) -> None:
    """Writes an artifact; equal programs compiled by equal versions give equal bytes. It is never seen half written.

    `packed` False leaves out the constants as kernels read them: the file is about half as large, and loading packs them again.
    Raises ArtifactError for constants that are neither numbers nor strings.
    """
    blobs: dict[str, np.ndarray] = {}
    text = print_module(exe.module, blobs=blobs).encode()
    weights = {key: _contents(a) for key, a in blobs.items()}
    found = list(packed_of(exe)) if packed and exe.options.target == "cpu" else []
    objects, about = _objects_of(exe)
    parts = {
        GRAPH: [text],
        REPORT: [canonical_json(_report_out(exe.report))],
        OBJECTS: [data for _, _, data in objects],
        WEIGHTS: _aligned(list(weights.values())),
        PACKED: _aligned([_contents(a) for _, _, a in found]),
    }
    manifest = {
        "format": FORMAT,
        "options": {k: v for k, v in dataclasses.asdict(exe.options).items() if k in OPTIONS},
        "given": exe.given,
        "opaque": any(n.op.has("opaque") for n in exe.module.walk()),
        "members": {name: {"bytes": sum(len(p) for p in ps), "sha256": sha256_of(ps)} for name, ps in parts.items()},
        "weights": [[key, str(dtype_of(a)), list(a.shape), len(weights[key])] for key, a in blobs.items()],
        "packed": [[k, i, str(dtype_of(a)), list(a.shape)] for k, i, a in found],
        "objects": [[text, symbol, len(data)] for text, symbol, data in objects],
        "environment": about,
        "packing": packing_environment() if exe.options.target == "cpu" else "",
        **({} if exe.report.buckets is None else {"buckets": exe.report.buckets.out()}),
        **({} if exe.report.tuning is None else {"tuned": tuning_out(exe.report.tuning)}),
    }
    write_archive(path, {MANIFEST: [canonical_json(manifest)], **parts})
    if found:
        keep_receipt(exe, text.decode())


def _contents(a: np.ndarray) -> memoryview:
    """The bytes of a constant in row-major order; strings as a JSON list."""
    if a.dtype == object:
        if not all(isinstance(x, str) for x in a.flat):
            raise ArtifactError("a constant holds objects that are no strings; expected numbers or strings")
        return memoryview(json.dumps(a.ravel().tolist()).encode())
    return np.ascontiguousarray(a).reshape(-1).view(np.uint8).data


def _aligned(parts: Sequence[memoryview]) -> list[Any]:
    """The parts, each padded so that the next one starts at a 64-byte boundary."""
    return [x for p in parts for x in (p, bytes(-len(p) % ALIGN))]


def _objects_of(exe: Executable) -> tuple[list[tuple[str, str, bytes]], dict[str, str]]:
    """The hash of the text, the symbol and the object of every kernel, and what they were compiled for."""
    if exe.options.target == "cuda":
        return cubins_of(exe)
    if exe.options.target != "cpu":
        return [], {}
    from ..kernels.cpu import launch, objects

    texts = dict.fromkeys([step.source.text for step in exe.plan.kernels()] + launch.own_texts())
    out = [(objects.text_hash(t), objects.symbol_name(objects.object_key(t)), objects.kernel_object(t)) for t in texts]
    return out, objects.environment()


def _report_out(report: CompileReport) -> dict[str, Any]:
    """The report without times, which would make equal artifacts differ (but of those that a tuned program was chosen by)."""
    return {"passes": [[p.text, p.nodes_before, p.nodes_after] for p in report.passes],
            "decisions": [[d.rule, d.at, d.outcome, d.reason, list(d.nodes), d.count] for d in report.decisions]}  # fmt: skip


# ---- loading ----------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike, *, threads: int | None = None, trust: bool = False, verify: bool | None = None,
         limits: Limits = DEFAULT_LIMITS) -> Executable:  # fmt: skip
    """The Executable that `save` wrote to `path`.

    Kernels come from the cache, else are compiled from the graph (which takes seconds). With `trust` they come
    from the file as well: that runs machine code of whoever made it, as loading a shared library does. Constants stay in the file,
    which must not be changed while the Executable lives. `verify` True compares all hashes, False only those of what is parsed,
    None those of large constants not. Raises ArtifactError where the file is not what `save` wrote, LimitError where it passes
    `limits`.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads = {threads}, expected at least 1 (None: as many as the machine grants)")
    return Loader(path, verify).executable(threads, trust, limits)


def read_report(path: str | os.PathLike) -> CompileReport:
    """The report of an artifact: passes and decisions. Nothing is compiled."""
    return Loader(path, False).report()


class Loader:
    """Reads one artifact, believing nothing."""

    def __init__(self, path: str | os.PathLike, verify: bool | None):
        self.archive = archive = Archive(path)
        if tuple(archive.members) != MEMBERS:
            archive.refuse("the directory", f"it names {', '.join(archive.members)}; expected {', '.join(MEMBERS)}")
        raw = archive.member(MANIFEST)
        if len(raw) > MOST_MANIFEST:
            archive.refuse(MANIFEST, f"it has {len(raw)} bytes, expected at most {MOST_MANIFEST}")
        if zlib.crc32(raw) != archive.members[MANIFEST].crc:
            archive.refuse(MANIFEST, "its checksum is wrong")
        self.manifest = self._json(MANIFEST)
        version = self.field("format", int)
        if version != FORMAT:
            archive.refuse(MANIFEST, f"the artifact is of format {version}, expected {FORMAT}", _ADVICE)
        for name in MEMBERS[1:]:
            constants = name in (WEIGHTS, PACKED)
            self._member(name, bool(verify) if constants and (verify is not None or len(archive.member(name)) > CHEAP) else True)

    def _json(self, member: str) -> dict[str, Any]:
        raw = bytes(self.archive.member(member))
        try:
            value = json.loads(raw)
            if isinstance(value, dict) and canonical_json(value) == raw:
                return value
        except (ValueError, RecursionError):
            pass
        raise self.wrong(member, "it is not the JSON that save() writes")

    def wrong(self, member: str, problem: str) -> ArtifactError:
        return ArtifactError(f"{self.archive.name}: {member}: {problem}; {REMAKE}")

    def field(self, key: str, kind: Any, of: Mapping[str, Any] | None = None) -> Any:
        """A field of the manifest, or of a part of it, which must have this type."""
        value = (self.manifest if of is None else of).get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            raise self.wrong(MANIFEST, f"{key} is {str(value)[:80]!r}, expected {getattr(kind, '__name__', kind)}")
        return value

    def _member(self, name: str, verify: bool) -> None:
        """Compares a member with what the manifest says of it."""
        said, raw = self.field(name, dict, self.field("members", dict)), self.archive.member(name)
        nbytes = self.field("bytes", int, said)
        if nbytes != len(raw):
            raise self.wrong(name, f"it has {len(raw)} bytes, expected {nbytes}")
        if verify and hashlib.sha256(raw).hexdigest() != self.field("sha256", str, said):
            raise self.wrong(name, "its contents are not those that were saved: the hash is another")

    def executable(self, threads: int | None, trust: bool, limits: Limits) -> Executable:
        options = self._options(threads, limits)
        text, module = self._module(limits)
        report = self.report()
        report.buckets = self._buckets(module)
        given = min(self.field("given", int), len(self.archive.map))
        if options.target != "cpu":
            report.tuning = tuning_in(self) if options.target == "cuda" else None
            cubins = trust and options.target == "cuda" and options.device == "gpu"
            return build(module, options, report, given, prepare=functools.partial(adopt_cubins, self) if cubins else None)
        from ..kernels.cpu.target import selector

        chosen = Chosen(self, text, trust, selector(options.accuracy))
        exe = build(module, options, report, given, chosen.select, chosen.prepare)
        if chosen.unknown:
            keep_receipt(exe, text)
        return exe

    def _options(self, threads: int | None, limits: Limits) -> Options:
        said = self.field("options", dict)
        target, shapes = self.field("target", str, said), self.field("shapes", dict, said)
        if target not in TARGETS:
            raise UnsupportedError(f"{self.archive.name} is for the target {target[:40]!r}; expected one of {', '.join(TARGETS)}")
        chosen = {name: self.field(name, str, said) for name in CHOICES}
        for name, value in chosen.items():
            if value not in CHOICES[name]:
                raise self.wrong(MANIFEST, f"{name} is {value[:40]!r}, expected one of {', '.join(CHOICES[name])}")
        keep = self.field("keep_fp32", list, said)
        if not all(isinstance(name, str) for name in keep):
            raise self.wrong(MANIFEST, "keep_fp32 holds something else than names")
        io_types = said.get("keep_io_types", True)
        if not isinstance(io_types, bool) and not (isinstance(io_types, list) and all(isinstance(name, str) for name in io_types)):
            raise self.wrong(MANIFEST, "keep_io_types is neither true or false nor a list of names")
        passes = said.get("passes")
        return Options(threads=threads, passes=passes if isinstance(passes, str) else None, shapes=shapes, limits=limits,
                       strict_native=self.field("strict_native", bool, said), keep_fp32=tuple(keep),
                       keep_io_types=io_types if isinstance(io_types, bool) else tuple(io_types), **chosen)  # fmt: skip

    def _buckets(self, module: Module) -> Buckets | None:
        """What runs are padded to. That rows are independent is the file's word, like the program itself: it decides about numbers,
        not about memory."""
        if "buckets" not in self.manifest:
            return None
        try:
            buckets = Buckets.of(self.field("buckets", dict))
            fits(module, buckets)
            trimmed(module, buckets)
        except (GraphmillError, KeyError, TypeError, ValueError, AttributeError) as e:
            raise self.wrong(MANIFEST, f"buckets: {type(e).__name__}: {str(e)[:200]}") from None
        return buckets

    def report(self) -> CompileReport:
        raw = self._json(REPORT)
        try:
            passes = [PassRecord(str(text), 0.0, int(a), int(b)) for text, a, b in raw["passes"]]
            decisions = [Decision(str(rule), str(at), str(outcome), str(reason), tuple(map(str, nodes)), int(count))
                         for rule, at, outcome, reason, nodes, count in raw["decisions"]]  # fmt: skip
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise self.wrong(REPORT, f"passes and decisions are expected ({type(e).__name__})") from None
        return CompileReport(passes, decisions)

    # ---- the graph

    def _module(self, limits: Limits) -> tuple[str, Module]:
        """The text and the module: parsed, typed anew (kernels rely on types) and verified."""
        if self.field("opaque", bool):
            from ..frontends.onnx import opaque as _  # noqa: F401  (operators that onnx.reference serves)
        blobs = self._weights()
        try:
            text = str(self.archive.member(GRAPH), "ascii")
            module = parse_module(text, blobs)
            count = module.count()
            if count > limits.nodes:
                raise LimitError(
                    f"{self.archive.name} has {count} nodes, more than the limit of {limits.nodes}; raise Limits.nodes"
                )
            verify_module(module)
            infer_module(module)
            verify_module(module)
        except LimitError:
            raise
        except (GraphmillError, UnicodeDecodeError, RecursionError) as e:
            raise ArtifactError(
                f"{self.archive.name}: {GRAPH}: {e}; register operators of your own before loading, or {REMAKE}"
            ) from e
        return text, module

    def _weights(self) -> dict[str, np.ndarray]:
        out, at = {}, 0
        for row in self.field("weights", list):
            if not (isinstance(row, list) and len(row) == 4 and isinstance(row[0], str) and type(row[3]) is int):
                raise self.wrong(MANIFEST, "weights: expected rows of hash, element type, shape and bytes")
            out[row[0]], at = self._array(WEIGHTS, at, row[1], row[2], row[3])
        self._is_all(WEIGHTS, at)
        return out

    def _array(self, member: str, at: int, dtype: Any, shape: Any, nbytes: int | None = None) -> tuple[np.ndarray, int]:
        """A constant that starts at a place of a member, mapped, and where the next one starts."""
        t, raw = DTYPES.get(dtype) if isinstance(dtype, str) else None, self.archive.member(member)
        if t is None or not isinstance(shape, list) or len(shape) > MOST_RANK or not all(type(d) is int and d >= 0 for d in shape):
            raise self.wrong(MANIFEST, f"{member}: a constant of type {str(dtype)[:40]}{str(shape)[:80]}")
        size = math.prod(shape)
        n = size * t.itemsize if t is not STR or nbytes is None else nbytes
        if (nbytes is not None and nbytes != n) or n < 0 or at + n > len(raw):
            raise self.wrong(member, f"a constant {t}{shape} of {n} bytes at {at} does not fit into {len(raw)}")
        part = raw[at : at + n]
        if t is STR:
            return self._strings(part, shape), at + n + -n % ALIGN
        bits = np.frombuffer(part, np.uint8) if n else np.empty(0, np.uint8)
        a = bits.view(t.np).reshape(shape)
        if t.bits < 8 or t.kind == "bool":
            self._check_bits(a, bits)
        return a, at + n + -n % ALIGN

    def _check_bits(self, a: np.ndarray, bits: np.ndarray) -> None:
        """Elements of less than a byte, and booleans, have bytes that mean nothing: no kernel shall see one."""
        with np.errstate(all="ignore"):
            back = a.astype(np.float32).astype(a.dtype) if a.dtype.kind != "b" else bits.astype(bool)
        if not np.array_equal(back.reshape(-1).view(np.uint8), bits):
            raise self.wrong(WEIGHTS, f"a constant {dtype_of(a)}{list(a.shape)} holds bytes that are no such numbers")

    def _strings(self, raw: memoryview, shape: Sequence[int]) -> np.ndarray:
        try:
            items = json.loads(bytes(raw))
        except (ValueError, RecursionError):
            items = None
        if not isinstance(items, list) or len(items) != math.prod(shape) or not all(isinstance(x, str) for x in items):
            raise self.wrong(WEIGHTS, f"a constant str{list(shape)} is no list of so many strings")
        a = np.empty(len(items), object)
        a[:] = items
        return a.reshape(tuple(shape))

    def _is_all(self, member: str, at: int) -> None:
        if at != len(self.archive.member(member)):
            raise self.wrong(member, f"the manifest's constants end at {at}, the member at {len(self.archive.member(member))}")

    # ---- what only this kind of machine can use

    def packed(self) -> tuple[list[list[Any]], dict[tuple[int, int], np.ndarray]]:
        """The packed constants by kernel and operand, and their types as a receipt has them."""
        out: dict[tuple[int, int], np.ndarray] = {}
        rows, at = self.field("packed", list), 0
        for row in rows:
            if not (isinstance(row, list) and len(row) == 4 and type(row[0]) is int and type(row[1]) is int) or row[2] == "str":
                raise self.wrong(MANIFEST, "packed: expected rows of kernel, operand, element type and shape")
            out[row[0], row[1]], at = self._array(PACKED, at, row[2], row[3])
        self._is_all(PACKED, at)
        return rows, out

    def objects(self) -> dict[str, tuple[str, bytes]]:
        """Symbol and object by the hash of the kernel's text."""
        raw, out, at = self.archive.member(OBJECTS), {}, 0
        for row in self.field("objects", list):
            if not (isinstance(row, list) and len(row) == 3 and isinstance(row[0], str) and isinstance(row[1], str)
                    and type(row[2]) is int and 0 <= row[2] <= len(raw) - at):  # fmt: skip
                raise self.wrong(MANIFEST, "objects: expected rows of text hash, symbol and bytes within the member")
            out[row[0]] = row[1], bytes(raw[at : at + row[2]])
            at += row[2]
        return out
