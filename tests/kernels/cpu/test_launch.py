"""Tables of kernels on the pool: order, bits, interruption, several callers, fork."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from graphmill.kernels.cpu import launch
from graphmill.kernels.cpu.objects import kernel_address

# Appends its tile's number times ten to what the row before left: wrong if rows overlap or a tile runs twice.
STEP = """
def kernel(p, tile, ntiles):
    for i in range(param(p, 2)):
        st_i64(param(p, 1), tile, ld_i64(param(p, 0), tile) + i)
"""
SLOW = """
def kernel(p, tile, ntiles):
    x = f32(1.0)
    for i in range(param(p, 1)):
        x = x * f32(1.0001) + f32(0.1)
    st_f32(param(p, 0), tile, x)
"""
ROWS, TILES = 50, 24


def make_table() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    lines = np.zeros((ROWS + 1, TILES), np.int64)
    params = [np.array([lines[i].ctypes.data, lines[i + 1].ctypes.data, 3], np.int64) for i in range(ROWS)]
    table = np.array([[kernel_address(STEP), p.ctypes.data, TILES, 0] for p in params], np.int64)
    return table, lines, params


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_rows_run_in_order_and_every_tile_once(threads: int) -> None:
    table, lines, _params = make_table()
    for _ in range(20):
        lines[:] = 0
        launch.Schedule(table).run(threads)
        assert (lines == 2 * np.arange(ROWS + 1)[:, None]).all()


def test_empty_table() -> None:
    launch.Schedule(np.zeros((0, launch.ROW), np.int64)).run(2)


def test_a_word_is_cleared_before_its_row() -> None:
    table, _lines, _params = make_table()
    flag = np.full(1, 99, np.int64)
    table[3, 3] = flag.ctypes.data
    launch.Schedule(table).run(2)
    assert flag[0] == 0


class Stop(Exception):
    pass


@pytest.mark.parametrize("threads", [1, 2])
def test_python_is_asked_between_slices(threads: int) -> None:
    out = np.zeros(64, np.float32)
    params = np.array([out.ctypes.data, 4_000_000], np.int64)  # some milliseconds a tile
    table = np.array([[kernel_address(SLOW), params.ctypes.data, 64, 0]], np.int64)
    asked = []

    def between() -> None:
        asked.append(np.count_nonzero(out))
        if len(asked) == 2:
            raise Stop

    with pytest.raises(Stop):
        launch.Schedule(table).run(threads, between)
    done = np.count_nonzero(out)
    assert 0 < asked[0] < asked[1] == done < 64  # nobody works on it any more
    params[1] = 10
    launch.Schedule(table).run(threads, between)
    assert np.count_nonzero(out) == 64


def test_several_callers_at_once() -> None:
    wrong = []

    def work() -> None:
        table, lines, _params = make_table()
        for _ in range(20):
            lines[:] = 0
            launch.Schedule(table).run(2)
            if not (lines == 2 * np.arange(ROWS + 1)[:, None]).all():
                wrong.append(lines.copy())

    callers = [threading.Thread(target=work) for _ in range(4)]
    for c in callers:
        c.start()
    for c in callers:
        c.join()
    assert not wrong


def test_a_child_process_has_its_own_workers() -> None:
    table, lines, _params = make_table()
    launch.Schedule(table).run(2)
    pid = os.fork()
    if pid == 0:
        lines[:] = 0
        launch.Schedule(table).run(2)
        os._exit(0 if (lines == 2 * np.arange(ROWS + 1)[:, None]).all() and launch._pool.workers == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_call() -> None:
    out = np.zeros(4, np.float32)
    launch.call(kernel_address(SLOW), np.array([out.ctypes.data, 0], np.int64), 4, 2)
    assert (out == 1).all()


def test_address_of() -> None:
    for a in (np.arange(5), np.arange(5)[2:], np.zeros((0, 3)), np.ones((4, 4), np.uint8).T[1:], np.array(3.0)):
        assert launch.address_of(a) == a.ctypes.data
    assert launch.address_of is launch._address_in_object


def test_parameters_that_point_into_arrays() -> None:
    """`advance` puts addresses in arrays' data where patches say."""
    table, lines, params = make_table()
    first, around = np.zeros(TILES, np.int64), np.zeros(TILES + 4, np.int64)
    last = around[3:-1]
    patches = np.array([[params[0].ctypes.data, 0, 0], [params[-1].ctypes.data + 8, 2, 24]], np.int64)
    schedule = launch.Schedule(table, patches)
    for threads in (1, 2):
        for k in (3, 4):
            first[:], last[:] = k, 0
            schedule.view[launch.ARRAYS], schedule.view[launch.ARRAYS + 2] = id(first), id(around)
            assert schedule.advance(threads, 2)
            assert (
                (last == k + 2 * ROWS).all()
                and not around[:3].any()
                and not around[-1]
                and not lines[0].any()
                and not lines[-1].any()
            )


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fault_is_told(threads: int) -> None:
    table, _lines, params = make_table()
    flag, out = np.zeros(1, np.int64), np.zeros(TILES, np.int64)
    table[3, 3] = flag.ctypes.data
    schedule = launch.Schedule(table)
    schedule.run(threads)
    assert not schedule.fault
    written, params[3][1] = params[3][1], out.ctypes.data
    table[3, 3] = out[5:].ctypes.data  # which is cleared, and then written by the kernel
    schedule.run(threads)
    assert schedule.fault and out[5]
    table[3, 3], params[3][1] = flag.ctypes.data, written
    schedule.run(threads)
    assert not schedule.fault


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_are_timed(threads: int) -> None:
    out = np.zeros(8, np.float32)
    params = [np.array([out.ctypes.data, n], np.int64) for n in (10, 1_000_000, 10)]
    schedule = launch.Schedule(np.array([[kernel_address(SLOW), p.ctypes.data, 8, 0] for p in params], np.int64))
    times = schedule.time_rows()
    assert not times.any()
    schedule.run(threads)
    assert times.shape == (4,) and times[0] and (np.diff(times) >= 0).all() and np.diff(times).argmax() == 1
    before = times.copy()
    schedule.run(threads)
    assert (times >= before[-1]).all()
