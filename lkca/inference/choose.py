"""Which network upscales a cube: the one given, or the general model made to fit."""

from __future__ import annotations

from lkca.data import Cube
from lkca.errors import InputError
from lkca.inference.adapt import adapt
from lkca.models.directory import LoadedModel
from lkca.models.prior import Prior

__all__ = ["model_for"]


def model_for(cube: Cube, model: LoadedModel | Prior | None, scale: int | None) -> LoadedModel | None:
    """The model for this cube; None: bicubic.

    A prior, the general model, is adapted to the cube, which is all that it sees: give it the coarse cube, never the
    truth. Raises InputError where it has no such scale.
    """
    if not isinstance(model, Prior):
        return model
    if scale is None:
        scales = ", ".join(map(str, model.scales))
        raise InputError(f"the general model needs a scale factor; give -s with one of {scales}")
    return adapt(cube, model, scale)
