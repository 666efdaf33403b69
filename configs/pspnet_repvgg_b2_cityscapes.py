# python tools/train.py configs/pspnet_repvgg_b2_cityscapes.py
# torchrun --nproc-per-node 4 tools/train.py configs/pspnet_repvgg_b2_cityscapes.py --launcher pytorch \
#     --cfg-options train_dataloader.batch_size=2
# Cost: 80k iterations of 8 crops of 512x1024; 114.4 M parameters, 104.2 M deployed.
# Only one training step was run here: there was no GPU and no Cityscapes.
# Expect: not known; the paper has 80.57 mIoU with its own recipe (pspnet_repvgg_b2_paper_cityscapes.py).
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B2', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-B2')))
