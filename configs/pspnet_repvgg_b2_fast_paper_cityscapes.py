# 114.4 M parameters, 104.2 M deployed. The paper has 79.52 mIoU.
_base_ = ['pspnet_repvgg_b2_paper_cityscapes.py']
model = dict(backbone=dict(dilations=(1, 1, (1,) * 12 + (2,) * 4, 4)))  # only the last five layers are dilated
