# 114.4 M parameters, 104.2 M deployed. The paper has 80.57 mIoU.
_base_ = ['_base_/pspnet_paper_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B2'))
