"""InferenceSession: a compiled model behind onnxruntime's methods."""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...ir.errors import GraphmillError
from ...ir.limits import interrupted_by
from ...ir.types import STR, TensorType
from ..compiler import compile
from ..executor import Executable
from . import model as about
from .devices import CPU_MEMORY, CPU_PROVIDER, OrtEpDevice, OrtMemoryInfo, get_ep_devices
from .errors import Fail, InvalidArgument, NotOffered, loading, running
from .options import RunOptions, SessionOptions
from .process import default_threads, get_all_providers
from .values import OrtValue, OrtValueVector

TERMINATED = "Exiting due to terminate flag being set to true."


class InferenceSession:
    """A model, compiled when the session is made.

    `path_or_bytes`: a path or the bytes of an ONNX file. Providers other than the CPU's are warned of, as onnxruntime does, and the
    CPU serves. Raises NoSuchFile, InvalidProtobuf, InvalidGraph, InvalidArgument, NotImplemented or Fail for what cannot be loaded.
    """

    def __init__(self, path_or_bytes: str | os.PathLike | bytes, sess_options: SessionOptions | None = None,
                 providers: Sequence[Any] | None = None, provider_options: Sequence[Mapping] | None = None,
                 **kwargs: Any):  # fmt: skip
        if isinstance(path_or_bytes, (str, os.PathLike)):
            self._model_path: str | None = os.fspath(path_or_bytes)
        elif isinstance(path_or_bytes, bytes):
            self._model_path = None
        else:
            raise TypeError(f"Unable to load from type '{type(path_or_bytes)}'")
        self._sess_options = sess_options if sess_options is not None else SessionOptions()
        self._fallback = int(kwargs.get("enable_fallback", 1)) == 1
        self._choose(providers, provider_options)
        self._started = time.time_ns() if self._sess_options.enable_profiling else 0
        self._events: list[dict[str, Any]] = []
        try:
            self._load(path_or_bytes if isinstance(path_or_bytes, bytes) else os.fspath(path_or_bytes))
        except (GraphmillError, OSError) as e:
            raise loading(e) from e
        self._profile("model_loading", self._started)

    def _load(self, source: str | bytes) -> None:
        options = self._sess_options
        proto = about.headers(source)
        fixed = about.fixed_dims(proto.graph, options)
        arrays = options.arrays()
        threads = options.intra_op_num_threads if options.intra_op_num_threads > 0 else default_threads(options)
        model = about.replaced(source, arrays) if arrays else source
        self._exe: Executable = compile(model, threads=threads, shapes=fixed, limits=options.limits())
        self._modelmeta = about.metadata(proto)
        self._inputs = about.inputs_of(proto, fixed)
        self._outputs = about.outputs_of(proto, self._exe.module, fixed)
        self._types = {v.name: v.type for v in self._exe.module.main.inputs}
        self._output_names = [o.name for o in self._outputs]
        self._required = {v.name for v in self._inputs if not v.type.startswith("optional")}
        if options.optimized_model_filepath:
            from ...frontends.onnx.writer import write

            opset = self._exe.module.opsets.get("", 0)
            write(self._exe.module, options.optimized_model_filepath, None if opset >= 7 else 7)

    # ---- what it is

    def get_inputs(self) -> list[about.NodeArg]:
        """The inputs that must be given."""
        return list(self._inputs)

    def get_outputs(self) -> list[about.NodeArg]:
        return list(self._outputs)

    def get_overridable_initializers(self) -> list[about.NodeArg]:
        """None: initializers are constants here, those that are inputs as well too."""
        return []

    def get_modelmeta(self) -> about.ModelMetadata:
        return self._modelmeta

    def get_session_options(self) -> SessionOptions:
        return self._sess_options

    def get_input_memory_infos(self) -> list[OrtMemoryInfo]:
        return [CPU_MEMORY] * len(self._inputs)

    def get_output_memory_infos(self) -> list[OrtMemoryInfo]:
        return [CPU_MEMORY] * len(self._outputs)

    def get_input_epdevices(self) -> list[OrtEpDevice]:
        return get_ep_devices() * len(self._inputs)

    # ---- providers

    def get_providers(self) -> list[str]:
        return [CPU_PROVIDER]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {CPU_PROVIDER: dict(self._provider_options)}

    def _choose(self, providers: Any, provider_options: Any) -> None:
        """`set_providers`, where what is wrong with the lists is only warned of unless the fallback is disabled."""
        try:
            self.set_providers(providers, provider_options)
        except ValueError as e:
            if not self._fallback:
                raise
            warnings.warn(f"{e} Falling back to {CPU_PROVIDER}.", stacklevel=3)

    def set_providers(self, providers: Sequence[Any] | None = None, provider_options: Sequence[Mapping] | None = None) -> None:
        """Checks the providers as onnxruntime does; the CPU serves whatever they are. Raises ValueError for what is no list of
        names, RuntimeError for a name that there is not where the fallback is disabled."""
        self._provider_options: dict[str, str] = {}
        for name, options in _normalized(providers, provider_options):
            if name == CPU_PROVIDER:
                self._provider_options = options
                continue
            warnings.warn(
                f"Specified provider '{name}' is not in available provider names.Available providers: '{CPU_PROVIDER}'",
                stacklevel=3,
            )
            if name not in get_all_providers() and not self._fallback:
                raise NotOffered(f"Unknown Provider Type: {name}; use {CPU_PROVIDER}")

    def disable_fallback(self) -> None:
        self._fallback = False

    def enable_fallback(self) -> None:
        self._fallback = True

    # ---- running

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: RunOptions | None = None
    ) -> list[Any]:
        """The outputs of these names (None or empty: all), in order.

        A value of the feed is an array, an OrtValue, or a list, which is converted where numpy can without loss of kind. Raises
        ValueError for inputs that are missing, InvalidArgument for those that do not fit and for outputs that there are not, Fail
        where a node fails.
        """
        return self._run_into(output_names, input_feed, run_options, None)

    def _run_into(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: RunOptions | None,
                  out: Mapping[str, np.ndarray] | None) -> list[Any]:  # fmt: skip
        """`run`, with the memory of outputs where there is any for them (see `Executable.run`)."""
        names = self._checked(output_names, input_feed)
        for value in input_feed.values():
            if type(value) is not np.ndarray:
                input_feed = {n: self._array(n, v) for n, v in input_feed.items()}
                break
        started = time.time_ns() if self._started else 0
        try:
            if run_options is None:
                results = self._exe.run(input_feed, out=out)
            else:
                results = self._run_stoppable(input_feed, run_options, out)
        except GraphmillError as e:
            raise running(e) from e
        if started:
            self._profile("model_run", started)
        return list(results.values()) if names is self._output_names else [results[n] for n in names]

    def _checked(self, output_names: Sequence[str] | None, feed: Mapping[str, Any]) -> Sequence[str]:
        """The names of the outputs that are asked for, after a look at all names."""
        if feed.keys() != self._types.keys():
            self._check_names(feed)
        if not output_names:
            return self._output_names
        if isinstance(output_names, (str, bytes)):
            raise TypeError(f"run(): output_names is the text {output_names!r}; expected a list of names")
        for name in output_names:
            if name not in self._output_names:
                raise InvalidArgument(f"Invalid output name:{name}; the model has {', '.join(self._output_names)}")
        return output_names

    def _check_names(self, feed: Mapping[str, Any]) -> None:
        missing = [i.name for i in self._inputs if i.name in self._required and i.name not in feed]
        if missing:
            raise ValueError(f"Required inputs ({missing}) are missing from input feed ({list(feed)}).")
        for name in feed:
            if name not in self._types:
                raise InvalidArgument(f"Invalid input name: {name}{self._why_no_input(name)}")

    def _why_no_input(self, name: str) -> str:
        given = json.loads(self._exe.module.meta.get("onnx.default_inputs", "[]"))
        return " (its initializer is a constant here: remove the initializer from the model to hand it in)" if name in given else ""

    def _array(self, name: str, value: Any) -> Any:
        """What a caller feeds, as `Executable.run` takes it."""
        if isinstance(value, OrtValue):
            return value._value
        t = self._types.get(name)
        if not isinstance(t, TensorType) or t.dtype is STR or isinstance(value, np.ndarray) or hasattr(value, "__dlpack__"):
            return value
        if value is None:
            raise InvalidArgument(f"the input {name} is None, expected {t}")
        try:
            a = np.asarray(value)
            return np.asarray(value, t.dtype.np) if isinstance(value, (list, tuple)) and _converts(a, t.dtype.np) else a
        except (TypeError, ValueError, OverflowError) as e:
            raise InvalidArgument(f"the input {name} cannot be made an array of {t.dtype}: {e}") from e

    def _run_stoppable(self, feed: Mapping[str, Any], options: RunOptions, out: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
        if not isinstance(options, RunOptions):
            raise TypeError(f"run(): run_options is a {type(options).__name__}; expected RunOptions")

        def look() -> None:
            if options.terminate:
                raise Fail(TERMINATED)

        look()
        with interrupted_by(look):
            return self._exe.run(feed, out=out)

    def run_async(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any],
                  callback: Callable[[list[Any], Any, str], None], user_data: Any,
                  run_options: RunOptions | None = None) -> None:  # fmt: skip
        """Runs in a thread of the process's few for this (see `Executable.run_async`), which calls `callback(results, user_data,
        error)` at the end; `error` is empty where it went well. Raises as `run` for inputs that are missing."""
        from ..background import submit

        self._checked(None, input_feed)

        def work() -> None:
            results, error = [], ""
            try:
                results = self.run(output_names, input_feed, run_options)
            except Exception as e:  # who waits for the callback must be told of any
                error = str(e) or type(e).__name__
            try:
                callback(results, user_data, error)
            except BaseException as e:  # there is nobody else to tell
                threading.excepthook(threading.ExceptHookArgs((type(e), e, e.__traceback__, threading.current_thread())))

        submit(work)

    def run_with_ort_values(self, output_names: Sequence[str] | None, input_dict_ort_values: Mapping[str, OrtValue],
                            run_options: RunOptions | None = None) -> list[OrtValue]:  # fmt: skip
        """As `run`, from OrtValues to OrtValues."""
        for name, value in input_dict_ort_values.items():
            if not isinstance(value, OrtValue):
                raise TypeError(f"the input {name} is a {type(value).__name__}; expected an OrtValue")
        return [OrtValue(x) for x in self.run(output_names, input_dict_ort_values, run_options)]

    def run_with_ortvaluevector(self, run_options: RunOptions | None, feed_names: Sequence[str], feeds: Sequence[OrtValue],
                                fetch_names: Sequence[str], fetches: OrtValueVector,
                                fetch_devices: Any = None) -> None:  # fmt: skip
        """As `run`; the results are put into `fetches`."""
        fetches[:] = self.run_with_ort_values(fetch_names, dict(zip(feed_names, feeds, strict=True)), run_options)

    def io_binding(self) -> Any:
        """A new IOBinding of this session."""
        from .binding import IOBinding

        return IOBinding(self)

    def run_with_iobinding(self, iobinding: Any, run_options: RunOptions | None = None) -> None:
        """Runs on what is bound; raises RuntimeError for what does not fit."""
        if iobinding._session is not self:
            raise ValueError("IOBinding must be used with the session that created it.")
        iobinding._run(run_options)

    def create_ortvalue_from_shape_and_type(self, shape: Sequence[int], element_type: Any, device_type: str, device_id: int = 0,
                                            vendor_id: int = -1) -> OrtValue:  # fmt: skip
        return OrtValue.ortvalue_from_shape_and_type(shape, element_type, device_type, device_id, vendor_id)

    # ---- profiling and tuning

    def _profile(self, name: str, started: int) -> None:
        if self._started:
            took = (time.time_ns() - started) // 1000
            self._events.append({"cat": "Session", "pid": os.getpid(), "tid": threading.get_ident(), "dur": took, "ph": "X",
                                 "name": name, "ts": (started - self._started) // 1000, "args": {}})  # fmt: skip

    def get_profiling_start_time_ns(self) -> int:
        """Nanoseconds since the epoch when profiling began; 0 without it."""
        return self._started

    def end_profiling(self) -> str:
        """Writes how long loading and each run took, as a JSON trace that Perfetto reads, and returns the file's name, which is
        empty without `SessionOptions.enable_profiling`. Nodes are not timed one by one."""
        if not self._started:
            return ""
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(self._started / 1e9))
        path = f"{self._sess_options.profile_file_prefix}_{stamp}_{self._started // 1_000_000 % 1000}.json"
        with open(path, "w", encoding="utf-8") as f:
            json.dump(self._events, f)
        self._started = 0
        return path

    def get_tuning_results(self) -> list[Any]:
        """None: kernels are not tuned while running."""
        return []

    def set_tuning_results(self, results: Sequence[Any], *, error_on_invalid: bool = False) -> None:
        if results:
            raise NotOffered("tuning results of onnxruntime's providers mean nothing here; leave them out")

    def set_ep_dynamic_options(self, options: Mapping[str, str]) -> None:
        raise NotOffered("the CPU has no options that change while it runs; set SessionOptions before the session is made")

    def get_provider_graph_assignment_info(self) -> list[Any]:
        raise NotOffered("use graphmill.compile(model).report.served, which tells how each node runs")

    def release_captured_graph(self, graph_annotation_id: int = 0) -> None:
        """There is none on the CPU."""


def _converts(a: np.ndarray, want: np.dtype) -> bool:
    """Whether a list that numpy reads as `a` may become an array of `want`: floats never become integers."""
    return a.size == 0 or np.can_cast(a.dtype, want, "same_kind") or (a.dtype.kind in "iu" and want.kind in "iuf")


def _normalized(providers: Any, provider_options: Any) -> list[tuple[str, dict[str, str]]]:
    """The providers with their options, each name once."""
    if providers is None:
        return []
    if not isinstance(providers, Sequence):
        raise ValueError("'providers' should be a sequence.")
    if provider_options is not None:
        if not isinstance(provider_options, Sequence):
            raise ValueError("'provider_options' should be a sequence.")
        if len(providers) != len(provider_options):
            raise ValueError("'providers' and 'provider_options' should be the same length if both are given.")
        if not all(isinstance(p, str) for p in providers):
            raise ValueError("Only string values for 'providers' are supported if 'provider_options' is given.")
        if not all(isinstance(o, Mapping) for o in provider_options):
            raise ValueError("'provider_options' values must be dicts.")
        providers = list(zip(providers, provider_options))
    found: dict[str, dict[str, str]] = {}
    for p in [(p, {}) if isinstance(p, str) else p for p in providers]:
        if not (isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], Mapping)):
            raise ValueError("'providers' values must be either strings or (string, dict) tuples.")
        if p[0] in found:
            warnings.warn(f"Duplicate provider '{p[0]}' encountered, ignoring.", stacklevel=4)
        found.setdefault(p[0], {str(k): str(v) for k, v in p[1].items()})
    return list(found.items())
