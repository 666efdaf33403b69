# python tools/train.py configs/fastseg_repvgg_a0_full_camvid.py
# The second of two steps, on images of full size: it begins with what fastseg_repvgg_a0_half_camvid.py has trained.
# Cost: 350 iterations of 4 crops of 256x320; 11 min in float32 on one core of an AMD EPYC with AVX2 only.
# Expect: 56.32 mIoU, 89.75 aAcc on val (run once, 2026-11-29).
_base_ = ['_base_/fastseg_camvid.py']
load_from = 'work_dirs/fastseg_repvgg_a0_half_camvid/iter_3000.pth'
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=4)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=20, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, begin=20, end=350, by_epoch=False),
]
train_cfg = dict(max_iters=350, val_interval=350)
default_hooks = dict(checkpoint=dict(interval=50))
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=0.01, gamma=10, update_buffers=True),
]
