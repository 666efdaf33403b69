# 114.4 M parameters, 104.2 M deployed. The paper has 80.57 mIoU with its own recipe (pspnet_repvgg_*_paper_*.py).
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B2'))
