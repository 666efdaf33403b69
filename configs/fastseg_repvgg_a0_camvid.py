# python tools/train.py configs/fastseg_repvgg_a0_camvid.py --amp
# Cost: 12,000 iterations of 8 crops of 256x320, 262 epochs.
# Expect: not run to its end yet. 40.47 mIoU on val after 1,150 iterations of 4: see docs/results.md.
_base_ = [
    '_base_/models/fastseg_repvgg.py',
    '_base_/datasets/camvid.py',
    '_base_/schedules/adamw_long.py',
    '_base_/runtime.py',
]
train_dataloader = dict(batch_size=8)
model = dict(
    data_preprocessor=dict(size=(256, 320)),
    backbone=dict(arch='RepVGG-A0'),
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
)
default_hooks = dict(checkpoint=dict(interval=1000))
# Validation and checkpoints use averaged weights, with the averaged statistics of their batch norms: the average of
# about the last tenth of the training (gamma), and of at most 1,000 iterations (momentum).
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=0.001, gamma=10, update_buffers=True),
]
