"""EfficientNet-Lite2 as a teacher."""

from __future__ import annotations

import pytest
import torch

from tests.training.small import coloured_photos
from vitdemo.errors import OptionError
from vitdemo.training.efficientnet import FeatureExtractor, efficientnet_teacher
from vitdemo.training.features import accuracy, predict
from vitdemo.training.run import load_teacher


def test_its_features_are_a_map_of_stride_32_with_1280_channels() -> None:
    with torch.no_grad():
        assert FeatureExtractor().eval()(torch.zeros(1, 3, 96, 64)).shape == (1, 1280, 3, 2)


def test_a_probe_on_its_features_classifies_new_photos() -> None:
    teacher = efficientnet_teacher(coloured_photos(24), size=64)
    test = coloured_photos(12, seed=1)
    assert accuracy(predict(test, 32, teacher.logits, torch.device("cpu")), test) >= 0.9
    assert teacher.feature_map(torch.zeros(1, 3, 32, 32), (4, 4)).shape == (1, 16, 1280)


@pytest.mark.parametrize("name", ["efficientnet-lite2:tiny", "efficientnet-lite2:9000"])
def test_an_implausible_size_is_rejected(name: str) -> None:
    with pytest.raises(OptionError, match="32 to 512"):
        load_teacher(name, coloured_photos(6))
