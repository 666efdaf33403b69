# python tools/pretrain_imagenet.py --recipe paper-200e --arch RepVGG-B3 --amp
# Cost: 200 epochs of 1.28 million images of 224x224; not run here, where there is no ImageNet.
# Expect: top-1 80.52 for RepVGG-B3, as the authors publish.
# The paper's recipe for B2g4, B3 and B3g4: paper_120e.py with AutoAugment, label smoothing and mixup.
_base_ = ['../_base_/imagenet.py']
model = dict(label_smoothing=0.1, mixup=0.2)
train_dataloader = dict(dataset=dict(augmentation='autoaugment'))
train_cfg = dict(max_epochs=200)
