"""`compile(..., tune=True)`: what is measured, what is taken, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphmill as gm
import numpy as np
import pytest
from graphmill.engine import measuring, tuning
from graphmill.ir.errors import ArtifactError, InputError
from graphmill.kernels.cpu import cache
from graphmill.kernels.cuda import cublaslt, cudnn, gpu, library_shim, nvrtc, shim, ways
from graphmill.kernels.cuda.cut import FEW_ROWS, Cut, Tile
from graphmill.kernels.cuda.driver import Command, Shim
from graphmill.kernels.cuda.target import select
from graphmill.kernels.cuda.ways import Way
from graphmill.kernels.spec import Refusal
from onnx import numpy_helper
from onnx import parser as onnx_parser

from ..kernels.cuda.fake_cublaslt import FakeLt
from ..kernels.cuda.fake_cupy import Fake
from ..kernels.cuda.harness import Case, needs_shim, run_kernel

TILES = (Tile(64, 64), Tile(32, 32))
LIBRARY, OURS = "library 0", "32x32"


def layers(rows: str = "40") -> Any:
    """Two equal products and another one, of 16-bit floats."""
    model = onnx_parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 21]>
        m (float16[{rows}, 64] x) => (float16[{rows}, 24] y) {{ a = MatMul (x, w)  b = MatMul (a, v)  y = MatMul (b, u) }}""")
    rng = np.random.default_rng(0)
    for name, columns in (("w", 64), ("v", 64), ("u", 24)):
        a = (rng.standard_normal((64, columns)) / 8).astype(np.float16)
        model.graph.initializer.append(numpy_helper.from_array(a, name))
    return model


def compiled(model: Any = None, **options: Any) -> gm.Executable:
    return gm.compile(model or layers(), "cuda", **{"device": "shim", "tune": True} | options)


X = np.random.default_rng(1).standard_normal((40, 64)).astype(np.float16)


@pytest.fixture(autouse=True)
def few_tiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and few tiles to compile."""
    monkeypatch.setenv("GRAPHMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ways, "TENSOR_TILES", TILES)
    monkeypatch.setattr(ways, "DIRECT_TILES", ())


class Clock:
    """A clock for the shim, by which what has `words` in its text takes a microsecond, and all else two."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, words: str):
        self.asked, self._texts, load = 0, dict[tuple[int, int], str](), Shim.load

        def loaded(driver: Shim, texts: Any) -> list[int]:
            numbers = load(driver, texts)
            self._texts |= {(id(driver), n): text for n, text in zip(numbers, texts, strict=True)}
            return numbers

        def timer(driver: Shim, commands: list[Command]) -> Any:
            def took() -> float:
                self.asked += 1
                return sum(1e-6 if words in self._texts[id(driver), c.kernel] else 2e-6 for c in commands)

            return took

        monkeypatch.setattr(Shim, "load", loaded)
        monkeypatch.setattr(Shim, "timer", timer)


SMALL = "mma_tile<MmaF16, 32, 32"


def kernels_of(exe: gm.Executable) -> list[str]:
    return [step.source.text for step in exe.plan.kernels()]


@needs_shim
def test_the_fastest_is_taken_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    default = compiled(tune=False)
    assert not any(e.kind == "receipt" for e in cache.entries()) and default.report.tuning is None
    clock = Clock(monkeypatch, SMALL)
    exe = compiled(rung="libraries")
    found = exe.report.tuning
    assert found is not None and len(found.problems) == found.new == 2 and clock.asked
    assert {m.chosen for m in found.problems.values()} == {OURS}
    for m in found.problems.values():
        assert {"own": 2.0} | m.took == {"default": 2.0, "64x64": 2.0, OURS: 1.0, "own": 2.0} and not m.left_out
    assert all(SMALL in text for text in kernels_of(exe)) and all(
        text.startswith("LIBRARY") for text in kernels_of(compiled(rung="libraries", tune=False))
    )
    said = [d for d in exe.report.decisions if d.rule == "tune"]
    assert len(said) == 3 and all(d.outcome == "applied" and d.reason.startswith("32x32 1.0, ") for d in said)
    assert "tuned to shim: 2 products, 2 not by default, 2 measured now" in exe.report.summary()
    # The bits are those of these kernels by themselves.
    want = X
    for node in exe.module.main:
        source = ways.build(node, "fp32", "libraries", Way(cut=Cut(Tile(32, 32))))
        shape = node.results[0].tensor.shape
        case = Case("", node, source, [want, node.operands[1].const.array], [np.empty(shape, np.float16)])  # type: ignore[arg-type, union-attr]
        (want,) = run_kernel(case, shim.load([source.text]))  # type: ignore[union-attr]
    np.testing.assert_array_equal(exe.run({"x": X})["y"], want)
    # Another time nothing is measured.
    clock.asked = 0
    again = compiled(rung="libraries")
    assert clock.asked == 0 and again.report.tuning.new == 0 and kernels_of(again) == kernels_of(exe)  # type: ignore[union-attr]
    # Of other kernels nothing is known.
    monkeypatch.setattr(tuning.cubins, "key_of", lambda text: "changed " + text[:8])
    assert compiled(rung="libraries").report.tuning.new == 2 and clock.asked  # type: ignore[union-attr]


@needs_shim
def test_libraries_are_candidates_where_ours_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, "LIBRARY cublaslt")
    exe = compiled()
    assert all(text.startswith("LIBRARY cublaslt") for text in kernels_of(exe))
    scalar = compiled(rung="scalar")
    assert scalar.report.tuning.problems == {} and not any("LIBRARY" in text for text in kernels_of(scalar))  # type: ignore[union-attr]
    np.testing.assert_allclose(exe.run({"x": X})["y"], scalar.run({"x": X})["y"], rtol=1e-2, atol=1e-2)


@needs_shim
def test_what_is_wrong_or_fails_is_told_and_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, "LIBRARY cublaslt")
    right, calls = library_shim._CALLS["cublaslt", "matmul"], []

    def matmul(d: Any, words: list[int]) -> None:
        right(d, words)
        rows, columns = d.sizes(words)[:2]
        y = library_shim.view(d.address("y", words), [rows, columns], [columns, 1], gm.ir.types.F16)
        if columns == 24:
            raise RuntimeError("the library is out of order\nand says more")
        y[rows - 1, columns - 1] += 1
        calls.append(y)

    monkeypatch.setitem(library_shim._CALLS, ("cublaslt", "matmul"), matmul)
    exe = compiled()
    why = [m.left_out[LIBRARY] for m in exe.report.tuning.problems.values()]  # type: ignore[union-attr]
    assert calls and why[0].startswith("WRONG: 1 of 2560 elements differ") and why[1] == "RuntimeError: the library is out of order"
    assert not any("LIBRARY" in text for text in kernels_of(exe))
    assert f"{LIBRARY} left out: WRONG" in exe.report.summary()


@needs_shim
def test_kernels_that_do_not_compile_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, SMALL)
    compile_ = Shim.compile

    def refuses(driver: Shim, texts: Any, jobs: int = 1) -> list[str]:
        if any(SMALL in text for text in texts):
            raise nvrtc.CudaUnavailable("no such tile")
        return compile_(driver, texts, jobs)

    monkeypatch.setattr(Shim, "compile", refuses)
    exe = compiled()
    assert all(m.left_out[OURS] == "no such tile" for m in exe.report.tuning.problems.values() if OURS in m.left_out)  # type: ignore[union-attr]
    assert any(OURS in m.left_out for m in exe.report.tuning.problems.values())  # type: ignore[union-attr]


@needs_shim
def test_artifacts_keep_what_was_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock, path = Clock(monkeypatch, SMALL), tmp_path / "m.gmill"
    exe = compiled()
    exe.save(path)
    clock.asked = 0
    loaded = gm.load(path)
    assert kernels_of(loaded) == kernels_of(exe) != kernels_of(compiled(tune=False)) and not clock.asked
    np.testing.assert_array_equal(loaded.run({"x": X})["y"], exe.run({"x": X})["y"])
    loaded.save(tmp_path / "again.gmill")
    assert path.read_bytes() == (tmp_path / "again.gmill").read_bytes()
    monkeypatch.setattr(Shim, "about", ("another", ""))
    assert kernels_of(gm.load(path)) == kernels_of(compiled(tune=False))


def test_algorithms_hold_for_the_versions_that_they_were_measured_with() -> None:
    found = {
        "a": measuring.Measured("library 1", {}, {}),
        "b": measuring.Measured("32x32", {}, {}),
        "c": measuring.Measured("default", {}, {}),
    }
    t = tuning.Tuning(("H100", "driver 1"), found)
    assert t.ways(("H100", "driver 1")) == {"a": Way(1), "b": Way(cut=Cut(Tile(32, 32)))}
    assert t.ways(("H100", "driver 2")) == {"b": Way(cut=Cut(Tile(32, 32)))}
    assert t.ways(("H200", "driver 1")) == {}


def test_what_artifacts_say_is_checked(tmp_path: Path) -> None:
    from graphmill.engine.bundled import tuning_in

    class Loader:
        def __init__(self, tuned: Any):
            self.manifest = {"tuned": tuned}

        def field(self, key: str, kind: type, of: Any = None) -> Any:
            value = (self.manifest if of is None else of).get(key)
            if not isinstance(value, kind):
                raise self.wrong("", key)
            return value

        def wrong(self, member: str, problem: str) -> ArtifactError:
            return ArtifactError(problem)

    for tuned in (3, {}, {"about": ["x"], "ways": {}}, {"about": ["x", 3], "ways": {}}, {"about": ["x", "y"], "ways": {"k": 3}}):
        with pytest.raises(ArtifactError):
            tuning_in(Loader(tuned))  # type: ignore[arg-type]
    found = tuning_in(Loader({"about": ["x", "y"], "ways": {"k": "32x32 / 4", "l": "rm -r"}}))  # type: ignore[arg-type]
    assert found is not None and found.ways(("x", "y")) == {"k": Way(cut=Cut(Tile(32, 32), 4))}


def test_the_default_stays_where_nothing_is_faster() -> None:
    exe = compiled(device="null")
    found = exe.report.tuning
    assert found is not None and {m.chosen for m in found.problems.values()} == {"default"}
    assert kernels_of(exe) == kernels_of(compiled(device="null", tune=False))
    assert {d.outcome for d in exe.report.decisions if d.rule == "tune"} == {"kept"}


def test_what_is_not_measured() -> None:
    dynamic = compiled(layers("N"), device="null")
    assert dynamic.report.tuning.problems == {}  # type: ignore[union-attr]
    assert compiled(layers("N"), device="null", shapes={"N": 40}).report.tuning.problems  # type: ignore[union-attr]
    with pytest.raises(InputError, match="tune is offered by"):
        gm.compile(layers(), tune=True)
    assert (
        tuning._known(None)
        is tuning._known({"took": 3})
        is tuning._known({"chosen": "x", "took": {}, "left_out": {}, "like": ""})
        is None
    )


def test_ways_are_read_as_they_are_written() -> None:
    found = [Way(), Way(3), Way(cut=Cut(FEW_ROWS)), Way(cut=Cut(Tile(32, 32))), Way(cut=Cut(Tile(64, 64), 7))]
    assert [Way.parse(str(way)) for way in found] == found
    assert not any(
        Way.parse(text) for text in ("", "default", "library 64", "library -1", "1x1", "32x32 / x", "32x32 / 100", " / 2")
    )


@needs_shim
def test_every_cut_gives_the_same_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct tiles, splits and few rows too."""
    monkeypatch.setattr(ways, "DIRECT_TILES", (Tile(32, 32, True),))
    clock = Clock(monkeypatch, "nothing")
    exe = compiled(layers("4"))
    assert clock.asked
    for m in exe.report.tuning.problems.values():  # type: ignore[union-attr]
        assert {"default", "32x32", "64x64", LIBRARY} <= {*m.took} and not m.left_out and {m.like, *m.took} & {"few rows"}
        assert any("direct 32x32" in name for name in (m.like, *m.took))


@needs_shim
def test_products_of_bytes_have_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, "mma_tile<MmaBytes<false, true, false>, 32, 32")
    model = onnx_parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        m (uint8[40, 64] x, uint8 z) => (int32[40, 72] y) { y = MatMulInteger (x, w, z) }""")
    w = np.random.default_rng(0).integers(-128, 128, (64, 72)).astype(np.int8)
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    exe = compiled(model, rung="libraries")
    (found,) = exe.report.tuning.problems.values()  # type: ignore[union-attr]
    assert clock.asked and not found.left_out and "32x32" in (found.chosen, found.like) and "64x64" in {found.like, *found.took}
    x = np.random.default_rng(1).integers(0, 256, (40, 64)).astype(np.uint8)
    want = (x.astype(np.int32) - 200) @ w.astype(np.int32)
    np.testing.assert_array_equal(exe.run({"x": x, "z": np.uint8(200)})["y"], want)
    assert compiled(model, device="null", rung="scalar").report.tuning.problems == {}  # type: ignore[union-attr]


def test_cuts_that_do_not_serve_are_refused() -> None:
    node = next(iter(compiled(layers("40"), device="null").module.main))
    assert "does not serve" in str(select(node, "scalar", "scalar", Cut(Tile(32, 32))))
    assert "does not serve" in str(select(node, "fp32", "tensor", Cut(FEW_ROWS)))
    assert not isinstance(select(node, "fp32", "tensor", Cut(Tile(32, 32, True))), Refusal)


@needs_shim
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further algorithms of a library are candidates, and the one that is chosen is what runs; memory is given back."""
    fake, used = Fake(), list[int]()
    fake.install(monkeypatch)
    lt = FakeLt(lambda call, name: fake.do(call, name))
    monkeypatch.setattr(cublaslt, "library", lambda: lt)
    monkeypatch.setattr(cublaslt, "handle", lambda device: made)
    monkeypatch.setattr(cublaslt, "version", lambda: "3")
    monkeypatch.setattr(cudnn, "version", lambda: "")
    made, same = cublaslt.CublasLt(), gpu.Gpu.timer

    def timer(driver: Any, commands: list[Command]) -> Any:
        lt.used.clear()
        took = same(driver, commands)
        used.extend(lt.used)
        fast = set(lt.used) == {2}
        return lambda: took() / (2 if fast else 1)

    monkeypatch.setattr(gpu.Gpu, "timer", timer)
    monkeypatch.setattr(tuning, "CACHED", 0)  # so that weights are read from several copies
    monkeypatch.setattr(measuring, "COPIES", 1 << 15)
    monkeypatch.setattr(measuring, "LONGEST", 1)
    exe = gm.compile(layers(), "cuda", tune=True)
    found = exe.report.tuning
    assert found is not None and found.about == ("a GPU", "driver 13000, cuBLASLt 3, cuDNN ")
    assert {m.chosen for m in found.problems.values()} == {"library 2"} and {*used} == {0, 1, 2}
    assert all({"library 0", "library 1", "library 2"} <= {*m.took} for m in found.problems.values())
    assert fake.live == 0 and "graph" in fake.calls and "free" in fake.calls
    lt.used.clear()
    got, want = exe.run({"x": X})["y"], gm.compile(layers(), "reference").run({"x": X})["y"]
    assert {*lt.used} == {2}
    np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2)


def test_the_command_line_tells_what_was_chosen(tmp_path: Path) -> None:
    from click.testing import CliRunner
    from graphmill.cli.main import main

    path = tmp_path / "m.onnx"
    path.write_bytes(layers().SerializeToString())
    said = CliRunner().invoke(main, ["explain", str(path), "--target", "cuda", "--device", "null", "--tune"]).output
    assert said.count("tune @") == 3 and "default (" in said
    told = CliRunner().invoke(main, ["dump", str(path), "--target", "cuda", "--device", "null", "--tune", "--plan"])
    assert told.exit_code == 0 and "matmul.tensor" in told.output
