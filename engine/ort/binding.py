"""IOBinding: inputs and outputs bound to memory once and used by many runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .devices import need_cpu
from .errors import OrtError
from .options import RunOptions
from .session import InferenceSession
from .values import OrtValue, OrtValueVector, array_at, element_dtype


class IOBinding:
    """What a session's runs read and where they write. An input may be rewritten in place between runs."""

    def __init__(self, session: InferenceSession):
        self._session = session
        self._feed: dict[str, Any] = {}  # what the inputs' OrtValues hold
        self._outputs: dict[str, OrtValue | None] = {}  # None: memory of the result's own
        self._places: dict[str, np.ndarray] = {}  # the memory of the others
        self._results: list[OrtValue] = []

    def bind_cpu_input(self, name: str, arr_on_cpu: np.ndarray) -> None:
        """Binds an array; where it is not contiguous, a copy of it as it is now."""
        strings = isinstance(arr_on_cpu, np.ndarray) and arr_on_cpu.dtype.kind in "OUST"
        self._bind(name, OrtValue(arr_on_cpu) if strings else OrtValue.ortvalue_from_numpy(arr_on_cpu))

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        """Binds the caller's memory, which must live as long as the binding."""
        need_cpu(device_type, device_id)
        self._bind(name, OrtValue(array_at(buffer_ptr, shape, element_dtype(element_type))))

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        if not isinstance(ortvalue, OrtValue):
            raise TypeError(f"a {type(ortvalue).__name__} cannot be bound; expected an OrtValue")
        self._bind(name, ortvalue)

    def _bind(self, name: str, value: OrtValue) -> None:
        if name not in self._session._types:
            raise RuntimeError(f"Failed to find NodeArg with name: {name} in the def list")
        self._feed[name] = value._value

    def bind_output(self, name: str, device_type: str = "cpu", device_id: int = 0, element_type: Any = None,
                    shape: Sequence[int] | None = None, buffer_ptr: int | None = None) -> None:  # fmt: skip
        """Asks for an output: in the caller's memory where `buffer_ptr` is given (with its element type and shape), else in memory
        of its own at each run."""
        need_cpu(device_type, device_id)
        if buffer_ptr is None:
            self._outputs[name] = None
            self._places.pop(name, None)
            return
        if element_type is None or shape is None:
            raise ValueError("`element_type` and `shape` are to be provided if pre-allocated memory is provided")
        self.bind_ortvalue_output(name, OrtValue(array_at(buffer_ptr, shape, element_dtype(element_type))))

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        if not isinstance(ortvalue, OrtValue):
            raise TypeError(f"a {type(ortvalue).__name__} cannot be bound; expected an OrtValue")
        self._outputs[name], self._places[name] = ortvalue, ortvalue.numpy()

    def _run(self, run_options: RunOptions | None) -> None:
        if not self._outputs:
            raise RuntimeError("Error in execution: At least one output should be requested.")
        try:
            made = self._session._run_into(list(self._outputs), self._feed, run_options, self._places)
        except (OrtError, ValueError) as e:
            raise RuntimeError(f"Error in execution: {e}") from e
        self._results = [OrtValue(x) if v is None else v for v, x in zip(self._outputs.values(), made)]

    def get_outputs(self) -> list[OrtValue]:
        """What the last run made, in the order in which outputs were bound."""
        return list(self._results)

    def get_outputs_as_ortvaluevector(self) -> OrtValueVector:
        return OrtValueVector(self._results)

    def copy_outputs_to_cpu(self) -> list[Any]:
        """What the last run made, as arrays of the caller's own."""
        return [np.array(v._value) if v.is_tensor() else v._value for v in self._results]

    def clear_binding_inputs(self) -> None:
        self._feed = {}

    def clear_binding_outputs(self) -> None:
        self._outputs, self._places, self._results = {}, {}, []

    def synchronize_inputs(self) -> None:
        """Nothing is copied in the background."""

    def synchronize_outputs(self) -> None:
        """Nothing is copied in the background."""
