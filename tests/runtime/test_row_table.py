"""Rows that stay on the GPU; on the stand-in for the driver, and the kernels' PTX step by step."""

import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.gpu.stand_in import StandInGpu
from triplex_deploy.errors import ContractError
from triplex_deploy.runtime.tensorrt.cuda import Cuda
from triplex_deploy.runtime.tensorrt.memory import MemoryBudget, MemoryPool
from triplex_deploy.runtime.tensorrt.results import ResultLane
from triplex_deploy.runtime.tensorrt.row_kernels import NO_ROW, PTX
from triplex_deploy.runtime.tensorrt.row_table import CudaRowTable, open_row_table


@pytest.fixture
def pool(cuda: Cuda, gpu: StandInGpu) -> Iterator[MemoryPool]:
    pool = MemoryPool(cuda, MemoryBudget(1 << 22))
    with cuda.current():
        pool.results = ResultLane(cuda, pool)
        yield pool
        pool.close()
    assert (gpu.used_bytes, gpu.live_streams, gpu.live_locked) == (0, 0, 0)


def opened(cuda: Cuda, pool: MemoryPool, shape: tuple[int, ...]) -> CudaRowTable:
    assert isinstance(pool.results, ResultLane)
    table = open_row_table(cuda, pool, pool.results, shape)
    assert table is not None
    return table


def test_rows_are_gathered_where_they_were_put(
    cuda: Cuda, pool: MemoryPool, gpu: StandInGpu
) -> None:
    values = np.random.default_rng(0).standard_normal((40, 3, 5), np.float32)
    table = opened(cuda, pool, (40, 3, 5))
    order = np.random.default_rng(1).permutation(40)
    for rows in np.array_split(order, 4):
        table.put(rows, values[rows])
    wanted = np.array([[39, 0, 7], [7, 7, 1]])
    found = table.take(wanted)
    np.testing.assert_array_equal(found.numpy(), values[wanted])
    assert gpu.pageable_copies == 0
    copied = table.take(np.arange(40))
    table.put(np.array([0, 1]), copied[38:])  # from the GPU to the GPU
    np.testing.assert_array_equal(table.take(np.array([0, 1])).numpy(), values[38:])
    del found, copied
    table.close()


def test_a_batch_can_be_filled_up_in_place(cuda: Cuda, pool: MemoryPool) -> None:
    table = opened(cuda, pool, (10, 4))
    table.put(np.arange(10), np.ones((10, 4), np.float32))
    assert table.take(np.array([1, 2, 3])).window(128) is None
    window = table.take(np.array([1, 2, 3]), room=128).window(128)
    assert window is not None
    assert (window[0].shape, window[1]) == ((128, 4), 0)
    del window
    table.close()


@pytest.mark.parametrize("rows", [[-1], [10], [2**40]])
def test_rows_beyond_the_table_are_refused(cuda: Cuda, pool: MemoryPool, rows: list[int]) -> None:
    table = opened(cuda, pool, (10, 4))
    with pytest.raises(ContractError, match="the table has 10"):
        table.take(np.array(rows))
    with pytest.raises(ContractError, match="the table has 10"):
        table.put(np.array(rows), np.ones((1, 4), np.float32))
    table.close()


def test_a_table_leaves_memory_to_the_engines(
    cuda: Cuda, pool: MemoryPool, gpu: StandInGpu
) -> None:
    assert isinstance(pool.results, ResultLane)
    half = (1 << 21) // 16
    assert open_row_table(cuda, pool, pool.results, (half + 1, 4)) is None
    table = opened(cuda, pool, (half, 4))
    table.close()
    del table
    gpu.fail_allocations(2)
    assert open_row_table(cuda, pool, pool.results, (half, 4)) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_is_found_without_copying_the_values(
    cuda: Cuda, pool: MemoryPool, gpu: StandInGpu, bad: float
) -> None:
    values = np.ones((30, 6), np.float32)
    table = opened(cuda, pool, (30, 6))
    table.put(np.arange(30), values)
    assert table.take(np.arange(30)).first_not_finite() is None
    values[[17, 9], 5] = bad
    table.put(np.arange(30), values)
    found = table.take(np.arange(30))
    gpu.clear()
    assert found.first_not_finite() == 9
    assert found[10:].first_not_finite() == 7
    assert {record.n_bytes for record in gpu.records if record.kind == "dtoh"} == {4}
    del found
    table.close()


class Memory:
    """Memory of the PTX interpreter: arrays at addresses."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self.base = {(n + 1) << 32: array.view(np.uint8) for n, array in enumerate(arrays)}

    def at(self, address: int) -> tuple[memoryview, int]:
        base = address >> 32 << 32
        return self.base[base].reshape(-1).data, address - base


def run_ptx(name: str, memory: Memory, arguments: list[int], block: int, blocks: int) -> None:
    """Run a kernel of ``PTX``, one thread after another."""
    text = PTX[PTX.index(f".entry {name}(") :]
    names = re.findall(r"\.param \.u\d+ (\w+)", text[: text.index("{")])
    body = text[text.index("{") + 1 : text.index("\n}")]
    lines = [line.strip().rstrip(";") for line in body.splitlines()]
    lines = [line for line in lines if line and not line.startswith(".reg")]
    labels = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(":")}
    given = dict(zip(names, arguments, strict=True))
    for thread in range(block * blocks):
        special = {"%tid.x": thread % block, "%ctaid.x": thread // block}
        run_thread(lines, labels, memory, given, {**special, "%ntid.x": block, "%nctaid.x": blocks})


def run_thread(
    lines: list[str],
    labels: dict[str, int],
    memory: Memory,
    given: dict[str, int],
    registers: dict[str, Any],
) -> None:
    def value(word: str) -> int:
        return int(registers[word]) if word.startswith("%") else int(word, 0)

    place = 0
    while lines[place] != "ret":
        line = lines[place]
        place += 1
        if line.endswith(":"):
            continue
        if line.startswith("@%p"):
            if registers["%p"]:
                place = labels[line.split()[-1]]
            continue
        operation, _, rest = line.partition(" ")
        words = [word.strip().strip("[]") for word in rest.split(",")]
        match operation.split("."):
            case ["bra"]:
                place = labels[words[0]]
            case ["ld", "param", _]:
                registers[words[0]] = given[words[1]]
            case ["mov" | "cvta" | "cvt", *_]:
                registers[words[0]] = value(words[1])
            case ["add", *_]:
                registers[words[0]] = value(words[1]) + value(words[2])
            case ["mul", *_]:
                registers[words[0]] = value(words[1]) * value(words[2])
            case ["and", _]:
                registers[words[0]] = value(words[1]) & value(words[2])
            case ["setp", "ge", _]:
                registers["%p"] = value(words[1]) >= value(words[2])
            case ["setp", "ne", _]:
                registers["%p"] = value(words[1]) != value(words[2])
            case ["ld", "global", kind]:
                array, offset = memory.at(value(words[1]))
                form = "<i" if kind == "s32" else "<I"
                (registers[words[0]],) = struct.unpack_from(form, array, offset)
            case ["st", "global", "u32"]:
                array, offset = memory.at(value(words[0]))
                struct.pack_into("<I", array, offset, value(words[1]))
            case ["red", "global", "min", "s32"]:
                array, offset = memory.at(value(words[0]))
                least = min(struct.unpack_from("<i", array, offset)[0], value(words[1]))
                struct.pack_into("<i", array, offset, least)
            case _:
                raise AssertionError(line)


@pytest.mark.parametrize(("block", "blocks"), [(4, 2), (32, 9), (1, 1)])
def test_the_kernels_copy_rows(block: int, blocks: int) -> None:
    source = np.random.default_rng(0).standard_normal((9, 7), np.float32)
    rows = np.array([8, 0, 3, 3, 5], np.int32)
    gathered, scattered = np.zeros((5, 7), np.float32), np.zeros((9, 7), np.float32)
    memory = Memory(gathered, source, rows, scattered)
    into, other, index, target = memory.base
    run_ptx("gather_rows", memory, [into, other, index, 5, 7], block, blocks)
    np.testing.assert_array_equal(gathered, source[rows])
    run_ptx("scatter_rows", memory, [target, into, index, 5, 7], block, blocks)
    expected = np.zeros((9, 7), np.float32)
    expected[rows] = source[rows]
    np.testing.assert_array_equal(scattered, expected)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_the_kernel_finds_the_first_row_that_is_not_finite(bad: float) -> None:
    values = np.array([[1, -1, 0], [3e38, 1e-45, -0.0], [1, 2, 3], [4, 5, 6]], np.float32)
    first = np.array([NO_ROW], np.int32)
    memory = Memory(values, first)
    run_ptx("find_not_finite", memory, [*memory.base, 4, 3], 2, 2)
    assert first[0] == NO_ROW
    values[[2, 3], 1] = bad
    run_ptx("find_not_finite", memory, [*memory.base, 4, 3], 2, 2)
    assert first[0] == 2
