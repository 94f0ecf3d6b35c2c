"""The IR to ONNX: whole programs, at any opset from 7 on.

    proto = export(module, opset=17)
    write(module, "model.onnx", opset=17)

Any module can be written, before or after any pass: regions that fusion made are taken apart and layouts are forgotten, operators
that the opset does not have are opened into what it has (`legalize`), and all that can be said in no way is reported in one
ExportProblem. The program that is given is not changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx

from ...ir.core import Graph, Module, Node, Value
from ...ir.errors import ExportProblem, UnsupportedError
from ...ir.infer import infer_module
from ...ir.types import STR, dtype_of
from .copying import portable_copy
from .encode import ranges, raw_bytes, tensor_header, tensor_proto, value_info
from .functions import newest_opsets
from .legalize import Legalizer
from .spelling import OLDEST, NoSpelling, spell

ML = "ai.onnx.ml"
RANGES = "graphmill.ranges"  # the key of metadata_props for the bounds of symbolic dims, as JSON: {"N": [1, 64]}
USUAL = 21  # the opset of a program that says none
LARGEST = 2_000_000_000  # bytes of constants in one message, which protobuf bounds at 2 GiB
EXTERNAL = 1024  # bytes from which a constant goes to the file of external data
_ALIGNMENT = 4096  # of constants in that file, so that they can be mapped

Store = Callable[[str, np.ndarray], onnx.TensorProto]


def export(module: Module, opset: int | Mapping[str, int] | None = None) -> onnx.ModelProto:
    """The program as an ONNX model with all its constants.

    `opset` is the version of the default domain, or versions by domain; what is left out has the version that the module was read
    with. Raises ExportProblem listing every node that has no form there, UnsupportedError for versions that there are not and for
    more than 2 GB of constants, which only `write` can place.
    """
    writer = Writer(module, opset)
    total = writer.constant_bytes()
    if total > LARGEST:
        raise UnsupportedError(f"the constants have {total} bytes, more than one message holds; expected at most {LARGEST}: "
                               "use write, which puts them beside the model")  # fmt: skip
    return writer.model(tensor_proto)


def write(module: Module, path: str | os.PathLike, opset: int | Mapping[str, int] | None = None, *,
          external_data: bool | None = None) -> None:  # fmt: skip
    """Writes the program as an ONNX file. With `external_data` (None: where the file would be larger than 2 GB) constants from 1 kB
    on go to `<path>.data`.

    No file is ever half-written. Where the constants lie beside it, an older model at `path` goes before the data are replaced, so
    that no model ever meets the constants of another. Raises what `export` raises, and OSError.
    """
    writer, to = Writer(module, opset), Path(path)
    if external_data is None:
        external_data = writer.constant_bytes() > LARGEST
    if not external_data:
        with _replacing(to) as f:
            f.write(writer.model(tensor_proto).SerializeToString())
        return
    data = Path(f"{to}.data")
    with _replacing(data, before=lambda: to.unlink(missing_ok=True)) as f:
        encoded = writer.model(_Beside(f, data.name)).SerializeToString()
    with _replacing(to) as f:
        f.write(encoded)


@contextlib.contextmanager
def _replacing(path: Path, before: Callable[[], Any] = lambda: None) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` once it is whole; `before` is called then."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
        try:
            yield f  # type: ignore[misc]
            f.flush()
            os.fsync(f.fileno())
        except BaseException:
            os.unlink(f.name)
            raise
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(f.name, 0o666 & ~mask)  # a temporary file is for its owner alone
    before()
    os.replace(f.name, path)


class _Beside:
    """Stores constants in a file of external data."""

    def __init__(self, file: IO[bytes], location: str):
        self._file, self._location = file, location

    def __call__(self, name: str, array: np.ndarray) -> onnx.TensorProto:
        if dtype_of(array) is STR or array.nbytes < EXTERNAL:
            return tensor_proto(name, array)
        raw = raw_bytes(array)
        offset = -(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT
        self._file.write(bytes(offset - self._file.tell()))
        self._file.write(raw)
        t = tensor_header(name, dtype_of(array), array.shape)
        t.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self._location), ("offset", offset), ("length", len(raw))):
            t.external_data.add(key=key, value=str(value))
        return t


class Writer:
    """A program brought to an opset on construction; `model` makes the message of it."""

    def __init__(self, module: Module, opset: int | Mapping[str, int] | None = None):
        self._module = portable_copy(module)
        if any(v.type is None for v in _results(self._module)):
            infer_module(self._module)
        self.opsets = _opsets(self._module, opset)
        legal = Legalizer(self._module, self.opsets)
        if legal.problems:
            raise legal.problems.error(f"{module.name or 'the program'} to opset {self.opsets['']}", ExportProblem)
        self._spellings = legal.spellings
        self._names = _value_names(self._module)
        self._taken = set(self._names.values()) | set(self._output_names())
        self._node_names: set[str] = set()
        self._made: list[tuple[str, np.ndarray]] = []  # constants that forms of older opsets need

    def constant_bytes(self) -> int:
        """The bytes of all constants that the model will hold."""
        live = (v.tensor for v in self._module.consts.values() if not v.is_dead)
        return sum(t.size * max(t.dtype.bits, 8) // 8 for t in live)  # type: ignore[misc,operator]

    def model(self, store: Store) -> onnx.ModelProto:
        """The message; `store` makes the message of each constant."""
        graph = self._main()
        for v in self._module.consts.values():
            if not v.is_dead:
                graph.initializer.append(store(self._names[v], v.array))  # type: ignore[arg-type]
        graph.initializer.extend(store(name, array) for name, array in self._made)
        used = {n.domain for n in _nodes(graph)} | {""}
        imports = [onnx.helper.make_opsetid(d, self.opsets.get(d, 1)) for d in sorted(used)]
        out = onnx.ModelProto(ir_version=_ir_version(imports, graph), graph=graph, opset_import=imports)
        self._write_meta(out)
        return out

    # ---- what the model says of itself

    def _write_meta(self, out: onnx.ModelProto) -> None:
        meta = dict(self._module.meta)
        out.producer_name = meta.pop("onnx.producer_name", "graphmill")
        out.producer_version = meta.pop("onnx.producer_version", "")
        out.model_version = int(meta.pop("onnx.model_version", 0))
        bounds = {k: r for v in self._module.main.inputs for k, r in ranges(v.type).items()}
        if bounds:
            meta[RANGES] = json.dumps(bounds, sort_keys=True)
        for key in ("onnx.ir_version", "onnx.default_inputs"):  # the one is chosen here, the others are constants by now
            meta.pop(key, None)
        for key in sorted(meta):
            out.metadata_props.add(key=key, value=meta[key])

    # ---- graphs

    def _output_names(self) -> list[str]:
        return self._module.output_names or [v.name for v in self._module.main.outputs]

    def _main(self) -> onnx.GraphProto:
        main, names = self._module.main, self._output_names()
        out = onnx.GraphProto(name=self._module.name)
        out.input.extend(value_info(self._names[v], v.type, True) for v in main.inputs)
        out.node.extend(self._node(n) for n in main)
        for v, name in zip(main.outputs, names, strict=True):
            if self._names[v] != name:
                out.node.append(_identity(self._names[v], name))
            out.output.append(value_info(name, v.type, True))
        return out

    def _region(self, region: Graph) -> onnx.GraphProto:
        out = onnx.GraphProto(name=region.name)
        out.input.extend(value_info(self._names[v], v.type, False) for v in region.inputs)
        out.node.extend(self._node(n) for n in region)
        returned: set[Value] = set()
        for v in region.outputs:
            name = self._names[v]
            if v.node is None or v.graph is not region or v in returned:  # a graph returns what its own nodes make, each once
                name = self._fresh(f"{name}.out")
                out.node.append(_identity(self._names[v], name))
            returned.add(v)
            out.output.append(value_info(name, v.type, False))
        return out

    def _node(self, node: Node) -> onnx.NodeProto:
        spelling = self._spellings[node]
        inputs, outputs = [self._input(v, node) for v in spelling.inputs], [self._names[r] for r in node.results]
        out = spelling.node(inputs, outputs, self._node_name(node))
        for name, region in zip(node.op.regions, node.regions):
            graph = self._region(region)
            graph.name = f"{out.name or node.name}.{name}"
            out.attribute.append(onnx.AttributeProto(name=name, type=onnx.AttributeProto.GRAPH, g=graph))
        return out

    def _input(self, v: Value | None, node: Node) -> str:
        if v is None:
            return ""
        if v not in self._names:
            assert v.const is not None
            self._names[v] = self._fresh(f"{node.name}.{v.name}")
            self._made.append((self._names[v], v.const.array))
        return self._names[v]

    def _node_name(self, node: Node) -> str:
        """The model's own name of the node, told apart where several nodes came of it."""
        base = "+".join(node.locs)
        name, n = base, 0
        while name and name in self._node_names:
            n += 1
            name = f"{base}.{n}"
        self._node_names.add(name)
        return name

    def _fresh(self, base: str) -> str:
        name, n = base, 0
        while name in self._taken:
            n += 1
            name = f"{base}.{n}"
        self._taken.add(name)
        return name


def _identity(source: str, to: str) -> onnx.NodeProto:
    return onnx.NodeProto(op_type="Identity", input=[source], output=[to])


def _results(module: Module) -> Iterator[Value]:
    for g in module.main.graphs():
        yield from g.inputs
        for n in g:
            yield from n.results


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for n in graph.node:
        yield n
        for a in n.attribute:
            if a.HasField("g"):
                yield from _nodes(a.g)


def _value_names(module: Module) -> dict[Value, str]:
    """A name for each value, none twice in the whole model. Inputs and outputs have the names that the model knows them by; a
    value that is returned twice, or is an input or a constant, is copied for the others."""
    names = {v: v.name for v in module.main.inputs}
    outputs = module.output_names or [v.name for v in module.main.outputs]
    for v, name in zip(module.main.outputs, outputs, strict=True):
        if name in names.values() and names.get(v) != name:
            raise UnsupportedError(f"two values go by the name {name!r}, an input or an output each; give the outputs other names")
        if v not in names and not v.is_const:
            names[v] = name
    taken = {*names.values(), *outputs}
    counts: dict[str, int] = {}
    for v in [*module.consts.values(), *_results(module)]:
        if v in names:
            continue
        name = v.name
        while name in taken:
            counts[v.name] = counts.get(v.name, 0) + 1
            name = f"{v.name}.{counts[v.name]}"
        names[v] = name
        taken.add(name)
    return names


# ---- versions ---------------------------------------------------------------------------------------------------


def _opsets(module: Module, opset: int | Mapping[str, int] | None) -> dict[str, int]:
    """The versions to write. Raises UnsupportedError for those that there are not."""
    newest = newest_opsets()
    given = dict(opset) if isinstance(opset, Mapping) else {} if opset is None else {"": opset}
    given = {("" if d == "ai.onnx" else d): v for d, v in given.items()}
    out = {"": max(OLDEST, module.opsets.get("", USUAL)), **{d: v for d, v in module.opsets.items() if d}, **given}
    for domain, version in out.items():
        oldest, last = (OLDEST if domain == "" else 1), newest.get(domain)
        if isinstance(version, bool) or not isinstance(version, int) or version < oldest or (last is not None and version > last):
            raise UnsupportedError(f"opset {version!r} of {domain or 'ai.onnx'} cannot be written; expected {oldest} "
                                   f"{f'to {last}' if last is not None else 'or above'}")  # fmt: skip
    if ML not in given:
        out[ML] = _ml_version(module, out)
    return out


def _ml_version(module: Module, opsets: Mapping[str, int]) -> int:
    """The version of ai.onnx.ml: the model's own, or the newest that has every operator of the program."""
    nodes = [n for n in module.walk() if any(f.domain == ML for f in n.op.onnx)]
    own, last = opsets.get(ML), newest_opsets()[ML]
    for version in [*([own] if own else []), *range(last, 0, -1)]:
        if all(_is_spelled(n, {**opsets, ML: version}) for n in nodes):
            return version
    return own or last


def _is_spelled(node: Node, opsets: Mapping[str, int]) -> bool:
    try:
        spell(node, opsets)
    except NoSpelling:
        return False
    return True


# The version of the format that brought an element type.
_NEW_TYPES = {17: 9, 18: 9, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13, 27: 14, 28: 14}


def _ir_version(imports: list[onnx.OperatorSetIdProto], graph: onnx.GraphProto) -> int:
    """The oldest version of the format for these opsets and element types; from 4 on initializers are no inputs."""
    types = [t.data_type for t in graph.initializer]
    return max(4, onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True), *(_NEW_TYPES.get(t, 4) for t in types))


__all__ = ["ExportProblem", "Writer", "export", "write"]
