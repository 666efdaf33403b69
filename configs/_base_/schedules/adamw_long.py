# A long schedule for small data sets trained from scratch: the short one with batches of 8, for 12,000 iterations.
_base_ = ['adamw_short.py']
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=200, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, begin=200, end=12000, by_epoch=False),
]
train_cfg = dict(max_iters=12000, val_interval=1000)
