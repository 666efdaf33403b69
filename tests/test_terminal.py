"""Text from outside is never a command to the terminal, nor a line of its own."""

import logging
import warnings
from pathlib import Path

import pytest
from rich.text import Text

from repvgg_seg.cli import main
from repvgg_seg.data.pictures import captioned, legend
from repvgg_seg.terminal import escaped_reports, is_text, label, printable
from tests.local_graph import images

NAME = 'a\x1b[31m\r\n\x9b\u2028\u202e\udcffé[/red]'
SHOWN = r'a\x1b[31m\r\n\x9b\u2028\u202e\udcffé[/red]'


def test_what_is_no_visible_character_is_escaped() -> None:
    assert printable(NAME) == SHOWN and printable('Straße 7 – 日本') == 'Straße 7 – 日本'
    assert Text.from_markup(label(NAME)).plain == SHOWN
    assert is_text('日本') and not is_text(NAME)


def test_errors_warnings_and_logs_are_escaped(capsys, caplog) -> None:
    assert main(['predict', f'{NAME}.onnx', 'gone.png', '--out', 'x']) == 2
    assert main(['predict', 'x.onnx', f'gone{NAME}.png', '--out', 'x']) == 2
    assert main([NAME]) == 2
    said = capsys.readouterr().err
    assert r'\x1b[31m' in said and len(said.splitlines()) == 3 and not {*'\x1b\x9b\r\u202e'} & {*said}
    with escaped_reports():
        assert warnings.formatwarning(UserWarning(NAME), UserWarning, 'x.py', 1).count('\n') == 1
        logging.getLogger('x').warning('%s and %s and %d', NAME, Path(NAME), 3)
    assert caplog.messages == [f'{SHOWN} and {SHOWN} and 3']


@pytest.mark.parametrize('name', ['\udcff', '\ud800'])
def test_opencv_draws_what_is_no_text(name) -> None:
    """Given a lone surrogate, OpenCV itself ends the process."""
    assert captioned(images(8, 200)[0], name).shape == (28, 200, 3)
    assert legend([name], [(0, 0, 0)], [0], width=100).shape[1] == 100
