"""Which network upscales a cube: the one given, or the general model made to fit."""

from __future__ import annotations

import os

from lkca.data import Cube
from lkca.errors import InputError
from lkca.inference.adapt import adapt
from lkca.inference.checks import check_scale
from lkca.models.directory import LoadedModel
from lkca.models.prior import Prior
from lkca.models.shipped import find_model

__all__ = ["fitted_model", "model_for"]


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


def fitted_model(model: str | os.PathLike[str], scale: int | None = None) -> LoadedModel:
    """The model directory or shipped model of that name, for what has no cube to adapt a model to.

    Raises InputError where there is none, where its scale factor is another, and for the general model.
    """
    found = find_model(model, scale)
    if isinstance(found, Prior):
        raise InputError(
            f"the model '{model}' is adapted to each cube that it sees; make a directory of it for one sensor with "
            f"'lkca models {model} --for FILE -s 4 -o DIR', and give that"
        )
    check_scale(found, scale)
    return found
