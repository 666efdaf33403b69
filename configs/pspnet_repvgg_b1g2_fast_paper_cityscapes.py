# 68.0 M parameters, 62.4 M deployed. The paper has 78.88 mIoU.
_base_ = ['pspnet_repvgg_b1g2_paper_cityscapes.py']
model = dict(backbone=dict(dilations=(1, 1, (1,) * 12 + (2,) * 4, 4)))  # only the last five layers are dilated
