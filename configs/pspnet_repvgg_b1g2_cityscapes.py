# 68.0 M parameters, 62.4 M deployed. The paper has 78.70 mIoU with its own recipe (pspnet_repvgg_*_paper_*.py).
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B1g2'))
