"""Masked autoencoder: He et al. 2022, arXiv:2111.06377, as transformers' network with a given mask.

transformers draws the mask itself, and shuffles the patches even at a mask ratio of 0, so that no map fits the image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import ViTMAEForPreTraining

from vitdemo.errors import OptionError
from vitdemo.models.position_embeddings import override_class


def accept_masks(network: ViTMAEForPreTraining) -> None:
    """Make the network take a mask as its `noise` argument; without one, all patches are visible and in order."""
    override_class(network.vit.embeddings, _Masked)


def reconstruct(network: ViTMAEForPreTraining, pixels: Tensor, hidden: Tensor) -> Tensor:
    """Reconstruct hidden patches.

    Args:
        network: after `accept_masks`.
        pixels: `[B, 3, H, W]` float32, normalised, of the network's input size.
        hidden: `[B, h, w]` bool, equally many per image, and not all.

    Returns:
        `[B, 3, H, W]` float32: the pixels, with the decoder's prediction at hidden patches. The prediction of a network trained
        with `norm_pix_loss` is denormalised by the true patch's mean and variance, as in the authors' demo.

    Raises:
        OptionError: the pixels have another size.
    """
    side = network.config.image_size
    if tuple(pixels.shape[2:]) != (side, side):
        raise OptionError(f"This model reconstructs images of {side} x {side} pixels only; its processor makes others.")
    mask = hidden.flatten(1).to(pixels.device)
    predicted = network(pixels.to(network.dtype), noise=mask).logits.float()
    true = network.patchify(pixels)
    if network.config.norm_pix_loss:
        predicted = predicted * (true.var(dim=-1, keepdim=True) + 1e-6).sqrt() + true.mean(dim=-1, keepdim=True)
    filled: Tensor = network.unpatchify(torch.where(mask[..., None], predicted, true))
    return filled


class _Masked:
    def random_masking(self, sequence: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Visible tokens, the mask `[B, N]` with 1 where hidden, and the indices that restore the order."""
        batch, length, width = sequence.shape
        device = sequence.device
        mask = torch.zeros(batch, length, device=device) if noise is None else noise.to(device).float()
        order = mask.argsort(dim=1, stable=True)
        visible = length - int(mask[0].sum())
        kept = sequence.gather(1, order[:, :visible, None].expand(-1, -1, width))
        return kept, mask, order.argsort(dim=1)
