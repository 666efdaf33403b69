# PSPNet at output stride 8 on ADE20K: 160k iterations of 16 crops of 512x512. A config over it names the backbone.
_base_ = ['models/pspnet_repvgg.py', 'datasets/ade20k.py', 'schedules/sgd_160k.py', 'runtime.py']
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
