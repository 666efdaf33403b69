# The light head on Cityscapes. A config over it names the backbone: the ImageNet weights follow from that.
# python tools/train.py configs/fastseg_repvgg_a0_cityscapes.py
# Cost: 80k iterations of 8 crops of 512x1024.
# Expect: not known. One training step of each network was run here: there was no GPU and no Cityscapes.
_base_ = ['models/fastseg_repvgg.py', 'datasets/cityscapes.py', 'schedules/sgd_80k.py', 'runtime.py']
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='repvgg://')),  # the released weights of the arch
)
