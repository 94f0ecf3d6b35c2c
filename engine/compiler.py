"""compile: from a model to an Executable."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..ir.core import Module
from ..ir.errors import InferenceError, InputError, IRError, LimitError, UnsupportedError
from ..ir.interp import constant_bytes
from ..ir.limits import DEFAULT_LIMITS, Limits
from ..ir.passes.manager import Context, Observer, parse_pipeline, run_pipeline
from ..kernels.cpu.cpus import granted_cpus
from .bucketed import Bucketed
from .buckets import decide, trimmed
from .device import CPU, Device
from .executor import Executable
from .options import DEFAULT_PIPELINE, PRECISIONS, RUNGS, TARGET_PIPELINE, Options
from .plan import Selector, make_plan
from .report import CompileReport

if TYPE_CHECKING:
    from ..kernels.cuda.ways import Way
    from .cuda import Cuda

CompileAll = Callable[[list[str]], list[int]]
TARGETS = ("cpu", "cuda", "reference")
DEVICES = ("gpu", "shim", "null")
ACCURACIES = ("fast", "strict")


def compile(model: Any, target: str = "cpu", *, threads: int | None = None, passes: str | None = None,
            shapes: Mapping[str, int] | None = None, strict_native: bool = False, limits: Limits = DEFAULT_LIMITS,
            accuracy: str = "fast", device: str = "gpu", precision: str = "fp32", keep_fp32: Sequence[str] = (),
            keep_io_types: bool | Sequence[str] = True, rung: str = "tensor", tune: bool = False,
            buckets: Mapping[str, Sequence[int]] | None = None, pad: Mapping[str, float] | None = None,
            observe: Observer | None = None, tell: Callable[[str], None] | None = None) -> Executable:  # fmt: skip
    """Compiles a model.

    `model` is a path, the bytes of an ONNX file, an onnx.ModelProto or a graphmill.ir Module (which is changed in place). For
    the other arguments see `Options`; `observe(pass, module)` is called after every pass, `tell(text)` while `tune` goes on. Raises
    ImportProblem listing all that is wrong with the model, UnsupportedError where `strict_native` asks for more than there is, or
    where `buckets` pad what is not known to be independent and `pad` says nothing of it, InputError for wrong arguments.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads = {threads}, expected at least 1 (None: as many as the machine grants)")
    choices = {"accuracy": (accuracy, ACCURACIES), "device": (device, DEVICES), "precision": (precision, PRECISIONS),
               "rung": (rung, RUNGS)}  # fmt: skip
    for name, (value, known) in choices.items():
        if value not in known:
            raise InputError(f"{name} = {value!r}, expected one of {', '.join(known)}")
    if target != "cuda" and (precision != "fp32" or keep_fp32):
        raise InputError(f"precision = {precision!r} is offered by target = 'cuda', not by {target!r}")
    if keep_io_types is not True and not PRECISIONS[precision]:
        raise InputError(f"keep_io_types = {keep_io_types!r} is offered with precision = 'fp16' and 'bf16', not with {precision!r}")
    if isinstance(keep_io_types, str):
        raise InputError(f"keep_io_types = {keep_io_types!r}, expected True, False or a list of names")
    if target != "cuda" and rung != "tensor":
        raise InputError(f"rung = {rung!r} is offered by target = 'cuda', not by {target!r}")
    if target != "cuda" and tune:
        raise InputError(f"tune is offered by target = 'cuda', not by {target!r}")
    kept_types = keep_io_types if isinstance(keep_io_types, bool) else tuple(keep_io_types)
    options = Options(target, threads, passes, dict(shapes or {}), strict_native, limits, accuracy, device, precision,
                      tuple(keep_fp32), kept_types, rung, tune, dict(buckets or {}), dict(pad or {}))  # fmt: skip
    try:
        with import_report(model, options):
            return compile_module(load(model, options), options, observe, tell)
    except RecursionError as e:
        raise LimitError(f"an expression of the model is nested too deeply to be compiled ({e})") from e
    except MemoryError as e:
        raise LimitError(f"the system has not the memory that compiling this model needs ({e})") from e


def load(model: Any, options: Options) -> Module:
    """The module of whatever `compile` takes."""
    if isinstance(model, (str, os.PathLike)) and os.fspath(model).endswith(".gmill"):
        raise InputError(f"{os.path.basename(os.fspath(model))} is compiled already: graphmill.load reads it, and `graphmill run`")
    is_text = isinstance(model, (str, os.PathLike)) and os.fspath(model).endswith(".gir")
    if options.shapes and (is_text or isinstance(model, Module)):
        raise InputError("shapes are fixed while an ONNX model is read; this one is in the IR already: fix them in its text")
    if isinstance(model, Module):
        return model
    if is_text:
        from ..frontends.text import read_text

        return read_text(os.fspath(model))
    from ..frontends.onnx.reader import read

    return read(model, limits=options.limits, shapes=options.shapes)


@contextmanager
def import_report(model: Any, options: Options) -> Iterator[None]:
    """Errors of types, met when passes run on an ONNX model, become the ImportProblem that lists all of them."""
    try:
        yield
    except (InferenceError, IRError) as e:
        if isinstance(model, Module) or (isinstance(model, (str, os.PathLike)) and os.fspath(model).endswith(".gir")):
            raise
        from ..frontends.onnx.typecheck import report

        found = report(model, options.limits, options.shapes)
        if found is None:
            raise
        raise found from e


def pipeline_text(options: Options) -> str:
    """The pipeline that these options ask for."""
    if options.passes is not None:
        return options.passes
    if options.target == "reference":
        return DEFAULT_PIPELINE
    passes = f"{DEFAULT_PIPELINE},{TARGET_PIPELINE}"
    if options.target == "cuda":
        passes = passes.replace(",layout", ",caches,canonicalize,layout").replace(",fuse", ",merge-projections,fuse,group-casts")
        if options.rung == "tensor":
            passes = passes.replace(",group-casts", ",fuse-norms,group-casts")
    floats = PRECISIONS[options.precision]
    if not floats:
        return passes
    keep = f",keep={';'.join(options.keep_fp32)}" if options.keep_fp32 else ""
    more = f",precision{{to={floats}{keep}}},canonicalize,cse"
    if options.keep_io_types is not True:
        kept = f",keep={';'.join(options.keep_io_types)}" if options.keep_io_types else ""
        more += f",narrow-io{{to={floats}{kept}}}"
    return passes.replace(",canonicalize,layout", f"{more},layout")


def optimize(module: Module, options: Options, report: CompileReport, observe: Observer | None = None) -> None:
    """Runs the pipeline on the module."""
    from ..ir import passes as _  # noqa: F401  (registers the passes)

    if options.target not in TARGETS:
        raise UnsupportedError(f"there is no target {options.target!r}; expected one of {', '.join(TARGETS)}")
    ctx = Context(limits=options.limits)
    if options.target == "cpu":
        from ..kernels.cpu.target import CpuTarget

        ctx.target = CpuTarget()
    elif options.target == "cuda":
        from ..ir.passes.precision import check_names
        from ..kernels.cuda.target import CudaTarget

        ctx.target = CudaTarget(options.precision, options.rung)
        if not PRECISIONS[options.precision]:  # else the pass looks at them
            check_names(module, options.keep_fp32)
    report.buckets, decisions = decide(module, options.buckets, options.pad, options.limits)
    report.passes = run_pipeline(module, parse_pipeline(pipeline_text(options)), ctx, observe)
    report.decisions = [*decisions, *ctx.log.decisions]
    if report.buckets is not None:
        trimmed(module, report.buckets)  # which refuses outputs that cannot be


def compile_module(module: Module, options: Options, observe: Observer | None = None,
                   tell: Callable[[str], None] | None = None) -> Executable:  # fmt: skip
    """Optimizes, plans and compiles a module."""
    started, report = time.perf_counter(), CompileReport()
    given = constant_bytes(module)
    optimize(module, options, report, observe)
    tune_module(module, options, report, tell)
    exe = build(module, options, report, given)
    report.seconds = time.perf_counter() - started
    return exe


def tune_module(module: Module, options: Options, report: CompileReport, tell: Callable[[str], None] | None = None) -> None:
    """Measures the ways of computing an optimized module, where that is asked for, and reports what it found."""
    if options.tune:
        from .tuning import tune

        report.tuning, decisions = tune(module, options, options.threads or granted_cpus(), tell)
        report.decisions = [*report.decisions, *decisions]


def build(module: Module, options: Options, report: CompileReport, given: int, select: Selector | None = None,
          prepare: Callable[[list[str]], None] | None = None) -> Executable:  # fmt: skip
    """Plans an optimized module and compiles its kernels. `select` serves in the place of the target's; `prepare` is given the
    texts of all kernels before any is looked up."""
    threads, served = options.threads or granted_cpus(), report.served
    device: Device = CPU
    compile_all: CompileAll = lambda texts: []  # noqa: E731
    if options.target == "cpu":
        compile_all = _for_cpu(report, threads, prepare)
    elif options.target == "cuda":
        from .cuda import open_device

        device = cuda = open_device(options.device)
        compile_all = _for_cuda(report, cuda, threads, prepare)
        if report.tuning is not None:
            select = select_for(options, report.tuning.ways(cuda.driver.about))
    plan = make_plan(module.main, select or select_for(options), served, compile_all)
    if options.strict_native and report.not_native():
        lines = [f"  %{s.node} ({s.op}): {s.reason}" for s in report.not_native()]
        raise UnsupportedError("strict_native: these nodes have no native kernel:\n" + "\n".join(lines))
    if report.buckets is not None:
        return Bucketed(module, plan, options, threads, report, given, device, buckets=report.buckets)
    return Executable(module, plan, options, threads, report, given, device)


def select_for(options: Options, ways: Mapping[str, Way] | None = None) -> Selector | None:
    """Which kernel serves a node of a model that is compiled so, with the `ways` that it was tuned to."""
    if options.target == "cpu":
        from ..kernels.cpu.target import selector

        return selector(options.accuracy)
    if options.target == "cuda":
        from ..kernels.cuda.target import selector as cuda_selector

        return cuda_selector(options.precision, options.keep_fp32, options.rung, ways)
    return None


def _for_cpu(report: CompileReport, threads: int, prepare: Callable[[list[str]], None] | None) -> CompileAll:
    """What compiles the kernels of a plan for the CPU."""
    from ..kernels.cpu import objects

    def compile_all(texts: list[str]) -> list[int]:
        if prepare is not None:
            prepare(texts)
        report.kernels, before = len(set(texts)), objects.compiled_count()
        report.misses = dict(Counter(objects.compile_many(texts, threads)))
        addresses = [objects.kernel_address(t) for t in texts]
        report.compiled = objects.compiled_count() - before
        return addresses

    return compile_all


def _for_cuda(report: CompileReport, device: Cuda, threads: int, prepare: Callable[[list[str]], None] | None) -> CompileAll:
    """What compiles the kernels of a plan for a CUDA device."""

    def compile_all(texts: list[str]) -> list[int]:
        if prepare is not None:
            prepare(texts)
        report.kernels, missing = len(set(texts)), device.driver.compile(texts, threads)
        report.misses, report.compiled = dict(Counter(missing)), len(missing)
        return device.driver.load(texts)

    return compile_all
