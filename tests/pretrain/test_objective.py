import pytest
import torch
import torch.nn.functional as F

from repvgg_seg import RepVGGClassifier, custom_l2
from repvgg_seg.pretrain.objective import MEAN, STD, Objective, normalise
from repvgg_seg.randomness import seeded
from tests.conftest import TINY, TINY_PLUS, randomise

IMAGES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 1, 2])


def model(variant) -> RepVGGClassifier:
    return randomise(RepVGGClassifier(variant, 3)).eval()


def test_normalisation_is_that_of_imagenet() -> None:
    expected = (IMAGES.double() - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)
    assert torch.allclose(normalise(IMAGES).double(), expected, atol=1e-6)
    assert normalise(IMAGES).dtype == torch.float32


def test_losses_are_smoothed_weighted_and_complete() -> None:
    net = model(TINY_PLUS)
    losses = Objective(3, label_smoothing=0.1, aux_weight=0.1, custom_l2=4e-5)(net, IMAGES, LABELS)
    smooth = torch.full((4, 3), 0.1 / 3)
    smooth[range(4), LABELS] += 0.9
    for name, logits in net.forward_aux(normalise(IMAGES)).items():
        loss = -(smooth * F.log_softmax(logits, 1)).sum(1).mean()
        assert torch.allclose(losses.pop(f'loss_{name}'), loss if name == 'main' else 0.1 * loss)
    assert torch.allclose(losses.pop('loss_custom_l2'), 0.5 * 4e-5 * custom_l2(net)) and not losses


def test_mixup_mixes_images_and_targets_with_one_share() -> None:
    net, objective = model(TINY), Objective(3, mixup=0.2, label_smoothing=0.1)
    with seeded(7):
        loss = objective(net, IMAGES, LABELS)['loss_main']
    with seeded(7):
        share = float(torch.distributions.Beta(torch.tensor([0.2]), torch.tensor([0.2])).sample(()))
    assert 0 < share < 1
    x, target = normalise(IMAGES), F.one_hot(LABELS, 3).float()
    x, target = (share * t + (1 - share) * t.roll(1, 0) for t in (x, target))
    expected = F.cross_entropy(net(x), target, label_smoothing=0.1)
    assert torch.allclose(loss, expected, atol=1e-5)
    with seeded(8):
        assert not torch.allclose(objective(net, IMAGES, LABELS)['loss_main'], loss)


def test_without_extras_it_is_plain_cross_entropy() -> None:
    net = model(TINY)
    losses = Objective(3)(net, IMAGES, LABELS)
    assert losses.keys() == {'loss_main'}
    assert losses['loss_main'].item() == pytest.approx(F.cross_entropy(net(normalise(IMAGES)), LABELS).item())
