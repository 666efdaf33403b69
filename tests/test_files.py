"""Files are written whole, or the one that was there stays."""

import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from repvgg_seg.files import FileError, atomic_write, sha256, write_text


def test_unwritable_places(tmp_path) -> None:
    (tmp_path / 'file').write_text('x')
    with pytest.raises(FileError, match='cannot be written'):
        write_text('x', tmp_path / 'file' / 'x.txt')
    for place in (tmp_path, '/dev/null'):
        with pytest.raises(FileError, match='is a folder or a device, not a file'):
            write_text('x', place)
    assert Path('/dev/null').is_char_device()


def test_an_error_of_the_writer_changes_nothing(tmp_path) -> None:
    path = tmp_path / 'x.txt'
    write_text('old', path)
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b'new')
        raise ZeroDivisionError
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_a_link_still_points_at_what_was_written(tmp_path) -> None:
    (tmp_path / 'link.txt').symlink_to(tmp_path / 'real.txt')
    write_text('ä', tmp_path / 'link.txt')
    assert (tmp_path / 'link.txt').is_symlink()
    assert (tmp_path / 'real.txt').read_text(encoding='utf-8') == 'ä'


def test_who_reads_the_old_file_keeps_reading_it(tmp_path) -> None:
    path = tmp_path / 'x.txt'
    write_text('old', path)
    with open(path) as reader:
        write_text('new', path)
        assert reader.read() == 'old' and path.read_text() == 'new'


def die(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b'half of it')
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_in_the_middle(tmp_path) -> None:
    path = tmp_path / 'x.txt'
    write_text('old', path)
    child = get_context('fork').Process(target=die, args=(path,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert path.read_text() == 'old'


def test_sha256(tmp_path) -> None:
    (tmp_path / 'x').write_bytes(b'abc')
    assert sha256(tmp_path / 'x') == 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    with pytest.raises(FileError, match='cannot be read'):
        sha256(tmp_path / 'none')
