# PSPNet at output stride 8; strides and dilations as in the authors' own PSPNet example.
_base_ = ['segmentor.py']
model = dict(
    backbone=dict(strides=(2, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(type='FoldedPSPHead', in_index=3),
)
