"""The page: valid HTML whatever names it is given, and at work in a browser."""

import io
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from repvgg_seg.report import pictures
from repvgg_seg.report.page import Contents, render
from repvgg_seg.report.pictures import Extremes, Segmented, draw
from repvgg_seg.report.training import Training
from repvgg_seg.timing import Latency
from tests.conftest import emulate

CLASSES = ['<script>alert(1)</script>', 'a$b$ & "c"', '\x07\udcff 名']
PALETTE = [[128, 64, 128], [0, 130, 180], [250, 170, 30]]
VOID = {'meta', 'img', 'input', 'link', 'br'}


class Checker(HTMLParser):
    """Raises where elements are not closed in turn, and keeps ids, texts and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.addresses, self.texts = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attributes if name == 'id']
        self.addresses += [value for name, value in attributes if name in ('src', 'href', 'xlink:href')]

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def segmented(number: int, shape: tuple[int, int] = (40, 80)) -> Segmented:
    truth = np.zeros(shape, np.int64)
    truth[:, shape[1] // 2 :] = 1
    truth[:4] = 255
    confidence = np.full(shape, 200, np.uint8)
    return Segmented(f'<b>{number}</b>.png', f'{number}', 10.0 * number, truth, np.full(shape, 2), confidence)


def pixels(path: str) -> np.ndarray:
    return np.full((40, 80, 3), 60, np.uint8)


@pytest.fixture(scope='module')
def page() -> str:
    extremes = Extremes(1)
    for number in (3, 1, 2):
        extremes.add(segmented(number))
    assert [one.mean_iou for one in extremes.worst + extremes.best] == [10, 30]
    worst, best = draw([*extremes.worst, *extremes.best], pixels, PALETTE)
    classes = [
        {'class': name, 'IoU': iou, 'Acc': iou, 'pixels': 5}
        for name, iou in zip(CLASSES, (50.0, 20.0, None), strict=True)
    ]
    result = {
        'mIoU': 35.0,
        'mAcc': 35.0,
        'aAcc': 60.0,
        'classes': classes,
        'confusion': [[4, 1, 0], [2, 3, 0], [0, 0, 0]],
    }
    steps = [{'step': step, 'loss': 1 / step, 'lr': 0.01} for step in range(1, 5)]
    parity = {
        'images': 3, 'agreement': 1.0, 'max_rel': 1e-6, 'tolerated': {'agreement': 1.0, 'max_rel': 1e-4},
        'decided': {'share': 0.9, 'agreement': 1.0},
    }  # fmt: skip
    quantization = {
        'agreement': 0.8, 'tolerated': {'min_agreement': None, 'max_drop': 1.0}, 'mIoU': {'fp32': 40.0, 'int8': 30.0}
    }  # fmt: skip
    conversion = {
        'parameters': {'train': 2_000_000, 'deploy': 1_000_000}, 'created': '2026-11-29T00:00:00',
        'deployed': {'sha256': 'x'},
        'verification': [{'check': 'algebra', 'input_size': [3, 4], 'max_abs': 0, 'max_rel': 0, 'agreement': 1}],
    }  # fmt: skip
    exports = {
        'a.onnx': {'to': 'onnx', 'parity': parity, 'metadata': {'source': {'sha256': 'y'}}},
        'b.xml': {'to': 'openvino', 'parity': parity, 'quantization': quantization, 'refused': 'it loses <too> much'},
    }
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the font has no such letter
        return render(
            Contents(
                title='Training </title><i>',
                state='4 of 4 iterations',
                training=Training(steps, [{'step': 4, 'mIoU': 35.0}], None),
                config="title = '</code><script>'",
                commands=['repvgg-seg train <x>'],
                reports={'conversion': conversion, 'exports': exports},
                versions={'this page': {'torch': '2'}, 'a.onnx': {'onnx': '1'}},
                notes=['<u>'],
                results={'train-time': result, '<file>': result},
                palette=PALETTE,
                worst=[worst],
                best=[best],
                latencies={'a.onnx': Latency(1, 2, 3, 4)},
                latency_text='On one core.',
            )
        )


def test_the_page_is_valid_and_loads_nothing(page) -> None:
    checked = Checker(page)
    assert len(set(checked.ids)) == len(checked.ids) > 10
    assert all(address.startswith(('#', 'data:image/')) for address in checked.addresses)
    for address in checked.addresses:
        assert not address.startswith('#') or address[1:] in checked.ids
    assert not re.search(r'url\((?!#)|@import|fetch\(', page)
    text = ''.join(checked.texts)
    for shown in (
        'IoU', 'Confusion matrix', 'Worst 1', 'Best 1', 'algebra', '40.00 to 30.00', 'it loses <too> much', 'a.onnx',
        'other weights than the deployed weights', '2.0 ms', 'repvgg-seg train <x>', 'not in the labels',
    ):  # fmt: skip
        assert shown in text, shown


def test_names_are_text_and_never_markup(page) -> None:
    assert page.count('<script>') == 1 and '<b>' not in page and '<u>' not in page and '<i>' not in page
    page.encode()
    assert not re.search(r'[\x00-\x08\x7f]', page)
    assert 'a$b$ &amp; "c"' in page  # in a figure, where $ would begin a formula
    assert '名' in page


def test_a_page_without_anything_but_records_is_short() -> None:
    page = render(
        Contents(
            title='t', state='s', training=Training([{'step': 1, 'loss': 1.0}], [], None), config='', commands=[],
            reports={'conversion': None, 'exports': {}}, versions={},
        )
    )  # fmt: skip
    Checker(page)
    assert 'Learning curves' in page and 'Accuracy' not in page and '<img' not in page


def test_pictures_are_as_large_as_the_page_may_be(monkeypatch) -> None:
    monkeypatch.setattr(pictures, 'LONGEST_SIDES', (64, 32))
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    one = Segmented('n', 'n', 1.0, noise[..., 0] % 3, noise[..., 1] % 3, noise[..., 2])
    [small] = draw([one], lambda path: noise, PALETTE)
    assert (small.width, small.height) == (64, 64)
    monkeypatch.setattr(pictures, 'MAX_BYTES', small.bytes - 1)
    [smaller] = draw([one], lambda path: noise, PALETTE)
    assert smaller.width == 32 and smaller.bytes < small.bytes


# ---- in a browser


@pytest.mark.parametrize(('width', 'scheme'), [(390, 'dark'), (1440, 'light')])
def test_the_page_works_in_a_browser(page, browser, tmp_path, width: int, scheme: str) -> None:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    path = tmp_path / 'page.html'
    path.write_text(page)
    emulate(browser, width, scheme)
    browser.get(path.as_uri())
    assert browser.execute_script('return document.documentElement.scrollWidth') <= width
    background = browser.execute_script('return getComputedStyle(document.body).backgroundColor')
    brightness = sum(map(int, re.findall(r'\d+', background)))
    assert brightness < 150 if scheme == 'dark' else brightness > 600

    figure = browser.find_element(By.ID, 'picture-1')
    stage, slider = figure.find_element(By.CLASS_NAME, 'stage'), figure.find_element(By.TAG_NAME, 'input')

    def share_of_prediction() -> float:
        """Return the share of columns that show the prediction, which is orange; the truth is purple and blue."""
        picture = np.asarray(Image.open(io.BytesIO(stage.screenshot_as_png)).convert('RGB')).astype(int)
        row = picture[picture.shape[0] * 3 // 4]
        return float((row[:, 0] > row[:, 2] + 60).mean())

    assert share_of_prediction() == pytest.approx(0.5, abs=0.05)
    slider.send_keys(Keys.HOME)
    assert share_of_prediction() > 0.95
    slider.send_keys(*[Keys.ARROW_RIGHT] * 25)
    assert share_of_prediction() == pytest.approx(0.75, abs=0.05)
    box = stage.rect['width']
    ActionChains(browser).move_to_element(stage).click_and_hold().move_by_offset(int(0.4 * box), 0).release().perform()
    assert share_of_prediction() == pytest.approx(0.1, abs=0.05)
    figure.find_element(By.CSS_SELECTOR, '.right option[value=image]').click()
    assert share_of_prediction() < 0.02
    assert browser.get_log('browser') == []
