"""Downloads survive servers and disks that misbehave, and no partial file is ever taken for whole."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import signal
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from repvgg_seg.files import sha256
from repvgg_seg.weights import download, pretrained
from repvgg_seg.weights.checkpoint_io import WeightsError, write_checkpoint
from repvgg_seg.weights.pretrained import Release, WeightFile, resolve

NAME = 'tiny-12345678.pth'


class Server:
    """Serves one file at any path, and misbehaves as told."""

    def __init__(self) -> None:
        self.content = b''
        self.drops: list[int] = []  # bytes after which each of the first answers breaks off
        self.statuses: list[int] = []  # what the first requests are answered with instead
        self.ranges = True
        self.shift = 0  # how far off its answers to range requests are
        self.content_type = 'application/octet-stream'
        self.says_length = True
        self.length: str | None = None  # instead of the real one
        self.pause_s = 0.0
        self.requests: list[str | None] = []  # the Range header of each
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.http.server_port}'
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get('Range')
        self.requests.append(wanted)
        if self.statuses:
            request.send_error(self.statuses.pop(0))
            return
        start = int(re.fullmatch(r'bytes=(\d+)-', wanted)[1]) if wanted and self.ranges else 0
        total = len(self.content)
        if start >= total:
            request.send_response(416)
            request.send_header('Content-Range', f'bytes */{total}')
            request.end_headers()
            return
        start = start + self.shift if wanted else start
        body = self.content[start:]
        request.send_response(206 if wanted and self.ranges else 200)
        request.send_header('Content-Type', self.content_type)
        if wanted and self.ranges:
            request.send_header('Content-Range', f'bytes {start}-{total - 1}/{total}')
        if self.says_length:
            request.send_header('Content-Length', self.length or str(len(body)))
        request.end_headers()
        time.sleep(self.pause_s)
        request.wfile.write(body[: self.drops.pop(0)] if self.drops else body)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(download, 'PAUSE_S', 0.001)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def folder(server, tmp_path, monkeypatch) -> Path:
    """The folder of released weights named repvgg://tiny, which the server has."""
    write_checkpoint({'stage0.rbr_reparam.bias': torch.randn(50_000)}, tmp_path / 'original.pth')
    server.content = (tmp_path / 'original.pth').read_bytes()
    page = 'https://example.org/page'
    by_hand = WeightFile('tiny-train.pth', None, '0' * 64, None, page, 'MIT')
    online = WeightFile(NAME, None, sha256(tmp_path / 'original.pth')[:8], f'https://example.org/{NAME}', page, 'MIT')
    monkeypatch.setattr(pretrained, 'manifest', lambda: {'tiny': Release('tiny', 1.0, 'none', (by_hand, online))})
    monkeypatch.setenv('REPVGG_SEG_MIRROR', f'{server.url}/folder/')
    monkeypatch.setenv('REPVGG_SEG_WEIGHTS', str(tmp_path / 'weights'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'weights'


def assert_whole(server: Server, folder: Path) -> None:
    assert resolve('repvgg://tiny') == folder / NAME
    assert (folder / NAME).read_bytes() == server.content
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_downloaded_once(server, folder):
    for _ in range(2):
        assert_whole(server, folder)
    assert server.requests == [None]


def test_dropped_connections_are_taken_up_where_they_broke_off(server, folder):
    server.drops = [1000, 70_000]
    assert_whole(server, folder)
    assert server.requests == [None, 'bytes=1000-', 'bytes=71000-']


def test_a_server_that_ignores_ranges_sends_everything_again(server, folder):
    server.drops, server.ranges = [1000], False
    assert_whole(server, folder)
    assert server.requests == [None, 'bytes=1000-']


def test_a_server_that_sends_another_range_is_asked_for_everything(server, folder):
    server.drops, server.shift = [1000], 7
    assert_whole(server, folder)
    assert server.requests == [None, 'bytes=1000-', None]


def test_a_server_that_recovers(server, folder):
    server.statuses = [503, 500]
    assert_whole(server, folder)


def test_a_server_that_never_gets_through_leaves_a_part_for_the_next_call(server, folder):
    server.drops = [100] * download.ATTEMPTS
    with pytest.raises(
        WeightsError, match=rf'cannot be downloaded \(the connection ended after 500 of {len(server.content)}'
    ):
        resolve('repvgg://tiny')
    assert [path.name for path in folder.iterdir()] == [f'{NAME}.part']
    assert_whole(server, folder)
    assert server.requests[-1] == 'bytes=500-'


def test_a_part_that_is_whole_already(server, folder):
    folder.mkdir()
    (folder / f'{NAME}.part').write_bytes(server.content)
    assert_whole(server, folder)


@pytest.mark.parametrize('stale', [b'of another file', b'x' * 1_000_000])
def test_a_part_of_something_else_is_dropped(server, folder, stale):
    folder.mkdir()
    (folder / f'{NAME}.part').write_bytes(stale)
    assert_whole(server, folder)


def test_wrong_content(server, folder):
    server.content = server.content[:-1] + b'?'
    with pytest.raises(WeightsError, match=r'has SHA-256 [0-9a-f]{8} instead of [0-9a-f]{8}'):
        resolve('repvgg://tiny')
    assert list(folder.iterdir()) == []


def test_a_server_that_neither_says_the_length_nor_sends_it_all(server, folder):
    server.says_length, server.drops = False, [1000]
    with pytest.raises(WeightsError, match='has SHA-256'):
        resolve('repvgg://tiny')
    assert list(folder.iterdir()) == []


def test_a_web_page(server, folder):
    server.content, server.content_type = b'<html>log in</html>', 'text/html; charset=utf-8'
    with pytest.raises(WeightsError, match='is a web page, not a weight file'):
        resolve('repvgg://tiny')
    assert list(folder.iterdir()) == []


def test_a_captive_portal_does_not_cost_what_is_there_already(server, folder):
    content, server.drops = server.content, [1000] * download.ATTEMPTS
    with pytest.raises(WeightsError, match='the connection ended after'):
        resolve('repvgg://tiny')
    server.drops, server.ranges = [], False
    server.content, server.content_type = b'<html>log in</html>' * 9999, 'text/html'
    with pytest.raises(WeightsError, match='is a web page, not a weight file'):
        resolve('repvgg://tiny')
    assert (folder / f'{NAME}.part').read_bytes() == content[: 1000 * download.ATTEMPTS]
    server.content, server.content_type, server.ranges = content, 'application/octet-stream', True
    assert_whole(server, folder)


@pytest.mark.parametrize('error', [OSError(errno.EHOSTUNREACH, 'No route to host'), ssl.SSLEOFError(8, 'EOF')])
def test_networks_that_fail_while_reading_are_tried_again(server, folder, monkeypatch, error):
    read, failures = http.client.HTTPResponse.read, [error]

    def failing(self, *args):
        if self.length and self.length < len(server.content) and failures:
            raise failures.pop()
        return read(self, *args)

    monkeypatch.setattr(http.client.HTTPResponse, 'read', failing)
    server.content *= 9  # more than is read at once
    path = resolve(f'{server.url}/net-{hashlib.sha256(server.content).hexdigest()}.pth')
    assert path.read_bytes() == server.content and not failures and len(server.requests) == 2


@pytest.mark.parametrize('error', [OSError(errno.EHOSTUNREACH, 'No route to host'), urllib.error.URLError('no route')])
def test_networks_that_fail_while_connecting_again_are_tried_again(server, folder, monkeypatch, error):
    urlopen, failures = urllib.request.urlopen, [error]

    def failing(request, **kwargs):
        if server.requests and failures:
            raise failures.pop()
        return urlopen(request, **kwargs)

    monkeypatch.setattr(urllib.request, 'urlopen', failing)
    server.drops = [1000]
    assert_whole(server, folder)
    assert server.requests == [None, 'bytes=1000-'] and not failures


def test_networks_that_keep_failing_are_not_called_disks(server, folder, monkeypatch):
    def failing(self, *args):
        raise OSError(errno.EHOSTUNREACH, 'No route to host')

    monkeypatch.setattr(http.client.HTTPResponse, 'read', failing)
    with pytest.raises(WeightsError, match=r'cannot be downloaded \(the connection ended \(OSError\)\)'):
        resolve('repvgg://tiny')


def test_a_length_that_is_no_number(server, folder):
    server.length = 'abc'
    with pytest.raises(WeightsError, match="is 'abc' bytes long by its server"):
        resolve('repvgg://tiny')
    assert list(folder.iterdir()) == []


def test_no_more_is_read_than_was_published(server, tmp_path):
    server.content, server.says_length = bytes(3_000_000), False
    with pytest.raises(WeightsError, match=r'x\.pth is longer than the 1000 bytes that were published'):
        download.download(f'{server.url}/x.pth', tmp_path / 'x.pth', lambda path: None, 1000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('url', ['https://exa mple.org/a.pth', 'http://[x/a.pth', 'http://host:port/a.pth'])
def test_what_is_no_address(folder, url):
    with pytest.raises(WeightsError, match='is not an address'):
        resolve(url)


def test_offline_says_what_to_get_and_where_to_put_it(folder, monkeypatch):
    monkeypatch.setenv('REPVGG_SEG_MIRROR', 'http://127.0.0.1:9')
    with pytest.raises(WeightsError) as caught:
        resolve('repvgg://tiny')
    message = str(caught.value)
    assert 'Connection refused' in message
    assert 'tiny-train.pth from https://example.org/page' in message and f'put it into {folder}' in message
    assert 'to train without them, pass --cfg-options model.backbone.init_cfg=None' in message


def test_a_file_the_server_does_not_have(server, folder):
    server.statuses = [404]
    with pytest.raises(WeightsError, match='the server says 404 Not Found'):
        resolve('repvgg://tiny')
    assert server.requests == [None]


def test_an_unwritable_folder(server, folder, monkeypatch):
    (folder.parent / 'file').write_text('')
    monkeypatch.setenv('REPVGG_SEG_WEIGHTS', str(folder.parent / 'file' / 'weights'))
    with pytest.raises(WeightsError, match=r'cannot be written .* or choose a folder with REPVGG_SEG_WEIGHTS'):
        resolve('repvgg://tiny')


def test_a_full_disk(server, folder, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(WeightsError, match='cannot be written'):
        resolve('repvgg://tiny')
    assert not (folder / NAME).exists()


def resolve_in_child() -> None:
    os._exit(0 if resolve('repvgg://tiny').is_file() else 1)


def test_processes_that_start_at_once_download_once(server, folder):
    server.pause_s = 0.3
    children = [get_context('fork').Process(target=resolve_in_child) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert_whole(server, folder)
    assert server.requests == [None]


def test_a_killed_download_is_continued_by_the_next(server, folder):
    server.drops, server.pause_s = [5000], 0.0
    part = folder / f'{NAME}.part'

    def die() -> None:
        download.PAUSE_S = 60.0  # it holds its lock and waits to try again
        resolve('repvgg://tiny')

    child = get_context('fork').Process(target=die)
    child.start()
    while not part.exists() or part.stat().st_size < 5000:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert not (folder / NAME).exists()
    assert_whole(server, folder)
    assert server.requests == [None, 'bytes=5000-']


# --- any address


def test_addresses_are_downloaded_to_the_cache(server, folder, tmp_path):
    path = resolve(f'{server.url}/any/weights.pth?download=1')
    assert path.name == 'weights.pth' and path.is_relative_to(tmp_path / 'cache')
    assert resolve(f'{server.url}/any/weights.pth?download=1') == path
    assert len(server.requests) == 1
    assert resolve(f'{server.url}/other/weights.pth') != path


def test_addresses_whose_names_hold_a_digest_are_checked(server, folder, tmp_path):
    digest = sha256(tmp_path / 'original.pth')
    if re.search('[a-f]', digest[:8]):
        assert resolve(f'{server.url}/net-{digest[:8]}.pth').is_file()
    with pytest.raises(WeightsError, match='instead of 0123abcd'):
        resolve(f'{server.url}/net-0123abcd.pth')
    assert resolve(f'{server.url}/net-20221213.pth').is_file()  # a date


def test_addresses_without_a_digest_must_at_least_be_readable(server, folder, tmp_path):
    server.says_length, server.drops = False, [1000]
    with pytest.raises(WeightsError, match='damaged, cut short'):
        resolve(f'{server.url}/weights.pth')
    assert [p for p in (tmp_path / 'cache').rglob('*') if p.is_file()] == []
