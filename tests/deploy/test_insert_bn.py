"""Batch norms behind fused kernels: they change nothing, and are folded like any other."""

import copy

import pytest
import torch
from torch import nn

from repvgg_seg import RepVGGBlock
from repvgg_seg.deploy import insert_bn
from repvgg_seg.deploy.convert import VerificationError, convert_segmentor, is_deployed, verify_segmentor
from repvgg_seg.deploy.graph import InferenceGraph
from repvgg_seg.deploy.insert_bn import insert_measured_norms
from repvgg_seg.models.quantized import fake_quantize
from tests.conftest import TINY_SE, relative
from tests.local_graph import images
from tests.segmentors import segmentor

BATCHES = [torch.from_numpy(image)[None] for image in images(64, 96, number=3)]


@pytest.mark.parametrize(('dtype', 'limit'), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@torch.no_grad()
def test_inserted_norms_change_nothing_and_have_the_statistics_of_the_images(dtype, limit: float) -> None:
    model = convert_segmentor(segmentor(variant=TINY_SE)).to(dtype)
    graph = InferenceGraph(model)
    before = [graph.logits(batch) for batch in BATCHES]
    assert insert_measured_norms(graph, iter(BATCHES)) <= limit
    assert not is_deployed(model)
    for batch, logits in zip(BATCHES, before, strict=True):
        assert relative(graph.logits(batch), logits) <= limit
    # What comes out of a norm without gamma and beta is normalised, over all images together.
    block, outputs = model.backbone.stage4[0], []
    norm = nn.BatchNorm2d(block.out_channels, eps=1e-12, affine=False, dtype=dtype).eval()
    norm.running_mean, norm.running_var = block.bn.running_mean, block.bn.running_var
    hook = block.rbr_reparam.register_forward_hook(lambda module, x, out: outputs.append(norm(out)))
    for batch in BATCHES:
        graph.logits(batch)
    hook.remove()
    normal = torch.cat(outputs).transpose(0, 1).flatten(1)
    assert normal.mean(1).abs().max() < 1e-3 and (normal.var(1, unbiased=False) - 1).abs().max() < 1e-2
    # Trained further, they are folded and proved like the norms of branches.
    block.bn.weight.mul_(1.5)
    converted = convert_segmentor(model)
    assert is_deployed(converted)
    verify_segmentor(model, converted, [(33, 49)])


def test_norms_are_inserted_into_sound_deployed_float_networks_only(monkeypatch) -> None:
    model = convert_segmentor(segmentor())

    def refused(message: str, change=lambda model: None, batches=BATCHES, kind=ValueError) -> None:
        changed = copy.deepcopy(model)
        change(changed)
        with pytest.raises(kind, match=message):
            insert_measured_norms(InferenceGraph(changed), batches)

    with pytest.raises(ValueError, match='the model is not deployed: convert it first'):
        insert_measured_norms(InferenceGraph(segmentor()), BATCHES)
    refused('has no RepVGG block', lambda model: setattr(model, 'backbone', nn.Conv2d(3, 3, 1)))
    refused('is quantized already: insert batch norms into a float one', fake_quantize)
    refused(
        r'the weight backbone\.stage1\.0\.rbr_reparam\.bias holds NaN',
        lambda model: model.backbone.stage1[0].rbr_reparam.bias.data.fill_(torch.nan),
    )
    refused('there are no images to measure', batches=[])
    monkeypatch.setattr(insert_bn, 'insert_norms', lambda model: wrong(model))
    refused('batch norms behind the kernels change the logits by', kind=VerificationError)


def wrong(model: nn.Module) -> list[RepVGGBlock]:
    """Insert norms of which one is at the wrong place."""
    blocks = [module for module in model.modules() if isinstance(module, RepVGGBlock)]
    for block in blocks:
        block.bn = nn.BatchNorm2d(block.out_channels).eval()
    blocks[0].se = nn.ReLU()
    blocks[0].rbr_reparam.bias.data += 1
    return blocks
