"""What version 0.1 wrote on 2026-11-28, before the layout changed, still loads and computes the same."""

from pathlib import Path

import pytest
import torch

from repvgg_seg import Segmenter
from repvgg_seg.deploy.convert import synthetic_images
from repvgg_seg.deploy.graph import InferenceGraph
from repvgg_seg.workflows.deployed import load_deployed

BEFORE = Path(__file__).parents[1] / 'fixtures/before'  # a RepVGG-A0 stem and first stage, with a head of 4 channels


@pytest.mark.parametrize('name', ['model.onnx', 'model.xml'])
def test_a_deployed_folder_and_the_files_exported_from_it_agree(name: str) -> None:
    _, segmentor, meta, source = load_deployed(BEFORE)
    assert source['file'] == 'deploy.pth' and meta['classes'][0] == 'road'
    with pytest.warns(UserWarning, match='was written before files said how the test prepares images'):
        segmenter = Segmenter(BEFORE / name)
    assert (segmenter.size, segmenter.fit, segmenter.classes) == ((32, 64), 'test', tuple(meta['classes']))
    images = synthetic_images((32, 64))
    with torch.inference_mode():
        expected = InferenceGraph(segmentor)(images).numpy()
    for image, classes in zip(images.numpy(), expected, strict=True):
        assert (segmenter(image) == classes).mean() > 0.999
