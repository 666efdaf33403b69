# python tools/train.py configs/pspnet_repvgg_b2_cityscapes.py
# torchrun --nproc-per-node 4 tools/train.py configs/pspnet_repvgg_b2_cityscapes.py --launcher pytorch \
#     --cfg-options train_dataloader.batch_size=2
# Cost: 80k iterations of 8 crops of 512x1024. Not yet run: there was no GPU and no Cityscapes.
# Expect: not known for this schedule; with the authors' own (713x713, batch 16, 40 epochs) the paper has 80.57 mIoU.
_base_ = [
    '_base_/models/pspnet_repvgg.py',
    '_base_/datasets/cityscapes.py',
    '_base_/schedules/sgd_80k.py',
    '_base_/runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    backbone=dict(arch='RepVGG-B2', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-B2')),
    decode_head=dict(in_channels=2560),
    auxiliary_head=dict(in_channels=640),
)
