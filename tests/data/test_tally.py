"""Weights of the classes from what was counted."""

import pytest

from repvgg_seg.data.samples import Reading, Sample
from repvgg_seg.data.splits import Labels, Split
from repvgg_seg.data.tally import Tally


def tally(*masks: dict[int, int], classes: int = 4) -> Tally:
    names = tuple(f'class {index}' for index in range(classes))
    labels = Labels(names, ignore_index=255, palette=[[0, 0, 0]] * classes)
    result = Tally(Split('train', [], labels, Reading(), outputs={}, folders=None))
    for number, counts in enumerate(masks):
        result.add(
            Sample(f'{number}.png', f'{number}.png', image_mode='RGB', image_size=(10, 10), mask_format='PNG',
                   mask_mode='L', mask_size=(10, 10), counts=tuple(counts.items()))
        )  # fmt: skip
    return result


def test_weights_by_the_inverse_square_root_keep_the_size_of_the_loss() -> None:
    counted = tally({0: 64, 1: 16, 255: 20}, {0: 80, 2: 16, 255: 4})
    weights = counted.class_weights('inverse-sqrt')
    assert weights[1] / weights[0] == pytest.approx(3, rel=0.01) and weights[3] == 1  # it never occurs
    assert sum(w * n for w, n in zip(weights, (144, 16, 16), strict=False)) / 176 == pytest.approx(1, rel=0.01)


def test_weights_by_median_frequency_count_only_images_with_the_class() -> None:
    counted = tally({0: 60, 1: 20, 255: 20}, {0: 60, 2: 40})
    # Frequencies: 120 of 180 labelled pixels, 20 of 80, 40 of 100; their median is 0.4.
    assert counted.class_weights('median-frequency') == [0.6, 1.6, 1.0, 1.0]


def test_without_labelled_pixels_there_are_no_weights() -> None:
    with pytest.raises(ValueError, match='no pixel of train has a class'):
        tally({255: 100}).class_weights('inverse-sqrt')
