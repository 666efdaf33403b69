# The PSPNets of the paper, section 4.3, table 8. A config over it names the backbone: the weights follow from that.
# python tools/train.py configs/pspnet_repvgg_b2_paper_cityscapes.py
# torchrun --nproc-per-node 8 tools/train.py configs/pspnet_repvgg_b2_paper_cityscapes.py --launcher pytorch \
#     --cfg-options train_dataloader.batch_size=2
# Cost: 40 epochs (7,440 iterations) of 16 crops of 713x713.
# Expect: what the paper has, 80.57 mIoU for RepVGG-B2. Not reproduced: there was no GPU and no Cityscapes here.
#
# As in the authors' example and the semseg code that it builds on: 713 = 8 * 89 + 1 with align_corners, so that the
# pixels of the maps at stride 8 lie on every eighth pixel of the crop, and evaluation by windows of the same size.
# Not stated by the paper and ours here: augmentation as in the other Cityscapes configs, one learning rate for trunk
# and heads, pyramid pooling of 512 channels a bin (semseg: a quarter of the trunk's, which differs for B2 only, 640).
_base_ = ['models/pspnet_repvgg.py', 'datasets/cityscapes_713.py', 'schedules/sgd_paper_40e.py', 'runtime.py']
model = dict(
    data_preprocessor=dict(size=(713, 713)),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='repvgg://')),  # the released weights of the arch
    decode_head=dict(align_corners=True),
    auxiliary_head=dict(align_corners=True),
    test_cfg=dict(mode='slide', crop_size=(713, 713), stride=(476, 476)),
)
default_hooks = dict(logger=dict(log_metric_by_epoch=True), checkpoint=dict(by_epoch=True, interval=5))
log_processor = dict(by_epoch=True)
