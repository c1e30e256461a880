"""Facts of the machine."""

import os

from triplex_deploy.bench.machine import parse_gpus, read_machine


def test_machine_tells_cores_and_memory() -> None:
    machine = read_machine()
    assert machine.cores == os.cpu_count()
    assert 1 <= machine.usable_cores <= machine.cores
    assert machine.memory_gb is None or machine.memory_gb > 0.1
    assert machine.cpu


def test_gpu_table_is_read_line_by_line() -> None:
    table = (
        "NVIDIA Imaginary 1, 580.65.06, 81559, 345, 1980\n"
        "NVIDIA Silent 2, 580.65.06, 81559, [N/A], [N/A]\n"
    )
    (gpu,) = parse_gpus(table)
    assert (gpu.name, gpu.driver) == ("NVIDIA Imaginary 1", "580.65.06")
    assert (gpu.memory_mb, gpu.sm_clock_mhz, gpu.max_sm_clock_mhz) == (81559.0, 345.0, 1980.0)
    assert parse_gpus("") == ()
