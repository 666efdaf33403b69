# python tools/train.py configs/pspnet_repvgg_b2_fast_paper_cityscapes.py
# torchrun --nproc-per-node 8 tools/train.py configs/pspnet_repvgg_b2_fast_paper_cityscapes.py --launcher pytorch \
#     --cfg-options train_dataloader.batch_size=2
# Cost: 40 epochs (7,440 iterations) of 16 crops of 713x713; 114.4 M parameters, 104.2 M deployed.
# Only one training step was run here: there was no GPU and no Cityscapes.
# Expect: 79.52 mIoU, which is what the paper has (table 8); not reproduced here.
_base_ = ['pspnet_repvgg_b2_paper_cityscapes.py']
model = dict(backbone=dict(dilations=(1, 1, (1,) * 12 + (2,) * 4, 4)))  # only the last five layers are dilated
