# python tools/train.py configs/pspnet_repvgg_b1g2_fast_cityscapes.py
# Cost: 80k iterations of 8 crops of 512x1024; 68.0 M parameters, 62.4 M deployed.
# Only one training step was run here: there was no GPU and no Cityscapes.
# Expect: not known; the paper has 78.88 mIoU with its own recipe (pspnet_repvgg_b1g2_fast_paper_cityscapes.py).
_base_ = ['pspnet_repvgg_b1g2_cityscapes.py']
model = dict(backbone=dict(dilations=(1, 1, (1,) * 12 + (2,) * 4, 4)))  # only the last five layers are dilated
