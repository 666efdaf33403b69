# CamVid, 11 classes, 480x360: data_root/{images,annotations}/{train,val}, masks of class indices with void 255.
_base_ = ['cityscapes.py']
dataset_type = 'CamVidDataset'
data_root = 'data/camvid'
crop_size = (256, 320)  # (H, W)
train_pipeline = [
    dict(type='LoadCachedImage'),
    dict(type='LoadCachedAnnotations'),
    dict(type='ResizeAndCrop', scale=(480, 360), ratio_range=(0.6, 1.5), crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='AlbuPhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    num_workers=2,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
