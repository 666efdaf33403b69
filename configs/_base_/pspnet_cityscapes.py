# PSPNet at output stride 8 on Cityscapes. A config over it names the backbone: the ImageNet weights follow from that.
# python tools/train.py configs/pspnet_repvgg_b2_cityscapes.py
# torchrun --nproc-per-node 4 tools/train.py configs/pspnet_repvgg_b2_cityscapes.py --launcher pytorch \
#     --cfg-options train_dataloader.batch_size=2
# Cost: 80k iterations of 8 crops of 512x1024.
# Expect: not known. One training step of each network was run here: there was no GPU and no Cityscapes.
_base_ = ['models/pspnet_repvgg.py', 'datasets/cityscapes.py', 'schedules/sgd_80k.py', 'runtime.py']
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='repvgg://')),  # the released weights of the arch
)
