"""Copy rows within a GPU's memory, and look for NaN and infinity there.

The kernels are written in PTX, the assembly language of CUDA, which the driver translates for its
GPU: neither a compiler nor its headers are needed. PTX 6.5 for compute capability 7.5 runs on every
later GPU. Rows are counted in words of 4 bytes. Each block takes row after row.
"""

from __future__ import annotations

from typing import Any, Final

from triplex_deploy.runtime.tensorrt.cuda import Cuda

BLOCK: Final = 256
"""Threads of a block."""
MOST_BLOCKS: Final = 4096
"""Most blocks of a call; each takes several rows if there are more."""
NO_ROW: Final = 2**31 - 1
"""What ``find_not_finite`` leaves if all values are finite."""

_HEAD: Final = """.version 6.5
.target sm_75
.address_size 64
"""
_COPY: Final = """
.visible .entry {name}(
    .param .u64 into, .param .u64 from, .param .u64 rows, .param .u32 n_rows, .param .u32 row_words
)
{{
    .reg .pred %p;
    .reg .b32 %row, %blocks, %n, %word, %threads, %words, %value, %thread;
    .reg .b64 %into, %from, %rows, %width, %here, %there, %at, %address;
    ld.param.u64 %into, [into];
    ld.param.u64 %from, [from];
    ld.param.u64 %rows, [rows];
    ld.param.u32 %n, [n_rows];
    ld.param.u32 %words, [row_words];
    cvta.to.global.u64 %into, %into;
    cvta.to.global.u64 %from, %from;
    cvta.to.global.u64 %rows, %rows;
    mov.u32 %row, %ctaid.x;
    mov.u32 %blocks, %nctaid.x;
    mov.u32 %thread, %tid.x;
    mov.u32 %threads, %ntid.x;
    mul.wide.s32 %width, %words, 4;
next_row:
    setp.ge.s32 %p, %row, %n;
    @%p bra done;
    cvt.s64.s32 %here, %row;
    mul.wide.s32 %address, %row, 4;
    add.s64 %address, %address, %rows;
    ld.global.s32 %there, [%address];
    mul.lo.s64 %here, %here, %width;
    mul.lo.s64 %there, %there, %width;
    mov.u32 %word, %thread;
next_word:
    setp.ge.s32 %p, %word, %words;
    @%p bra end_row;
    mul.wide.s32 %at, %word, 4;
    add.s64 %address, %at, {source};
    add.s64 %address, %address, %from;
    ld.global.u32 %value, [%address];
    add.s64 %address, %at, {target};
    add.s64 %address, %address, %into;
    st.global.u32 [%address], %value;
    add.s32 %word, %word, %threads;
    bra next_word;
end_row:
    add.s32 %row, %row, %blocks;
    bra next_row;
done:
    ret;
}}
"""
_FIND: Final = """
.visible .entry find_not_finite(
    .param .u64 values, .param .u64 first, .param .u32 n_rows, .param .u32 row_words
)
{
    .reg .pred %p;
    .reg .b32 %row, %blocks, %n, %word, %threads, %words, %value, %thread;
    .reg .b64 %values, %first, %width, %here, %at, %address;
    ld.param.u64 %values, [values];
    ld.param.u64 %first, [first];
    ld.param.u32 %n, [n_rows];
    ld.param.u32 %words, [row_words];
    cvta.to.global.u64 %values, %values;
    cvta.to.global.u64 %first, %first;
    mov.u32 %row, %ctaid.x;
    mov.u32 %blocks, %nctaid.x;
    mov.u32 %thread, %tid.x;
    mov.u32 %threads, %ntid.x;
    mul.wide.s32 %width, %words, 4;
next_row:
    setp.ge.s32 %p, %row, %n;
    @%p bra done;
    cvt.s64.s32 %here, %row;
    mul.lo.s64 %here, %here, %width;
    mov.u32 %word, %thread;
next_word:
    setp.ge.s32 %p, %word, %words;
    @%p bra end_row;
    mul.wide.s32 %at, %word, 4;
    add.s64 %address, %at, %here;
    add.s64 %address, %address, %values;
    ld.global.u32 %value, [%address];
    and.b32 %value, %value, 0x7f800000;
    setp.ne.u32 %p, %value, 0x7f800000;
    @%p bra finite;
    red.global.min.s32 [%first], %row;
finite:
    add.s32 %word, %word, %threads;
    bra next_word;
end_row:
    add.s32 %row, %row, %blocks;
    bra next_row;
done:
    ret;
}
"""
PTX: Final = (
    _HEAD
    + _COPY.format(name="gather_rows", source="%there", target="%here")
    + _COPY.format(name="scatter_rows", source="%here", target="%there")
    + _FIND
)
"""The kernels ``gather_rows``, ``scatter_rows`` and ``find_not_finite``."""


class RowKernels:
    """The kernels, loaded in the context of one GPU, which must be current in every method."""

    def __init__(self, cuda: Cuda) -> None:
        self._module = cuda.driver.module_from_buffer(PTX.encode() + b"\0")
        self._gather = self._kernel("gather_rows", "PPPii")
        self._scatter = self._kernel("scatter_rows", "PPPii")
        self._find = self._kernel("find_not_finite", "PPii")

    def gather(
        self, into: int, source: int, rows: int, n_rows: int, row_words: int, stream: Any
    ) -> None:
        """Queue ``into[i] = source[rows[i]]``; all are addresses, ``rows`` of int32."""
        self._launch(self._gather, n_rows, stream, into, source, rows, n_rows, row_words)

    def scatter(
        self, into: int, source: int, rows: int, n_rows: int, row_words: int, stream: Any
    ) -> None:
        """Queue ``into[rows[i]] = source[i]``; all are addresses, ``rows`` of int32."""
        self._launch(self._scatter, n_rows, stream, into, source, rows, n_rows, row_words)

    def find_not_finite(
        self, values: int, first: int, n_rows: int, row_words: int, stream: Any
    ) -> None:
        """Queue the search for float32 that are NaN or infinite.

        The int32 at the address ``first`` becomes the first such row, if that is less.
        """
        self._launch(self._find, n_rows, stream, values, first, n_rows, row_words)

    def _kernel(self, name: str, types: str) -> Any:
        kernel = self._module.get_function(name)
        kernel.prepare(types)
        return kernel

    def _launch(self, kernel: Any, n_rows: int, stream: Any, *arguments: int) -> None:
        grid = (max(1, min(n_rows, MOST_BLOCKS)), 1)
        kernel.prepared_async_call(grid, (BLOCK, 1, 1), stream, *arguments)
