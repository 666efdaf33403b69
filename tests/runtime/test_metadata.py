import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmcv.image.geometric import rescale_size

from repvgg_seg.runtime.metadata import ModelMetadata, Preparation

METADATA = ModelMetadata(
    classes=('road', 'sky'),
    palette=((128, 64, 128), (70, 130, 180)),
    batch=1,
    size=(64, 128),
    output='classes',
    precision='fp32',
    threshold=None,
    align_corners=False,
    preparation=Preparation(scale=(64, 128), keep_ratio=True),
    fit='test',
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
        'format': 3,
        'classes': ['road', 'sky'],
        'palette': [[128, 64, 128], [70, 130, 180]],
        'num_classes': 2,
        'colour_order': 'RGB',
        'input': ['dynamic', 64, 128, 3],
        'output': 'classes',
        'precision': 'fp32',
        'threshold': None,
        'align_corners': False,
        'preparation': {
            'scale': [64, 128],
            'keep_ratio': True,
            'interpolation': 'bilinear',
            'upright': True,
            'decoder': 'cv2',
            'stride': None,
        },
        'fit': 'test',
        'source': {'file': 'deploy.pth', 'sha256': 'ab' * 32},
        'versions': {'torch': '2.15.0'},
        'created': '2026-11-26T12:00:00+00:00',
    }


@pytest.mark.parametrize('mean', [(90,), (1, 2, 3, 4), tuple(range(13))])
def test_images_of_other_channels_are_reported(mean) -> None:
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
        ({'format': 4}, 'is of format 4, and this version reads 1 to 3'),
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
        ({'threshold': '0.3'}, "no valid threshold: '0.3'"),
        ({'fit': 'crop'}, "no valid fit: 'crop'"),
        ({'preparation': {'scale': None}}, 'no valid preparation'),
        (
            {'preparation': asdict(METADATA.preparation) | {'scale': [0, 3]}},
            r'no valid scale: \(0, 3\)',
        ),
        ({'preparation': asdict(METADATA.preparation) | {'interpolation': 'sinc'}}, 'no valid interpolation'),
        ({'preparation': asdict(METADATA.preparation) | {'decoder': 'gdal'}}, "no valid decoder: 'gdal'"),
        ({'align_corners': None}, 'no valid align_corners: None'),
    ],
)
def test_what_is_not_ours_is_refused(change: dict, message: str) -> None:
    values = json.loads(METADATA.to_json()) | change
    with pytest.raises(ValueError, match=message):
        ModelMetadata.from_json(json.dumps(values))


def test_a_file_that_does_not_tell_its_preparation_gets_stretched_images_and_a_warning() -> None:
    values = json.loads(METADATA.to_json()) | {'format': 1}
    for name in ('threshold', 'preparation', 'fit', 'align_corners'):
        del values[name]
    with pytest.warns(UserWarning, match=r'sizes than \[64, 128\] are stretched .* Export the model again'):
        found = ModelMetadata.from_json(json.dumps(values))
    assert found == replace(METADATA, preparation=Preparation(scale=(64, 128)))


def test_what_a_file_of_format_2_does_not_tell_is_the_default() -> None:
    values = json.loads(METADATA.to_json()) | {'format': 2}
    del values['align_corners'], values['preparation']['decoder']
    assert ModelMetadata.from_json(json.dumps(values)) == METADATA


@pytest.mark.parametrize(('scale', 'keep_ratio'), [((512, 2048), True), ((360, 480), False), ((7, 9), True)])
@given(height=st.integers(1, 4000), width=st.integers(1, 4000))
def test_images_are_resized_to_what_mmcv_makes_of_them(scale, keep_ratio, height, width) -> None:
    found = Preparation(scale=scale, keep_ratio=keep_ratio).resized((height, width))
    expected = rescale_size((width, height), scale[::-1]) if keep_ratio else scale[::-1]
    assert found == tuple(max(1, n) for n in expected[::-1])
    assert Preparation().resized((height, width)) == (height, width)


def test_missing_keys_and_broken_text_are_refused() -> None:
    values = json.loads(METADATA.to_json())
    del values['palette']
    with pytest.raises(ValueError, match='lacks, or has too much, of: palette'):
        ModelMetadata.from_json(json.dumps(values))
    with pytest.raises(ValueError, match='is not JSON'):
        ModelMetadata.from_json('{"format": 1,')
    with pytest.raises(ValueError, match='is of format None'):
        ModelMetadata.from_json('[]')


def test_reading_metadata_needs_no_torch() -> None:
    script = 'import sys, repvgg_seg.runtime.metadata; print("torch" in sys.modules, "numpy" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['False', 'False']
