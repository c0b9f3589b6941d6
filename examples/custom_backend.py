"""A backend of your own, here in NumPy, serves one operator: ``python examples/custom_backend.py``.

The contract (which functions, which arguments, what may be relied on) is in the docstring of ``lkca_kernels.backends``.
Schema, checks, autograd, autocast and torch.compile stay lkca's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import lkca_kernels
from lkca_kernels.reference.bicubic import bicubic_upsample


def unavailable() -> str | None:
    """None: NumPy is always there."""
    return None


def can_run(op: str, device: torch.device, dtype: torch.dtype, upscale_factor: int) -> str | None:
    """None where this backend serves the call, else the reason, which ``explain`` shows."""
    if op != "pixel_shuffle_epilogue":
        return f"has no {op}"
    if device.type != "cpu" or dtype != torch.float32:
        return f"serves float32 on the CPU, not {dtype} on {device.type}"
    return None


def pixel_shuffle_epilogue_fwd(
    y: Tensor,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: Any,
    out: Tensor | None = None,
) -> Tensor:
    batch, channels, h, w = y.shape
    s, bands = upscale_factor, channels // upscale_factor**2
    phases = y.numpy().reshape(batch, bands, s, s, h, w).transpose(0, 1, 4, 2, 5, 3)
    result = phases.reshape(batch, bands, h * s, w * s)
    if gate is not None:
        result = result * gate.numpy()[:, :, None, None]
    if skip is not None:
        fine = skip if skip.shape[2:] == result.shape[2:] else bicubic_upsample(skip, s, skip_bicubic)
        result = result + fine.numpy()
    served = torch.from_numpy(np.ascontiguousarray(result))
    return served if out is None else out.copy_(served)


def pixel_shuffle_epilogue_bwd(
    grad_out: Tensor,
    y: Tensor,
    gate: Tensor | None,
    skip: Tensor | None,
    *,
    upscale_factor: int,
    skip_bicubic: Any,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    grad_y = grad_gate = grad_skip = None
    if needs[0]:
        coarse = torch.nn.functional.pixel_unshuffle(grad_out, upscale_factor)
        grad_y = coarse if gate is None else coarse * gate.repeat_interleave(upscale_factor**2, 1)[:, :, None, None]
    if needs[1]:
        grad_gate = (grad_out * torch.nn.functional.pixel_shuffle(y, upscale_factor)).sum((2, 3))
    if needs[2]:  # asked for a low-resolution skip only: the adjoint of its bicubic upsampling
        assert skip is not None
        with torch.enable_grad():
            coarse_skip = skip.detach().requires_grad_()
            fine = bicubic_upsample(coarse_skip, upscale_factor, skip_bicubic)
        (grad_skip,) = torch.autograd.grad(fine, coarse_skip, grad_out)
    return grad_y, grad_gate, grad_skip


class NumpyBackend:
    """A module of its own would do as well: only the functions count."""

    unavailable = staticmethod(unavailable)
    can_run = staticmethod(can_run)
    pixel_shuffle_epilogue_fwd = staticmethod(pixel_shuffle_epilogue_fwd)
    pixel_shuffle_epilogue_bwd = staticmethod(pixel_shuffle_epilogue_bwd)


def main() -> None:
    lkca_kernels.register_backend("numpy_example", NumpyBackend())
    torch.manual_seed(0)
    y = torch.randn(2, 5 * 9, 6, 7, requires_grad=True)
    gate, skip = torch.rand(2, 5, requires_grad=True), torch.rand(2, 5, 6, 7, requires_grad=True)
    results = {}
    for name in ("reference", "numpy_example"):
        fine = lkca_kernels.pixel_shuffle_epilogue(y, gate, skip, upscale_factor=3, backend=name)
        results[name] = [fine, *torch.autograd.grad(fine.square().sum(), (y, gate, skip))]
    torch.testing.assert_close(results["numpy_example"], results["reference"], rtol=1e-4, atol=1e-4)
    print("forward and gradients agree with the reference")
    print(lkca_kernels.explain("pixel_shuffle_epilogue", y, upscale_factor=3))


if __name__ == "__main__":
    main()
