# python tools/pretrain_imagenet.py --recipe plus-300e --arch RepVGGplus-L2pse --amp
# Cost: 300 epochs of 1.28 million images of 256x256; not run here, where there is no ImageNet.
# Expect: top-1 84.06 at 320x320 for RepVGGplus-L2pse, as the authors publish.
# RepVGGplus: nesterov, warm-up, weight decay 4e-5, the authors' "raug15", auxiliary losses; tested at 320.
_base_ = ['../_base_/imagenet.py']
model = dict(arch='RepVGGplus-L2pse', label_smoothing=0.1, mixup=0.2, aux_weight=0.1)
train_dataloader = dict(dataset=dict(resolution=256, augmentation='raug15'))
val_dataloader = dict(dataset=dict(resolution=320))
optim_wrapper = dict(optimizer=dict(weight_decay=4e-5, nesterov=True))
# Both factors apply at once: the cosine counts from the first iteration, as the authors' does.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=5, by_epoch=True, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=300)
