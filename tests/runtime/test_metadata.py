import json
import subprocess
import sys
from dataclasses import replace

import pytest

from repvgg_seg.runtime.metadata import ModelMetadata

METADATA = ModelMetadata(
    classes=('road', 'sky'),
    palette=((128, 64, 128), (70, 130, 180)),
    batch=1,
    size=(64, 128),
    output='classes',
    precision='fp32',
    source={'file': 'deploy.pth', 'sha256': 'ab' * 32},
    versions={'torch': '2.15.0'},
    created='2026-11-26T12:00:00+00:00',
)


@pytest.mark.parametrize('batch', [1, 8, None])
def test_json_and_back_is_the_same(batch) -> None:
    metadata = replace(METADATA, batch=batch, output='logits')
    assert ModelMetadata.from_json(metadata.to_json()) == metadata


def test_the_json_is_what_readers_rely_on() -> None:
    values = json.loads(replace(METADATA, batch=None).to_json())
    assert values == {
        'format': 1,
        'classes': ['road', 'sky'],
        'palette': [[128, 64, 128], [70, 130, 180]],
        'num_classes': 2,
        'colour_order': 'RGB',
        'input': ['dynamic', 64, 128, 3],
        'output': 'classes',
        'precision': 'fp32',
        'source': {'file': 'deploy.pth', 'sha256': 'ab' * 32},
        'versions': {'torch': '2.15.0'},
        'created': '2026-11-26T12:00:00+00:00',
    }


@pytest.mark.parametrize('mean', [(90,), (1, 2, 3, 4), tuple(range(13))])
def test_images_of_other_channels_are_told(mean) -> None:
    metadata = replace(METADATA, mean=mean)
    values = json.loads(metadata.to_json())
    assert values['input'] == [1, 64, 128, len(mean)] and values['colour_order'] is None
    assert ModelMetadata.from_json(metadata.to_json()) == metadata and metadata.channels == len(mean)
    for change in ({'colour_order': 'RGB'}, {'input': [1, 64, 128, 3]}):
        with pytest.raises(ValueError, match=rf'not multichannel images \(N, H, W, {len(mean)}\)'):
            ModelMetadata.from_json(json.dumps(values | change))
    with pytest.raises(ValueError, match='no valid mean'):
        replace(METADATA, mean=(300,))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'format': 2}, 'is of format 2, and this version reads 1'),
        ({'extra': 1}, 'lacks, or has too much, of: extra'),
        ({'classes': None}, r'no valid classes: \(None,\)'),
        ({'palette': [[0, 0, 256], [1, 1, 1]]}, 'no valid palette'),
        ({'palette': [[0, 0, 0]]}, 'no valid palette'),
        ({'num_classes': 3}, 'has 3 classes but names 2'),
        ({'colour_order': 'BGR'}, 'takes BGR images'),
        ({'input': [1, 64, 128]}, 'not RGB images'),
        ({'input': [0, 64, 128, 3]}, 'no valid batch: 0'),
        ({'input': [1, 64, True, 3]}, 'no valid size'),
        ({'output': 'boxes'}, "no valid output: 'boxes'"),
        ({'precision': 'int4'}, "no valid precision: 'int4'"),
        ({'source': {'file': 'x'}}, 'no valid source'),
    ],
)
def test_what_is_not_ours_is_refused(change: dict, message: str) -> None:
    values = json.loads(METADATA.to_json()) | change
    with pytest.raises(ValueError, match=message):
        ModelMetadata.from_json(json.dumps(values))


def test_missing_keys_and_broken_text_are_refused() -> None:
    values = json.loads(METADATA.to_json())
    del values['palette']
    with pytest.raises(ValueError, match='lacks, or has too much, of: palette'):
        ModelMetadata.from_json(json.dumps(values))
    with pytest.raises(ValueError, match='is no JSON'):
        ModelMetadata.from_json('{"format": 1,')
    with pytest.raises(ValueError, match='is of format None'):
        ModelMetadata.from_json('[]')


def test_reading_metadata_needs_no_torch() -> None:
    script = 'import sys, repvgg_seg.runtime.metadata; print("torch" in sys.modules, "numpy" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['False', 'False']
