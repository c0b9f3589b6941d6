"""The backbone of a trained model, for a sensor with other bands: what it does to one spectral component."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lkca.models import LKCANet
from lkca.models.directory import LoadedModel
from lkca.models.prior import Prior
from lkca.nn import LowRankUpsample

__all__ = ["backbone"]


def backbone(model: LoadedModel) -> Prior:
    """Body, head and upsampler of ``model`` as a network over one component, in the form of the shipped prior.

    A shared body already works on components: it and its head are taken as they are, and the upsampler is freed of the
    old sensor's subspace exactly (of a factorised model: as nearly as possible). A body that sees all bands together is
    restricted to grey images: equal bands in, the bands' mean out.
    """
    net = model.net
    config = net.config
    head, tail = (_component_head(net), _component_tail(net)) if config.shared else (_grey_head(net), _grey_tail(net))
    state = {f"body.{name}": value.detach() for name, value in net.body.state_dict().items()}
    names = ("width", "blocks", "kernel_size", "expansion", "window", "attended")
    origin = model.origin | {"bands": config.bands, "exact": config.shared}
    architecture = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return Prior(architecture, state | {"head.weight": head, f"tail.{config.scale}": tail}, origin)


def _analysis(net: LKCANet) -> Tensor:
    """(components, bands): the map from bands to what the body sees."""
    if isinstance(net.project, nn.Conv2d):
        return net.project.weight.detach()[:, :, 0, 0]
    return torch.eye(net.config.bands).to(net.head.weight)


def _tail_kernel(net: LKCANet) -> Tensor:
    """(bands, s², groups, width, k, k): from the features of each group to each band's sub-pixels."""
    config, layer = net.config, net.upsample
    if isinstance(layer, LowRankUpsample):
        kernel = layer.merged_weight().detach()
    elif config.shared:  # one convolution, each band from its own group
        own = layer.conv.weight.detach()
        return torch.einsum("bg,pwkl->bpgwkl", torch.eye(config.groups).to(own), own)
    else:
        kernel = layer.conv.weight.detach()
    result: Tensor = kernel.unflatten(1, (config.groups, config.width)).unflatten(0, (config.bands, config.scale**2))
    return result


def _component_head(net: LKCANet) -> Tensor:
    return net.head.weight.detach()


def _component_tail(net: LKCANet) -> Tensor:
    """The upsampler U of one component, where the kernel is synthesis[band, component] · U: its best rank-one part.

    The synthesis is scaled to undo the analysis.
    """
    kernel = _tail_kernel(net)
    matrix = kernel.permute(0, 2, 1, 3, 4, 5).flatten(0, 1).flatten(1)  # (bands · components, s² · width · k²)
    with torch.random.fork_rng([]):  # it starts from random vectors: the same ones each time
        torch.default_generator.manual_seed(0)
        left, value, right = torch.svd_lowrank(matrix, q=min(4, *matrix.shape), niter=4)
    synthesis = (left[:, 0] * value[0]).unflatten(0, (kernel.shape[0], kernel.shape[2]))
    analysis = _analysis(net)
    scale = torch.trace(analysis @ synthesis) / analysis.shape[0]
    return (scale * right[:, 0]).reshape(kernel.shape[1], *kernel.shape[3:])


def _grey_head(net: LKCANet) -> Tensor:
    """The response to an image whose bands are all alike."""
    weight = net.head.weight.detach()
    return torch.einsum("wikl,ib->wkl", weight, _analysis(net))[:, None]


def _grey_tail(net: LKCANet) -> Tensor:
    """The mean over the bands that come out."""
    return _tail_kernel(net).mean(0)[:, 0]
