# mmseg's 160k schedule: the 80k one, twice as long and with batches of 16.
_base_ = ['sgd_80k.py']
auto_scale_lr = dict(base_batch_size=16)
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=160000, by_epoch=False)]
train_cfg = dict(max_iters=160000, val_interval=16000)
