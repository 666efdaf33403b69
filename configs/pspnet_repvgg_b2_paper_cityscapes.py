# python tools/train.py configs/pspnet_repvgg_b2_paper_cityscapes.py
# torchrun --nproc-per-node 8 tools/train.py configs/pspnet_repvgg_b2_paper_cityscapes.py --launcher pytorch \
#     --cfg-options train_dataloader.batch_size=2
# Cost: 40 epochs (7,440 iterations) of 16 crops of 713x713; 114.4 M parameters, 104.2 M deployed.
# Only one training step was run here: there was no GPU and no Cityscapes.
# Expect: 80.57 mIoU, which is what the paper has (table 8); not reproduced here.
_base_ = ['_base_/pspnet_paper_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B2', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-B2')))
