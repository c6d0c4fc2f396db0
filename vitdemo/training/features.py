"""Running a network over a photo set, and evaluating frozen features: k nearest neighbours and a linear probe."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitdemo.training.augment import evaluation_view, normalised
from vitdemo.training.data import PhotoSet


@torch.no_grad()
def predict(
    photos: PhotoSet, size: int, run: Callable[[Tensor], Tensor], device: torch.device, batch: int = 64
) -> Tensor:
    """Outputs of `run` on the centre crop of every photo: `[N, ...]` float32 on the CPU."""
    results = []
    for start in range(0, len(photos), batch):
        views = [torch.from_numpy(evaluation_view(image, size)) for image in photos.images[start : start + batch]]
        pixels = torch.stack(views).permute(0, 3, 1, 2)
        results.append(run(normalised(pixels.to(device))).float().cpu())
    return torch.cat(results)


def accuracy(logits: Tensor, photos: PhotoSet) -> float:
    """Top-1 accuracy on the labelled photos."""
    labels = torch.from_numpy(photos.labels)
    known = labels >= 0
    return float((logits.argmax(dim=-1)[known] == labels[known]).float().mean())


def nearest_neighbours(
    train: Tensor, train_labels: Tensor, test: Tensor, classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Votes of the k nearest training features by cosine, weighted by `exp(similarity / temperature)`: `[N, K]`.

    Wu et al. 2018, arXiv:1805.01978; DINO's k-NN evaluation.
    """
    similarity = nn.functional.normalize(test, dim=-1) @ nn.functional.normalize(train, dim=-1).T
    weights, indices = similarity.topk(min(k, len(train)), dim=-1)
    votes = torch.zeros(len(test), classes)
    return votes.scatter_add_(1, train_labels[indices], (weights / temperature).exp())


def linear_probe(
    train: Tensor,
    labels: Tensor,
    classes: int,
    penalty: float = 1e-3,
    steps: int = 1000,
    balance: float = 0.0,
) -> nn.Linear:
    """Multinomial logistic regression on frozen features `[N, D]`, standardised, by full-batch L-BFGS in float64.

    Without `balance` it converges to what scikit-learn's LogisticRegression finds with `C = 1 / (2 * N * penalty)`.

    Args:
        penalty: factor of the sum of the squared weights, beside the mean cross-entropy.
        steps: iterations at most.
        balance: 1 minimises the mean error of the classes rather than of the photos, by logit adjustment (Menon et al. 2021,
            arXiv:2007.07314).

    Returns:
        A layer in the features' dtype that takes raw features.
    """
    features = train.double()
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    # A feature that never changes tells nothing.
    std = torch.where(std > 1e-6 * (1 + mean.abs()), std, 1.0)
    scaled = (features - mean) / std
    head = nn.Linear(train.shape[1], classes, dtype=torch.float64, device=train.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    counts = torch.bincount(labels, minlength=classes).double()
    # A class without photos has no share to balance.
    adjustment = balance * (counts.clamp_min(1) / counts.sum()).log()
    optimiser = torch.optim.LBFGS(
        head.parameters(),
        max_iter=steps,
        history_size=10,
        tolerance_grad=1e-5,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(head(scaled) + adjustment, labels) + penalty * head.weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        # Fold the standardisation into the weights: the probe takes raw features.
        head.weight.div_(std)
        head.bias.sub_(head.weight @ mean)
    return head.to(train.dtype).requires_grad_(False)


def knn_score(
    network: nn.Module, features: Callable[[Tensor], Tensor], train: PhotoSet, test: PhotoSet, size: int
) -> float:
    """k-NN accuracy of frozen features, with the labelled training photos as neighbours."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    known = train.labelled()
    found = [predict(photos, size, features, device) for photos in (known, test)]
    network.train(training)
    votes = nearest_neighbours(found[0], torch.from_numpy(known.labels), found[1], len(train.classes))
    return accuracy(votes, test)
