# python tools/train.py configs/pspnet_repvgg_b2_fast_cityscapes.py
# Cost: 80k iterations of 8 crops of 512x1024; 114.4 M parameters, 104.2 M deployed.
# Only one training step was run here: there was no GPU and no Cityscapes.
# Expect: not known; the paper has 79.52 mIoU with its own recipe (pspnet_repvgg_b2_fast_paper_cityscapes.py).
_base_ = ['pspnet_repvgg_b2_cityscapes.py']
model = dict(backbone=dict(dilations=(1, 1, (1,) * 12 + (2,) * 4, 4)))  # only the last five layers are dilated
