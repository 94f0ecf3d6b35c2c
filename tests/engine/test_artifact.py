"""Artifacts: what is saved comes back; what anybody changed in one is refused; nothing that a stranger's file holds is executed."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphmill as gm
import numpy as np
import onnx
import pytest
from graphmill.engine import archive, artifact, bundled
from graphmill.ir.core import Constant
from graphmill.ir.printer import print_module
from graphmill.ir.types import DTYPES
from graphmill.kernels.cpu import cache, objects
from onnx import helper, numpy_helper

RNG = np.random.default_rng(0)


def net() -> onnx.ModelProto:
    """A convolution, a product with a packed weight, a loop and an output that is a constant."""
    body = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,3,8,8] x) => (float[N,10] y, float[N,10] z, float[20] k) {
        c = Conv<pads = [1,1,1,1]>(x, w) r = Relu(c) f = Flatten(r) y = MatMul(f, m)
        t = Constant<value = int64 {3}>() go = Constant<value = bool {1}>()
        z = Loop(t, go, y) <body = b (int64 i, bool c0, float[N,10] a) => (bool c1, float[N,10] a1)
            { c1 = Identity(c0) e = Tanh(a) a1 = Add(e, a) }>
        k = Identity(v) }"""
    proto = onnx.parser.parse_model(body)
    for name, shape in (("w", (16, 3, 3, 3)), ("m", (1024, 10)), ("v", (20,))):
        proto.graph.initializer.append(numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name))
    return proto


@pytest.fixture(scope="module")
def exe(tmp_path_factory) -> gm.Executable:
    return gm.compile(net(), threads=1)


@pytest.fixture(scope="module")
def raw(exe, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("artifact") / "m.gmill"
    exe.save(path)
    return path.read_bytes()


@pytest.fixture
def saved(raw, tmp_path) -> Path:
    path = tmp_path / "m.gmill"
    path.write_bytes(raw)
    return path


X = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[k], b[k]) for k in a)


# ---- what is saved comes back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_loaded_program_gives_the_same_bits(exe, tmp_path, trust, packed):
    exe.save(tmp_path / "m.gmill", packed=packed)
    before = objects.compiled_count()
    loaded = gm.load(tmp_path / "m.gmill", threads=1, trust=trust)
    assert same(loaded.run({"x": X}), exe.run({"x": X})) and same(loaded.run({"x": X[:1]}), exe.run({"x": X[:1]}))
    assert (loaded.inputs, loaded.outputs) == (exe.inputs, exe.outputs)
    assert print_module(loaded.module) == print_module(exe.module)
    assert loaded.report.served == exe.report.served and loaded.report.decisions == exe.report.decisions
    assert loaded.report.compiled == 0 and objects.compiled_count() == before


def test_a_loaded_program_is_saved_as_it_was(raw, tmp_path):
    gm.load(_write(tmp_path, raw)).save(tmp_path / "again.gmill")
    assert (tmp_path / "again.gmill").read_bytes() == raw


def test_another_process_writes_the_same_bytes(tmp_path):
    onnx.save(net(), tmp_path / "m.onnx")
    code = "import sys, graphmill as gm; gm.compile(sys.argv[1], threads=1).save(sys.argv[2])"
    for i in range(2):
        subprocess.run([sys.executable, "-c", code, tmp_path / "m.onnx", tmp_path / f"{i}.gmill"], check=True, env=os.environ
                       | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONHASHSEED": str(i)})  # fmt: skip
    assert (tmp_path / "0.gmill").read_bytes() == (tmp_path / "1.gmill").read_bytes()


def test_constants_are_mapped_and_aligned(saved):
    loaded = gm.load(saved)
    large = [v.const.array for v in loaded.module.consts.values() if v.const.array.size > 16]
    assert large and not any(a.flags.writeable or a.ctypes.data % 64 for a in large)
    taken = [a for step in loaded.plan.kernels() for a in step.packed.values()]
    assert taken and not any(a.flags.writeable for a in taken)  # the file's own bytes, not copies


def test_an_output_that_is_a_constant_belongs_to_the_caller(saved):
    loaded = gm.load(saved)
    k = loaded.run({"x": X})["k"]
    k[:] = 0
    assert loaded.run({"x": X})["k"].any()


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_element_type_comes_back(name, tmp_path):
    t = DTYPES[name]
    if name == "str":
        a = np.array(["", "\x00ü\u202e\ud800"] * 20, dtype=object).reshape(4, 10)
    else:
        a = (
            RNG.integers(0, 2, (4, 10)).astype(t.np)
            if t.bits < 8 or t.kind == "bool"
            else np.arange(40).reshape(4, 10).astype(t.np)
        )
    text = f"module @m {{opset = 18}} {{\n  const %k : {name}[4,10] = blob sha256:{'0' * 16}\n  graph @main() -> %k {{\n  }}\n}}\n"
    module = gm.ir.parser.parse_module(text, {"0" * 64: a})
    module.consts["k"].const = Constant(a)
    gm.compile(module, "reference").save(tmp_path / "m.gmill")
    loaded = gm.load(tmp_path / "m.gmill", verify=True)
    got = loaded.module.consts["k"].array
    assert got.dtype == a.dtype and got.shape == a.shape
    assert got.tolist() == a.tolist() if name == "str" else got.tobytes() == a.tobytes()


def test_empty_and_scalar_constants(tmp_path):
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
        g (float[N] x) => (float[N] y, float[0,17] e) { y = Mul(x, s) e = Identity(z) }""")  # fmt: skip
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(3), "s"))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((0, 17), np.float32), "z"))
    gm.compile(proto).save(tmp_path / "m.gmill")
    out = gm.load(tmp_path / "m.gmill").run({"x": np.ones(2, np.float32)})
    assert out["y"].tolist() == [3, 3] and out["e"].shape == (0, 17)


def test_options_come_back(tmp_path):
    gm.compile(net(), "reference", shapes={"N": 2}).save(tmp_path / "m.gmill")
    loaded = gm.load(tmp_path / "m.gmill")
    assert (loaded.options.target, dict(loaded.options.shapes)) == ("reference", {"N": 2})
    assert loaded.inputs == {"x": "f32[2,3,8,8]"}


def test_strings_and_onnx_reference_operators(tmp_path):
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="UPPER")
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", onnx.TensorProto.STRING, [2])],
                              [helper.make_tensor_value_info("y", onnx.TensorProto.STRING, None)])  # fmt: skip
    gm.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)).save(tmp_path / "m.gmill")
    assert gm.load(tmp_path / "m.gmill").run({"x": np.array(["a", "b"], object)})["y"].tolist() == ["A", "B"]


FRESH = """
import sys, numpy as np, graphmill as gm
exe = gm.load(sys.argv[1], threads=2, trust=sys.argv[2] == "trust")
y = exe.run({"x": np.load(sys.argv[3])})["y"]
np.save(sys.argv[4], y)
assert exe.report.compiled == 0 and not {"graphmill.kernels.cpu.language", "onnx"} & set(sys.modules), sorted(sys.modules)
"""


@pytest.mark.parametrize("trust", ["trust", "cached"])
def test_a_new_process_needs_neither_the_compiler_of_kernels_nor_onnx(saved, exe, tmp_path, trust):
    """Trusted, with an empty cache; not trusted, with the objects in the cache."""
    np.save(tmp_path / "x.npy", X)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    if trust == "trust":
        env["GRAPHMILL_CACHE"] = str(tmp_path / "empty")
    subprocess.run([sys.executable, "-c", FRESH, saved, trust, tmp_path / "x.npy", tmp_path / "y.npy"], check=True, env=env)
    assert np.array_equal(np.load(tmp_path / "y.npy"), exe.run({"x": X})["y"])
    assert not (tmp_path / "empty").exists()


# ---- what may be used, and what not -----------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A machine that has compiled nothing (what this process has loaded is forgotten)."""
    monkeypatch.setenv("GRAPHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(objects, "_addresses", {})


def test_objects_of_strangers_are_not_loaded(saved, empty_cache, monkeypatch):
    def compile_nothing(*_: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(objects, "compile_kernel", compile_nothing)
    monkeypatch.setattr(objects, "_in_workers", lambda *_: None)
    with pytest.raises(AssertionError, match="compiled"):
        gm.load(saved)
    assert same(gm.load(saved, trust=True, threads=1).run({"x": X}), gm.load(saved, trust=True).run({"x": X}))


def test_packed_constants_of_strangers_are_not_used_before_this_machine_packed_them(saved, exe, empty_cache):
    first = gm.load(saved, threads=1)
    assert all(a.flags.writeable for step in first.plan.kernels() for a in step.packed.values())
    second = gm.load(saved, threads=1)
    assert not any(a.flags.writeable for step in second.plan.kernels() for a in step.packed.values())
    assert same(first.run({"x": X}), exe.run({"x": X})) and same(second.run({"x": X}), exe.run({"x": X}))


def test_packed_constants_of_lying_sizes_are_not_used(saved, exe):
    """A kernel would read past the end of a packed constant that is too small."""
    cut = rewritten(saved, lambda m: m["packed"][0].__setitem__(3, [0]) or m["packed"].__delitem__(slice(1, None)), packed=b"")
    loaded = gm.load(cut, threads=1)
    assert all(a.flags.writeable for step in loaded.plan.kernels() for a in step.packed.values())
    assert same(loaded.run({"x": X}), exe.run({"x": X}))


def test_for_another_cpu_it_is_made_anew_from_the_text(saved, exe):
    def other(m: dict[str, Any]) -> None:
        m["environment"] |= {"features": "+sve2", "platform": "linux aarch64"}
        m["packing"] = "0" * 64

    assert same(gm.load(rewritten(saved, other), trust=True, threads=1).run({"x": X}), exe.run({"x": X}))


def test_objects_of_vectors_of_another_width_are_not_taken(saved, exe, empty_cache, monkeypatch):
    """A CPU with more features runs them, but constants are packed, and scratch is measured, for its own width."""
    taken: list[str] = []
    monkeypatch.setattr(objects, "adopt", lambda text, *_: taken.append(text))
    gm.load(saved, trust=True, threads=1)
    assert taken
    taken.clear()
    other = rewritten(saved, lambda m: m["environment"].__setitem__("vector_bits", "64"))
    assert same(gm.load(other, trust=True, threads=1).run({"x": X}), exe.run({"x": X})) and not taken


def test_a_cpu_with_more_features_runs_the_objects_of_one_with_less():
    assert bundled.runs_on("+avx2,+fma,-avx512f", "+avx2,+avx512f,+fma")
    assert not bundled.runs_on("+avx2,+avx512f", "+avx2,-avx512f") and not bundled.runs_on(None, "+avx2")


def test_types_in_the_text_are_not_believed(saved):
    """A kernel writes as much as its result's type says."""

    def lie(text: bytes) -> bytes:
        out = text.replace(b": f32[$N,10]", b": f32[$N,1]")
        assert out != text
        return out

    try:
        loaded = gm.load(rewritten(saved, graph=lie))
    except gm.errors.ArtifactError:
        return
    assert loaded.run({"x": X})["y"].shape == (2, 10)


# ---- what is refused --------------------------------------------------------------------------------------------


def _write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "changed.gmill"
    path.write_bytes(data)
    return path


def rewritten(path: Path, manifest: Callable[[dict[str, Any]], Any] = lambda m: None, **members: Any) -> Path:
    """The artifact with members replaced (bytes, or a function of the old ones) and all hashes made right again."""
    names = dict(zip(("manifest", "graph", "report", "objects", "weights", "packed"), artifact.MEMBERS))
    old = archive.Archive(path)
    parts = {n: bytes(old.member(n)) for n in artifact.MEMBERS}
    for key, new in members.items():
        parts[names[key]] = new(parts[names[key]]) if callable(new) else new
    m = json.loads(parts[artifact.MANIFEST])
    m["members"] = {n: {"bytes": len(parts[n]), "sha256": archive.sha256_of([parts[n]])} for n in artifact.MEMBERS[1:]}
    manifest(m)
    parts[artifact.MANIFEST] = archive.canonical_json(m)
    out = path.with_name("rewritten.gmill")
    archive.write_archive(out, {n: [p] for n, p in parts.items()})
    return out


def test_the_container_is_a_plain_zip(saved):
    with zipfile.ZipFile(saved) as z:
        assert z.testzip() is None and tuple(z.namelist()) == artifact.MEMBERS
        assert all(i.compress_type == zipfile.ZIP_STORED and i.date_time == (1980, 1, 1, 0, 0, 0) for i in z.infolist())
    assert all(m.start % 64 == 0 for m in archive.Archive(saved).members.values())


def test_every_truncation_is_refused(raw, tmp_path):
    for n in [*range(0, len(raw), max(1, len(raw) // 150)), *range(len(raw) - 120, len(raw))]:
        with pytest.raises(gm.errors.ArtifactError):
            gm.load(_write(tmp_path, raw[:n]))


def test_any_changed_byte_is_refused(raw, tmp_path):
    """Constants are small here, so that their hashes are compared as well. Padding is part of the headers."""
    places = RNG.integers(0, len(raw), 150).tolist() + list(range(len(raw) - 700, len(raw), 5)) + list(range(0, 64))
    for at in places:
        changed = bytearray(raw)
        changed[at] ^= 1 << int(RNG.integers(8))
        with pytest.raises(gm.errors.ArtifactError):
            artifact.Loader(_write(tmp_path, bytes(changed)), True).executable(1, False, gm.Limits())


def test_what_is_put_before_behind_or_between_is_refused(raw, tmp_path):
    at = struct.unpack_from("<Q", raw, len(raw) - 98 + 48)[0]
    for data in (raw + b"\0", b"\0" + raw, raw[:at] + b"\0" + raw[at:], raw + raw):
        with pytest.raises(gm.errors.ArtifactError):
            gm.load(_write(tmp_path, data))


def zipped(path: Path, names: list[str], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as z:
        for name in names:
            z.writestr(name, b"0" * 100_000)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "names", [list(artifact.MEMBERS), ["../../etc/passwd"], ["manifest.json"] * 2, [f"m{i}" for i in range(2000)], []]
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_other_zips_are_refused(tmp_path, names, compression):
    with pytest.raises(gm.errors.ArtifactError, match=r"z\.gmill"):
        gm.load(zipped(tmp_path / "z.gmill", names, compression))


@pytest.mark.parametrize("names", [("a",), ("../x",) * 6, (*artifact.MEMBERS, "more"), artifact.MEMBERS[::-1]])
def test_other_members_are_refused(tmp_path, names):
    path = tmp_path / "m.gmill"
    archive.write_archive(path, {f"{n}{'' if i == names.index(n) else i}": [b"x"] for i, n in enumerate(names)})
    with pytest.raises(gm.errors.ArtifactError, match="directory"):
        gm.load(path)


def test_members_that_overlap_are_refused(tmp_path):
    """Two headers that lead to the same bytes."""
    listed = [archive.Member("a", 100, 0), archive.Member("b", 100, 0)]
    _, local, directory = archive.headers(listed)
    with pytest.raises(gm.errors.ArtifactError):
        archive.Archive(_write(tmp_path, local[0] + bytes(100) + directory))


@pytest.mark.parametrize("change", [
    lambda m: m.update(format=3), lambda m: m.update(format=True), lambda m: m.pop("weights"), lambda m: m.update(given="1"),
    lambda m: m.update(members=[]), lambda m: m["members"].pop("graph.gir"), lambda m: m["members"]["graph.gir"].update(bytes=1),
    lambda m: m["members"]["weights.bin"].update(sha256="0" * 64), lambda m: m["weights"].pop(),
    lambda m: m["weights"][0].__setitem__(1, "pickle"), lambda m: m["weights"][0].__setitem__(2, [1 << 70, 1 << 70]),
    lambda m: m["weights"][0].__setitem__(2, [-1]), lambda m: m["weights"][0].__setitem__(2, "x"),
    lambda m: m["weights"][0].__setitem__(3, -64), lambda m: m["weights"][0].__setitem__(3, 1 << 70),
    lambda m: m["weights"][0].__setitem__(2, [True]), lambda m: m["weights"][0].__setitem__(1, "str"),
    lambda m: m["weights"].append(m["weights"][0]), lambda m: m["packed"][0].__setitem__(3, [1 << 40]), lambda m: m.update(packed=[[]]),
    lambda m: m.update(options={}), lambda m: m["options"].update(target=7), lambda m: m.update(weights={"a": 1}),
])  # fmt: skip
def test_a_manifest_that_lies_is_refused(saved, change):
    with pytest.raises(gm.errors.ArtifactError, match=r"rewritten\.gmill: "):
        gm.load(rewritten(saved, change))


def test_objects_that_lie_are_refused(saved, empty_cache):
    with pytest.raises(gm.errors.ArtifactError, match="objects"):
        gm.load(rewritten(saved, lambda m: m["objects"][0].__setitem__(2, 1 << 40)), trust=True)


def test_an_unknown_target_is_refused(saved):
    with pytest.raises(gm.errors.UnsupportedError, match="tpu"):
        gm.load(rewritten(saved, lambda m: m["options"].update(target="tpu")))


@pytest.mark.parametrize("text", [b"", b"module", b"\xff\xfe", b"module @m {} {" + b"(" * 100_000, b"x" * 1_000_000])
def test_a_graph_that_is_none_is_refused(saved, text):
    with pytest.raises(gm.errors.ArtifactError, match=r"graph\.gir"):
        gm.load(rewritten(saved, graph=text))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b"[" * 100_000, b'{"passes":[1],"decisions":[]}', b'{"passes":[],"decisions":[],"decisions":[]}']
)
def test_a_report_that_is_none_is_refused(saved, text):
    with pytest.raises(gm.errors.ArtifactError, match=r"report\.json"):
        gm.load(rewritten(saved, report=text))


def test_booleans_that_are_no_booleans_are_refused(tmp_path):
    text = f"module @m {{opset = 18}} {{\n  const %k : bool[40] = blob sha256:{'0' * 16}\n  graph @main() -> %k {{\n  }}\n}}\n"
    module = gm.ir.parser.parse_module(text, {"0" * 64: np.ones(40, bool)})
    gm.compile(module, "reference").save(tmp_path / "m.gmill")
    with pytest.raises(gm.errors.ArtifactError, match="no such numbers"):
        gm.load(rewritten(tmp_path / "m.gmill", weights=lambda w: b"\x02" + w[1:]))


def test_large_constants_are_verified_when_asked(saved, monkeypatch):
    """Their hashes cost a read of the file: what a copy damages there shows with `verify=True`."""
    m = archive.Archive(saved).members[artifact.WEIGHTS]
    with open(saved, "r+b") as f:
        f.seek(m.start + 8)
        f.write(b"\x55")
    with pytest.raises(gm.errors.ArtifactError, match=r"weights\.bin: its contents"):
        gm.load(saved)
    monkeypatch.setattr(artifact, "CHEAP", 0)
    gm.load(saved)
    with pytest.raises(gm.errors.ArtifactError, match=r"weights\.bin: its contents"):
        gm.load(saved, verify=True)


def test_no_file_no_regular_file_and_no_artifact(tmp_path):
    with pytest.raises(FileNotFoundError):
        gm.load(tmp_path / "none.gmill")
    os.mkfifo(tmp_path / "fifo.gmill")
    with pytest.raises(gm.errors.ArtifactError, match="regular"):
        gm.load(tmp_path / "fifo.gmill")
    (tmp_path / "m.onnx").write_bytes(net().SerializeToString())
    with pytest.raises(gm.errors.ArtifactError):
        gm.load(tmp_path / "m.onnx")
    with pytest.raises(gm.errors.InputError, match=r"graphmill\.load"):
        gm.compile(tmp_path / "m.gmill")
    with pytest.raises(gm.errors.InputError, match="threads"):
        gm.load(tmp_path / "m.gmill", threads=0)


def test_limits_hold(saved):
    with pytest.raises(gm.errors.LimitError, match="nodes"):
        gm.load(saved, limits=gm.Limits(nodes=2))
    with pytest.raises(gm.errors.LimitError):
        gm.load(rewritten(saved, lambda m: m.update(given=1 << 60)), limits=gm.Limits(total_bytes=0, growth=0)).run({"x": X})


def test_a_failed_save_leaves_the_old_file(saved, exe, raw, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        exe.save(saved)
    assert saved.read_bytes() == raw and [p.name for p in saved.parent.iterdir()] == ["m.gmill"]


def test_receipts_are_kept_with_the_cache(saved, empty_cache):
    gm.load(saved)
    assert [e.is_good() for e in cache.entries() if e.kind == "receipt"] == [True]


def test_members_of_more_than_4_gib(tmp_path):
    """Headers hold 64-bit sizes: a file with a hole in it, read here and by zipfile."""
    listed = [archive.Member("small", 3, 0x352441C2), archive.Member("large", 5 << 30, 0), archive.Member("last", 0, 0)]
    placed, local, directory = archive.headers(listed)
    with open(tmp_path / "m.gmill", "wb") as f:
        for m, header in zip(placed, local):
            f.seek(m.start - len(header))
            f.write(header + (b"abc" if m.name == "small" else b""))
        f.seek(placed[-1].start)
        f.write(directory)
    assert archive.Archive(tmp_path / "m.gmill").member("large").nbytes == 5 << 30
    with zipfile.ZipFile(tmp_path / "m.gmill") as z:
        assert z.read("small") == b"abc" and z.getinfo("large").file_size == 5 << 30
