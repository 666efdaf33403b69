"""Each kind of file makes the class map that the dense form makes, also where its shapes depend on the data."""

from torch import nn


class Network(nn.Module):
    """A segmentor whose logits are whole numbers made of its images, so that no runtime rounds them differently."""

    def __init__(self, classes: int, stride: int, align_corners: bool) -> None:
        super().__init__()
