# 114.4 M parameters, 104.2 M deployed. The paper has 79.52 mIoU with its own recipe (pspnet_repvgg_*_paper_*.py).
_base_ = ['pspnet_repvgg_b2_cityscapes.py']
model = dict(backbone=dict(dilations=(1, 1, (1,) * 12 + (2,) * 4, 4)))  # only the last five layers are dilated
