"""Files are written whole, or the one that was there stays."""

import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from repvgg_seg.files import FileError, atomic_write, claim, read_text, sha256, walk, write_text


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


# ---- what is found and read


def test_links_are_followed_and_loops_and_hidden_files_are_not(tmp_path) -> None:
    root, elsewhere = tmp_path / 'root', tmp_path / 'elsewhere'
    for path in (root / 'b.PNG', root / 'a/x.png', root / 'a/x.txt', root / '.hidden/x.png', elsewhere / 'deep/y.png',
                 root / '._b.png'):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / 'link').symlink_to(elsewhere)
    (elsewhere / 'back').symlink_to(root)
    (root / 'a/self').symlink_to(root / 'a')
    (root / 'broken.png').symlink_to(root / 'none')
    (root / 'file.png').symlink_to(root / 'b.PNG')
    found = [path.relative_to(root).as_posix() for path in walk(root, ['.png'])]
    # A link that leads nowhere is found, or images on a drive that is not mounted would be missed in silence.
    assert found == ['a/x.png', 'b.PNG', 'broken.png', 'file.png', 'link/deep/y.png']
    assert root / 'a/x.txt' in walk(root)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
def test_text_of_any_marked_encoding(tmp_path, encoding: str) -> None:
    (tmp_path / 'x.txt').write_bytes('Straße/1.png\r\nzwei\r\n'.encode(encoding))
    assert read_text(tmp_path / 'x.txt') == 'Straße/1.png\nzwei\n'


def test_text_of_another_encoding(tmp_path) -> None:
    (tmp_path / 'x.txt').write_bytes('Straße'.encode('latin-1'))
    with pytest.raises(FileError, match=r'x\.txt is not text in UTF-8 \(.*\): save it in UTF-8'):
        read_text(tmp_path / 'x.txt')


# ---- a folder of one call's results


def test_a_folder_never_holds_results_of_two_settings(tmp_path, monkeypatch) -> None:
    out, marker = tmp_path / 'out', tmp_path / 'out/marker.json'

    def results(found: object) -> list[Path]:
        return [out / 'old', out / 'older']

    claim(marker, {'model': 'a', 'size': (1, 2)}, results)
    for name in ('old/deep', 'older/deep'):
        (out / name).mkdir(parents=True)
    claim(marker, {'model': 'a', 'size': (1, 2)}, results)  # goes on
    with pytest.raises(FileError, match=r'out holds results of other settings \(model a instead of b\)'):
        claim(marker, {'model': 'b', 'size': (1, 2)}, results)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # as kill -9 in the middle of a folder
        patch.setattr('shutil.rmtree', interrupted)
        claim(marker, {'model': 'b'}, results, overwrite=True)
    assert json.loads(marker.read_text())['model'] == 'a'
    assert not (out / 'old').exists()  # it was renamed before anything in it was removed
    claim(marker, {'model': 'b'}, results, overwrite=True)
    assert json.loads(marker.read_text()) == {'model': 'b'} and not (out / 'older').exists()


def interrupted(*args: object) -> None:
    raise KeyboardInterrupt


def test_a_folder_of_something_else_is_not_claimed(tmp_path) -> None:
    (tmp_path / 'thesis.txt').touch()
    (tmp_path / 'damaged.json').write_text('[]')
    with pytest.raises(FileError, match=r'this did not write \(such as damaged\.json\): choose a folder'):
        claim(tmp_path / 'marker.json', {}, lambda _: [], overwrite=True)
    with pytest.raises(FileError, match=r'damaged\.json is damaged \(it is not an object\)'):
        claim(tmp_path / 'damaged.json', {}, lambda _: [], overwrite=True)
    with pytest.raises(FileError, match=r'thesis\.txt is a file: name a folder'):
        claim(tmp_path / 'thesis.txt/marker.json', {}, lambda _: [])
    claim(tmp_path / 'marker.json', {}, lambda _: [], names=['index'])
