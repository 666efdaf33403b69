"""Each kind of file makes the class map that the dense form makes, also where its shapes depend on the data."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repvgg_seg.deploy.export import TARGETS
from repvgg_seg.deploy.graph import InferenceGraph
from repvgg_seg.models import class_map as module
from repvgg_seg.runtime.backends import open_model
from repvgg_seg.runtime.metadata import ModelMetadata
from tests.local_graph import SIZE


class Network(nn.Module):
    """A segmentor whose logits are whole numbers made of its images, so that no runtime rounds them differently."""

    def __init__(self, classes: int, stride: int, align_corners: bool) -> None:
        super().__init__()
