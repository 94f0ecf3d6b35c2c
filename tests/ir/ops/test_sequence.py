"""Sequences and optionals: element types, positions, absent values."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.symbols import Dim
from graphmill.ir.types import OptionalType, SequenceType
from inferring import N, infer, run, t

ints = np.array


def test_elements_may_differ_in_size() -> None:
    seq = infer("sequence_construct", t(N, 3), t(2, 3))
    one, two = infer("sequence_at", seq, ints(0)), infer("sequence_at", seq, ints(1))
    assert one.shape[1] == 3 and isinstance(one.shape[0], Dim)
    assert infer("sequence_insert", SequenceType(t(2)), t(2, 2)).elem.shape is None
    assert two.rank == 2
    assert infer("concat_from_sequence", seq, axis=-1).rank == 2
    assert infer("concat_from_sequence", seq, axis=0, new_axis=1).shape[2] == 3
    with pytest.raises(InferenceError):
        infer("sequence_construct", t(2), t(2, dtype="i64"))
    with pytest.raises(InferenceError, match="sequence"):
        infer("sequence_at", t(2), ints(0))


def test_split_to_sequence_types() -> None:
    assert infer("split_to_sequence", t(N, 4)).elem.shape == (1, 4)
    assert infer("split_to_sequence", t(N, 4), keepdims=0).elem.shape == (4,)
    assert infer("split_to_sequence", t(N, 4), ints(2), axis=1).elem.shape == (N, 2)
    assert isinstance(infer("split_to_sequence", t(N, 5), ints(2), axis=1).elem.shape[1], Dim)
    assert run("split_to_sequence", np.zeros((0, 2))) == []
    for bad in (ints(0), ints([1, 1])):
        with pytest.raises(ValueError):
            run("split_to_sequence", np.zeros(3), bad)


def test_positions_and_values() -> None:
    seq = [ints([1]), ints([2])]
    assert run("sequence_insert", seq, ints([9]), ints(2))[2] == 9 and len(seq) == 2
    for name, extra in (("sequence_at", (ints(2),)), ("sequence_erase", (ints(-3),)), ("sequence_insert", (ints(1), ints(3)))):
        with pytest.raises(IndexError):
            run(name, seq, *extra)
    with pytest.raises(ValueError, match="empty"):
        run("concat_from_sequence", [], axis=0)


def test_optionals() -> None:
    assert infer("optional", t(2)) == OptionalType(t(2))
    assert infer("optional", type=t(2)) == OptionalType(t(2))
    with pytest.raises(InferenceError):
        infer("optional")
    assert infer("optional_get_element", OptionalType(t(2))) == t(2) == infer("optional_get_element", t(2))
    assert not run("optional_has_element", None) and run("optional_has_element", [])
    with pytest.raises(ValueError, match="absent"):
        run("optional_get_element", None)
