"""The page to try a model on: what it shows is what the Segmenter says, and nothing that is sent brings it down."""

import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
from PIL import Image

from repvgg_seg import Segmenter
from tests.conftest import emulate
from tests.local_graph import METADATA, images, to_openvino

gradio_client = pytest.importorskip('gradio_client', reason='Gradio is not installed (extra: serve)')
httpx = pytest.importorskip('httpx')
LIMITS = {'pixels': 600_000, 'frames': 3, 'megabytes': 2, 'running': 2, 'waiting': 16}
MARK = {'meta': {'_type': 'gradio.FileData'}}


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    """The command at work, with a model of logits; in the end Ctrl-C, after which nothing of the visitors is left."""
    folder = tmp_path_factory.mktemp('served')
    model = to_openvino(folder / 'local.xml', replace(METADATA, output='logits'))
    (folder / 'tmp').mkdir()
    options = [word for name, most in LIMITS.items() for word in (f'--{name}', str(most))]
    process = subprocess.Popen(
        [sys.executable, '-m', 'repvgg_seg', 'serve', str(model), *options],
        env={**os.environ, 'TMPDIR': str(folder / 'tmp')}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = process.stdout.readline()
    address = re.search(r'http://127\.0\.0\.1:\d+/', line)
    assert address, line
    yield SimpleNamespace(address=address[0], model=model, folder=folder)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert os.listdir(folder / 'tmp') == []


@pytest.fixture(scope='module')
def client(server):
    return gradio_client.Client(server.address, verbose=False, download_files=str(server.folder / 'downloads'))


def png(path, height: int, width: int, turn: int = 0):
    """Write a picture, of which each `turn` is another one."""
    Image.fromarray(np.roll(images(height, width)[0], turn, 1)).save(path)
    return path


def send(client, path, name: str = '/picture'):
    return client.predict(gradio_client.handle_file(str(path)), api_name=name)


def test_programs_get_what_the_segmenter_says(server, client, tmp_path) -> None:
    path = png(tmp_path / 'a.png', 70, 110)
    both, mask, confidence, areas, seconds = send(client, path)
    expected, certain = Segmenter(server.model)(str(path), return_confidence=True)
    with Image.open(mask) as image:
        assert (np.asarray(image) == expected).all() and image.getpalette()[:3] == list(METADATA.palette[0])
    assert (np.asarray(Image.open(confidence)) == np.rint(certain * 255)).all()
    assert [Image.open(picture).size for picture in both] == [(110, 70)] * 2
    counts = {index: count for index, _, count, _ in areas['data']}
    assert counts == {index: count for index, count in enumerate(np.bincount(expected.ravel())) if count}
    assert areas['data'][0][1] == METADATA.classes[max(counts, key=counts.get)]
    assert sum(share for *_, share in areas['data']) == pytest.approx(100, abs=0.01)
    assert 0 < float(seconds.removesuffix(' s')) < 60


def test_sixteen_clients_at_once_get_their_own_masks(server, tmp_path) -> None:
    paths = [png(tmp_path / f'{n}.png', 64 + n, 96, turn=5 * n) for n in range(16)]

    def ask(path):
        client = gradio_client.Client(server.address, verbose=False, download_files=str(tmp_path / path.stem))
        return np.asarray(Image.open(send(client, path)[1]))

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, paths))
    segmenter = Segmenter(server.model)
    for path, mask in zip(paths, answers, strict=True):
        assert (mask == segmenter(str(path))).all()


def test_a_video_comes_back_under_its_mask(client, tmp_path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / 'trip.mp4'), cv2.VideoWriter.fourcc(*'mp4v'), 10, (96, 64))
    for frame in images(64, 96, 5):
        writer.write(frame)
    writer.release()
    video, areas, _ = send(client, tmp_path / 'trip.mp4', '/video')
    assert cv2.VideoCapture(video).get(cv2.CAP_PROP_FRAME_COUNT) == LIMITS['frames']
    assert sum(count for _, _, count, _ in areas['data']) == LIMITS['frames'] * 64 * 96


def bomb(picture: bytes) -> bytes:
    """Return a PNG file that claims 10^10 pixels in place of its own."""
    head = b'IHDR' + struct.pack('>II', 100_000, 100_000) + picture[24:29]
    return picture[:12] + head + struct.pack('>I', zlib.crc32(head)) + picture[33:]


def test_what_is_no_picture_is_a_message_and_the_server_goes_on(client, tmp_path) -> None:
    whole = png(tmp_path / 'whole.png', 64, 96).read_bytes()
    large = io.BytesIO()
    Image.new('RGB', (1000, 601)).save(large, 'PNG')
    for name, content, call, message in (
        ('text.png', b'no picture', '/picture', r'^text\.png is not an image of a known format'),
        ('half.png', whole[: len(whole) // 2], '/picture', r'^half\.png cannot be read, it is damaged or cut short'),
        ('empty.png', b'', '/picture', r'^empty\.png is empty'),
        ('bomb.png', bomb(whole), '/picture', r'^bomb\.png claims 100000x100000 pixels, more than are decoded at once'),
        ('large.png', large.getvalue(), '/picture', r'^large\.png claims 1000x601 pixels'),
        ('<b>&.png', b'x', '/picture', r'b&amp;\.png is not an image|&lt;b&gt;'),
        ('trip.mp4', b'x', '/picture', r'^trip\.mp4 is a video: it belongs under "Video"'),
        ('whole.txt', b'x', '/video', r'^whole\.txt cannot be opened as a video'),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Exception, match=message) as caught:
            send(client, tmp_path / name, call)
        assert str(tmp_path) not in str(caught.value)
    (tmp_path / 'heavy.png').write_bytes(bytes(LIMITS['megabytes'] * 10**6 + 1))
    with pytest.raises(Exception, match=r'413|size'):
        send(client, tmp_path / 'heavy.png')
    assert send(client, tmp_path / 'whole.png')[1]


def answer(address: str, data: list, call: str = 'picture') -> str:
    """Send data as no client of Gradio does; return what the server says to it."""
    begun = httpx.post(f'{address}gradio_api/call/{call}', json={'data': data}, timeout=60)
    if begun.status_code != 200:
        return f'{begun.status_code} {begun.text}'
    return httpx.get(f'{address}gradio_api/call/{call}/{begun.json()["event_id"]}', timeout=120).text


def test_neither_the_machines_files_nor_other_addresses_are_had(server) -> None:
    assert 'send the file itself' in answer(server.address, [{'path': f'{server.address}config', **MARK}])
    secret = server.folder / 'local.xml'
    said = answer(server.address, [{'path': str(secret), **MARK}])
    assert said.startswith('event: error') and 'local.xml' not in said
    assert httpx.get(f'{server.address}gradio_api/file={secret}').status_code == 403
    assert answer(server.address, []).startswith('event: error')
    direct = httpx.post(f'{server.address}gradio_api/run/picture', json={'data': [None]})
    assert direct.status_code != 200  # past the queue and its limit


def test_a_flood_is_told_to_come_back_and_what_was_taken_is_done(server, client, tmp_path) -> None:
    content = png(tmp_path / 'a.png', 600, 1000).read_bytes()
    [path] = httpx.post(f'{server.address}gradio_api/upload', files={'files': ('a.png', content)}).json()
    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(lambda _: answer(server.address, [{'path': path, **MARK}]), range(48)))
    done = [text for text in answers if text.startswith('event: complete')]
    refused = [text for text in answers if 'Queue is full' in text]
    assert len(done) + len(refused) == 48
    assert len(done) >= LIMITS['waiting'] and refused
    assert send(client, png(tmp_path / 'b.png', 64, 96))[1]


@pytest.mark.parametrize(('width', 'scheme'), [(390, 'dark'), (1440, 'light')])
def test_the_page_shows_the_mask_in_a_browser(server, browser, tmp_path, width: int, scheme: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def find(selector: str):
        return WebDriverWait(browser, 60).until(lambda page: page.find_elements(By.CSS_SELECTOR, selector))

    emulate(browser, width, scheme)
    browser.get(server.address)
    (tmp_path / 'bad.png').write_text('no picture')
    find('input[type=file]')[0].send_keys(str(tmp_path / 'bad.png'))
    assert 'bad.png is not an image of a known format' in find('.toast-body')[0].text
    find('[aria-label="Clear"], [aria-label="Remove this file"]')[0].click()
    path = png(tmp_path / 'good.png', 70, 110)
    find('input[type=file]')[0].send_keys(str(path))
    shown = find('img[src*="image.png"]')[0].get_attribute('src')
    with urlopen(shown) as file, Image.open(file) as image:
        assert (np.asarray(image) == Segmenter(server.model)(str(path))).all()
    assert len(find('img[src*="image.jpeg"]')) == 2  # under the slider
    WebDriverWait(browser, 60).until(lambda page: METADATA.classes[0] in page.find_element(By.TAG_NAME, 'body').text)
    assert browser.execute_script('return document.documentElement.scrollWidth') <= width
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(loaded) > 10 and {name for name in loaded if not name.startswith(server.address)} == set()
    time.sleep(0.1)
    assert [entry for entry in browser.get_log('browser') if entry['level'] == 'SEVERE'] == []
