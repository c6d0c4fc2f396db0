"""One attribution method on one batch: its forward pass, its gradients, then the pure function."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from vitdemo.attribution import grad_cam, grad_rollout, legrad, relevance, rollout, rollout_vit_explain, similarity
from vitdemo.errors import OptionError
from vitdemo.models.attention_tap import record_attention
from vitdemo.models.layers import final_norm, head_of, norms, read_out, watching
from vitdemo.models.loading import Classifier
from vitdemo.options.explain import require_patch
from vitdemo.types import Attribution, Capture

LEGRAD_LAYERS = 2
"""The last ones, as by default in LeGrad's published code (https://github.com/WalBouss/LeGrad, `layer_index=-2`)."""


def attribute(
    model: Classifier, pixels: Tensor, request: Attribution
) -> tuple[Tensor | None, Tensor, list[int] | None]:
    """Logits and maps of images `[B, 3, H, W]`.

    Returns:
        Logits `[B, K]` or None, maps `[B, P]` over the patches, and the class that each map explains, or None.

    Raises:
        OptionError: there is no class of that rank, or no such patch.
    """
    patches = math.prod(model.spec.grid_of(pixels.shape[2], pixels.shape[3]))
    prefix = model.spec.num_prefix_tokens
    if request.method == "rollout":
        with torch.no_grad(), record_attention(Capture(queries=True)) as record:
            logits = model(pixels)
            start = read_out(model, patches)
            if request.variant == "vit-explain":
                maps = rollout_vit_explain(record.queries, start, request.fusion, request.discard)
            else:
                maps = rollout(record.queries, start, request.fusion, request.discard, class_token=prefix > 0)
        return logits, maps[:, prefix:], None
    if request.method == "similarity":
        require_patch(request.query, patches)
        with torch.no_grad(), watching([_last_features(model)], inputs=False) as seen:
            logits = model(pixels)
        return logits, similarity(_places(seen[-1], prefix), request.query), None
    return _class_specific(model, pixels, request, patches)


@contextmanager
def watching_features(model: Classifier, request: Capture) -> Iterator[list[Tensor]]:
    """Tokens before and after the last normalisation of the forward pass in this block, if features are wanted.

    Of a CNN, the cells of its last stage, twice: nothing normalises them.
    """
    if not request.features:
        yield []
        return
    if not model.spec.readouts:
        with watching([_last_features(model)], inputs=False) as seen:
            yield seen
        seen[:] = [_places(seen[-1], 0)] * 2
        return
    norm = [final_norm(model.network)]
    with watching(norm) as seen, watching(norm, inputs=False) as after:
        yield seen
    seen += after


@contextmanager
def watching_pooled(model: Classifier, request: Capture) -> Iterator[list[Tensor]]:
    """`[B, D]`, what a linear probe reads of the forward pass in this block, if it is wanted."""
    found: list[Tensor] = []
    if not request.pooled:
        yield found
        return
    handle = model.encoder.register_forward_hook(lambda module, inputs, outputs: found.append(model.pooled(outputs)))
    try:
        yield found
    finally:
        handle.remove()


def _class_specific(
    model: Classifier, pixels: Tensor, request: Attribution, patches: int
) -> tuple[Tensor, Tensor, list[int]]:
    attends = request.method != "grad-cam"
    prefix = model.spec.num_prefix_tokens
    # The graph begins at the pixels: the weights need no gradients of their own.
    pixels = pixels.detach().requires_grad_()
    watched = _grad_cam_features(model) if not attends else None
    layers = [*norms(model.network)[1:], final_norm(model.network)] if request.method == "legrad" else []
    with (
        torch.enable_grad(),
        record_attention(Capture(gradients=attends)) as record,
        watching([watched] if watched is not None else layers, inputs=watched is None) as seen,
    ):
        logits = model(pixels)
        assert logits is not None
        targets = targets_of(logits, request)
        rows = torch.arange(len(pixels), device=pixels.device)
        columns = torch.tensor(targets, device=pixels.device)
        score = logits.float()[rows, columns].sum()
        if not attends:
            (gradient,) = torch.autograd.grad(score, [seen[-1]])
            maps = grad_cam(_places(seen[-1].detach(), prefix).float(), _places(gradient, prefix).float())
            return logits.detach(), maps, targets
        if request.method == "legrad":
            head = head_of(model.network, model.probe, prefix, model.spec.pooling == "mean")
            found = []
            every = request.variant == "all-layers"
            # A copy: the head calls a module that is being watched.
            for tokens, attention in list(zip(seen, record.attentions, strict=True))[0 if every else -LEGRAD_LAYERS :]:
                # Whichever tokens the head reads, it reads their mean.
                read = tokens if every else tokens.mean(dim=1, keepdim=True).expand_as(tokens)
                own = head(read).float()[rows, columns].sum()
                found.append(torch.autograd.grad(own, [attention], retain_graph=True)[0])
            return logits.detach(), legrad(found)[:, prefix:], targets
        gradients = torch.autograd.grad(score, record.attentions)
    attentions = [attention.detach() for attention in record.attentions]
    maps = _COMBINED[request.method](attentions, gradients, read_out(model, patches).to(pixels.device))
    return logits.detach(), maps[:, prefix:], targets


_COMBINED = {"relevance": relevance, "grad-rollout": grad_rollout}
"""Methods of the attention of all layers and its gradients."""


def targets_of(logits: Tensor, request: Attribution) -> list[int]:
    """The class to be explained, for each image.

    Raises:
        OptionError: there is no such class, or none of that rank.
    """
    classes = logits.shape[-1]
    wanted = request.rank if request.target is None else request.target + 1
    if not 1 <= wanted <= classes:
        raise OptionError(f"There is no such class: this model has {classes} of them.")
    if request.target is not None:
        return [request.target] * len(logits)
    found: Sequence[int] = logits.float().topk(request.rank).indices[:, -1].tolist()
    return list(found)


def _grad_cam_features(model: Classifier) -> torch.nn.Module:
    """The module whose output Grad-CAM weighs: a CNN's last stage, a transformer's input of the last block.

    The last block's output has no gradient at the patches when only the class token is read.
    """
    if model.spec.readouts:
        return norms(model.network)[-1]
    return _last_features(model)


def _last_features(model: Classifier) -> torch.nn.Module:
    if model.spec.readouts:
        return final_norm(model.network)
    return model.network.base_model.get_submodule("encoder")


def _places(features: Tensor, prefix: int) -> Tensor:
    """`[B, P, C]`: the patch tokens of `[B, N, C]`, or the cells of a CNN's map `[B, C, h, w]`."""
    return features.flatten(2).transpose(1, 2) if features.dim() == 4 else features[:, prefix:]
