# python tools/train.py configs/fastseg_repvgg_a0_half_camvid.py
# The first of two steps: images of about half the size cost a quarter. fastseg_repvgg_a0_full_camvid.py is the next.
# Cost: 3,000 iterations of 8 crops of 128x160, 66 epochs; 47 min in float32 on one core of an AMD EPYC with AVX2 only.
# Expect: 48.53 mIoU, 83.61 aAcc on val at full size (run once, 2026-11-29).
_base_ = ['_base_/fastseg_camvid.py']
crop_size = (128, 160)  # (H, W)
train_pipeline = [
    dict(type='LoadCachedImage'),
    dict(type='LoadCachedAnnotations'),
    dict(type='ResizeAndCrop', scale=(480, 360), ratio_range=(0.4, 1.0), crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='AlbuPhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(data_preprocessor=dict(size=crop_size))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=100, end=3000, by_epoch=False),
]
train_cfg = dict(max_iters=3000)
default_hooks = dict(checkpoint=dict(interval=250))
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=0.005, gamma=10, update_buffers=True),
]
