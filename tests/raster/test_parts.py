from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asd_cli.errors import OutputError
from asd_cli.raster.parts import Parts, write_apart
from asd_cli.raster.windows import Window

ONE, TWO, EMPTY = Window(0, 0, 20, 30), Window(0, 512, 20, 7), Window(512, 0, 4, 5)


def values(seed: int, window: Window) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(2, *window.shape)).astype(np.float32)
    found[0, 0, 0] = np.nan
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three finished parts, one of them without a valid pixel."""
    with Parts(tmp_path, 2, target=tmp_path / "map.tif") as parts:
        parts.add(ONE, values(1, ONE))
        parts.add(TWO, values(2, TWO))
        parts.add(EMPTY, np.full((2, 4, 5), np.nan, np.float32))
    return tmp_path


def opened(folder: Path, journal: str = "journal.jsonl") -> Parts:
    return Parts(folder, 2, target=folder / "map.tif", journal=journal)


def test_parts_come_back_bit_by_bit(folder: Path) -> None:
    parts = opened(folder)
    assert len(parts) == 3
    for seed, window in ((1, ONE), (2, TWO)):
        found = parts.read(window)
        assert found is not None
        assert found.tobytes() == values(seed, window).tobytes()
    empty = parts.read(EMPTY)
    assert empty is not None
    assert empty.shape == (2, 4, 5)
    assert np.isnan(empty).all()
    assert len(list(folder.glob("*.f32"))) == 2  # nothing is stored of what is empty
    other = Window(0, 0, 20, 31)
    assert other not in parts
    assert parts.read(other) is None


@pytest.mark.parametrize("damage", ["flipped", "short", "long", "missing"])
def test_a_damaged_part_is_made_again(folder: Path, damage: str) -> None:
    path = sorted(folder.glob("*.f32"))[0]
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    changed = {"flipped": bytes(data), "short": bytes(data[:-4]), "long": path.read_bytes() + b"abcd"}
    path.unlink() if damage == "missing" else path.write_bytes(changed[damage])
    parts = opened(folder)
    assert parts.read(ONE) is None
    assert ONE not in parts
    assert parts.read(TWO) is not None
    with parts:
        parts.add(ONE, values(1, ONE))
    assert opened(folder).read(ONE) is not None


def test_a_torn_line_counts_for_nothing_and_the_next_is_whole(folder: Path) -> None:
    journal = folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + lines[1][:-9])
    with opened(folder) as parts:
        assert ONE in parts
        assert TWO not in parts
        parts.add(EMPTY, np.full((2, 4, 5), np.nan, np.float32))
    assert journal.read_bytes() == lines[0] + lines[2]
    for odd in (b"\xff\xfe\n", b"[]\n", b"{}\n", b'{"row": "x"}\n', b"\n"):
        journal.write_bytes(odd + lines[0])
        assert len(opened(folder)) == 1


def test_each_journal_counts(folder: Path) -> None:
    with opened(folder, "journal-2-of-3.jsonl") as parts:
        parts.add(Window(0, 1024, 3, 3), np.ones((2, 3, 3), np.float32))
    assert len(opened(folder)) == 4
    (folder / "journal.jsonl").unlink()
    assert len(opened(folder, "journal-1-of-3.jsonl")) == 1


def test_a_full_disk_leaves_the_others(tiny_disk: Path) -> None:
    window, large = Window(0, 0, 400, 400), Window(0, 512, 400, 512)
    with opened(tiny_disk) as parts:
        parts.add(window, np.ones((2, *window.shape), np.float32))
        with pytest.raises(
            OutputError, match=r"map.tif: cannot be written \(No space left on device\); check the free"
        ):
            parts.add(large, np.ones((2, *large.shape), np.float32))
        assert large not in parts
    assert sorted(path.name for path in tiny_disk.iterdir()) == ["journal.jsonl", "r0000000c0000000.f32"]
    assert opened(tiny_disk).read(window) is not None


def test_parts_that_others_wrote_are_adopted(tmp_path: Path) -> None:
    target = tmp_path / "map.tif"
    parts = opened(tmp_path)
    name, checksum = write_apart(tmp_path, ONE, values(1, ONE), target=target)
    assert name is not None
    assert not parts.adopt(ONE, name, (checksum or 0) + 1)
    assert not parts.adopt(ONE, "r0000000c0000000.f32.elsewhere", checksum)
    assert len(opened(tmp_path)) == 0
    assert parts.adopt(ONE, name, checksum)
    empty = np.full((2, 4, 5), np.nan, np.float32)
    assert write_apart(tmp_path, EMPTY, empty, target=target) == (None, None)
    assert parts.adopt(EMPTY, None, None)
    again = opened(tmp_path)
    parts.close()
    assert np.array_equal(again.read(ONE), values(1, ONE), equal_nan=True)
    assert np.array_equal(again.read(EMPTY), empty, equal_nan=True)
    assert not (tmp_path / name).exists()
    with pytest.raises(OutputError, match=r"map.tif: cannot be written \(No such file"):
        write_apart(tmp_path / "gone", ONE, values(1, ONE), target=target)
