# The light head on ADE20K. A config over it names the backbone: the ImageNet weights follow from that.
# python tools/train.py configs/fastseg_repvgg_a0_ade20k.py
# Cost: 160k iterations of 16 crops of 512x512.
# Expect: not known. One training step of each network was run here: there was no GPU and no ADE20K.
_base_ = ['models/fastseg_repvgg.py', 'datasets/ade20k.py', 'schedules/sgd_160k.py', 'runtime.py']
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='repvgg://')),  # the released weights of the arch
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
