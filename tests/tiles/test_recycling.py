import numpy as np

from triplex_deploy.tiles.store import BufferPool


def test_memory_is_used_again_once_nobody_holds_it():
    pool = BufferPool((4, 2), keep=2)
    first = pool.take(4)
    first[:] = 1
    address = first.ctypes.data
    second = pool.take(3)
    assert second.ctypes.data != address
    del first
    assert pool.take(2).ctypes.data == address


def test_a_view_of_a_view_keeps_its_memory():
    pool = BufferPool((4, 2), keep=1)
    part = pool.take(4)[1:][:1]
    part[:] = 7
    pool.take(4)[:] = 0
    assert (part == 7).all()
    held = part.data
    del part
    pool.take(4)[:] = 0
    assert np.asarray(held).tolist() == [[7, 7]]
