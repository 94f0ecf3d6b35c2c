"""What cudnn.py uses of cuDNN's Python frontend, on the CPU: a graph keeps what it was asked for, and computes nothing."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any


class Tensor:
    """A tensor of a graph; what is set of it is kept in `about`."""

    def __init__(self, **about: Any):
        self.about = about

    def set_output(self, value: bool) -> Tensor:
        return self._set("output", value)

    def set_data_type(self, value: Any) -> Tensor:
        return self._set("data_type", value)

    def set_uid(self, value: int) -> Tensor:
        return self._set("uid", value)

    def set_dim(self, value: list[int]) -> Tensor:
        return self._set("dim", value)

    def set_stride(self, value: list[int]) -> Tensor:
        return self._set("stride", value)

    def _set(self, name: str, value: Any) -> Tensor:
        self.about[name] = value
        return self


class Graph:
    """Plan 0 cannot be built, plan 1 wants too much workspace, plans 2 and 3 are good."""

    def __init__(self, owner: FakeCudnn, about: dict):
        self.owner, self.about, self.steps, self.tensors = owner, about, list[str](), list[dict]()
        self.more: dict[str, Any] = {}

    def tensor(self, *, name: str, dim: list[int], stride: list[int], uid: int) -> Tensor:
        assert len(dim) == len(stride) == 4
        self.tensors.append({"name": name, "dim": dim, "stride": stride, "uid": uid})
        return Tensor(name=name)

    def conv_fprop(self, *, image: Tensor, weight: Tensor, padding: list[int], stride: list[int], dilation: list[int]) -> Tensor:
        assert (image.about["name"], weight.about["name"]) == ("x", "w")
        self.more = {"padding": padding, "stride": stride, "dilation": dilation}
        self.steps.append("conv")
        return Tensor(name="sums")

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        self.steps.append(f"add {b.about['name']}")
        return Tensor(name="sum")

    def relu(self, *, input: Tensor) -> Tensor:
        self.steps.append("relu")
        return Tensor(name="positive")

    def sdpa(self, *, name: str, q: Tensor, k: Tensor, v: Tensor, **more: Any) -> tuple[Tensor, None]:
        assert [t.about["name"] for t in (q, k, v)] == ["q", "k", "v"]
        self.more = more
        return Tensor(name="attended"), None

    def validate(self) -> None:
        self.steps.append("validate")

    def build_operation_graph(self) -> None:
        self.steps.append("build")

    def create_execution_plans(self, modes: list[Any]) -> None:
        assert modes == [self.owner.heur_mode.A, self.owner.heur_mode.FALLBACK]
        self.steps.append("plans")

    def get_execution_plan_count(self) -> int:
        return self.owner.plans

    def build_plan_at_index(self, number: int) -> None:
        self.steps.append(f"build {number}")
        if number == 0:
            raise RuntimeError("no engine")

    def get_workspace_size_plan_at_index(self, number: int) -> int:
        return 1 << 30 if number == 1 else 1 << 20

    def execute_plan_at_index(self, pointers: dict[int, int], workspace: int, number: int, handle: Any) -> None:
        assert handle == "handle" and workspace % 256 == 0 and all(type(k) is type(v) is int for k, v in pointers.items())
        stream = self.owner.stream
        self.owner.do(lambda: self.owner.ran.append((self, pointers, number, stream)), "cudnn")


class FakeCudnn:
    """The module."""

    data_type = Enum("data_type", "HALF BFLOAT16 FLOAT")
    heur_mode = Enum("heur_mode", "A FALLBACK")

    def __init__(self, do: Callable[[Callable[[], None], str], None], plans: int = 4):
        self.do, self.plans, self.stream = do, plans, 0
        self.ran: list[tuple[Graph, dict[int, int], int, int]] = []
        self.graphs: list[Graph] = []

    def create_handle(self) -> str:
        return "handle"

    def set_stream(self, *, handle: str, stream: int) -> None:
        self.stream = stream

    def pygraph(self, **about: Any) -> Graph:
        self.graphs.append(Graph(self, about))
        return self.graphs[-1]
