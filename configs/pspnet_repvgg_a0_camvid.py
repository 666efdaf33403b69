# python tools/train.py configs/pspnet_repvgg_a0_camvid.py --amp
# Cost: 1,500 iterations of 4 crops of 256x320 at output stride 8: several times the UPerNet's on a CPU.
# Expect: not yet run to its end.
_base_ = [
    '_base_/models/pspnet_repvgg.py',
    '_base_/datasets/camvid.py',
    '_base_/schedules/adamw_short.py',
    '_base_/runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(256, 320)),
    backbone=dict(arch='RepVGG-A0'),
    decode_head=dict(channels=64, num_classes=11),
    auxiliary_head=dict(channels=64, num_classes=11),
)
default_hooks = dict(checkpoint=dict(interval=250))
