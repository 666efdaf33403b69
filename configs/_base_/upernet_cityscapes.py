# UPerNet on Cityscapes: 80k iterations of 8 crops of 512x1024. A config over it names the backbone.
_base_ = ['models/upernet_repvgg.py', 'datasets/cityscapes.py', 'schedules/sgd_80k.py', 'runtime.py']
model = dict(data_preprocessor=dict(size=(512, 1024)))
