# Cityscapes for the paper's recipe: crops of 713x713, global batch 16, counted in epochs.
_base_ = ['cityscapes.py']
crop_size = (713, 713)  # (H, W)
train_pipeline = [
    dict(type='LoadCachedImage'),
    dict(type='LoadCachedAnnotations'),
    dict(type='ResizeAndCrop', scale=(2048, 1024), ratio_range=(0.5, 2.0), crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='AlbuPhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=16,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(pipeline=train_pipeline),
)
