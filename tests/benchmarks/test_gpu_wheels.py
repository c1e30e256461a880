"""Large wheels travel in pieces and are joined again."""

import subprocess
from pathlib import Path

import numpy as np

from benchmarks.gpu_wheels import JOIN, cut


def test_pieces_join_to_the_same_file(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(2_500)
    large, small = tmp_path / "a-1-cp312.whl", tmp_path / "b-1-py3.whl"
    large.write_bytes(content)
    small.write_bytes(b"small")
    pieces = cut(large, 1_000)
    assert [piece.name for piece in pieces] == [f"a-1-cp312.whl.piece{i:03}" for i in range(3)]
    assert max(piece.stat().st_size for piece in pieces) == 1_000
    assert cut(small, 1_000) == [small]
    (tmp_path / "join.sh").write_text(JOIN)
    subprocess.run(["sh", "join.sh"], cwd=tmp_path, check=True)
    assert large.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {large.name, small.name, "join.sh"}
