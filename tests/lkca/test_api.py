"""The public names of ``lkca``: all there, loaded on use, nothing heavy before."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
import torch

import lkca


@pytest.mark.parametrize("name", lkca.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(lkca, name) is getattr(lkca, name)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = lkca.nonsense


def test_importing_is_light() -> None:
    code = "import sys, lkca; lkca.__version__; print(sorted({'torch', 'numpy', 'rasterio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["lkca", "lkca_kernels"])
def test_every_module_says_what_is_public(package: str) -> None:
    """``__all__`` lists what is there, in each module that can be imported here."""
    root = importlib.import_module(package)
    for info in pkgutil.walk_packages(root.__path__, f"{package}."):
        if info.name.endswith("__main__") or ".triton" in info.name or "._" in info.name:
            continue
        module = importlib.import_module(info.name)
        missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
        assert not missing, f"{info.name} has no {missing}"


def test_packages_import_in_one_direction() -> None:
    """By ``from lkca.package ...``, within functions and for types too; CycleError names who imports whom."""
    root = Path(lkca.__file__).parent
    needs: dict[str, set[str]] = {}
    for path in root.rglob("*.py"):
        package = path.relative_to(root).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lkca."):
                needs.setdefault(package, set()).add(node.module.split(".")[1])
    order = list(TopologicalSorter({name: found - {name} for name, found in needs.items()}).static_order())
    assert {"data", "models", "lowrank", "inference", "training", "fitting"} < set(order)


def test_what_other_modules_take_is_public() -> None:
    """By ``from lkca... import name``: a name that ``__all__`` lacks is a module's own."""
    root = Path(lkca.__file__).parent
    modules = {".".join(path.relative_to(root.parent).with_suffix("").parts): path for path in root.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    trees = {name: ast.parse(path.read_text()) for name, path in modules.items()}
    public = {
        name: set(ast.literal_eval(node.value))
        for name, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets)
    }
    private = [
        f"{name}: {node.module}.{alias.name}"
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in public
        for alias in node.names
        if alias.name not in public[node.module] and f"{node.module}.{alias.name}" not in modules
    ]
    assert len(public) > 100 and not private


def test_kernels_know_nothing_of_lkca() -> None:
    code = "import sys, lkca_kernels; print([m for m in sys.modules if m == 'lkca' or m.startswith('lkca.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_errors_are_one_line_of_bounded_length() -> None:
    """A file's own names reach the sentence: no command to the terminal, no page of them."""
    error = lkca.InputError("x.mat: holds \x1b[2J\n" + "name " * 1000 + "; name one")
    assert str(error).startswith("x.mat: holds \\x1b[2J\\nname") and str(error).endswith("; name one")
    assert len(str(error)) < 1000


def test_the_default_dtype_of_torch_plays_no_part(
    tmp_path: Path, double_by_default: Callable[[], AbstractContextManager[None]]
) -> None:
    """Programs of scientists set it to float64; what lkca makes for itself stays float32, and draws what it drew."""
    from lkca.evaluation import evaluate_model
    from lkca.export import export_model
    from lkca.models.directory import LoadedModel
    from lkca.models.shipped import find_model
    from lkca.training import Recipe, fit

    with lkca.synthetic_scene(rows=48, cols=40, bands=4) as cube:
        values = cube.read()
    cave = find_model("cave31", 2)
    assert isinstance(cave, LoadedModel)

    def made(name: str) -> list[np.ndarray]:
        scene = lkca.Cube.from_array(values, source="scene")
        fits = [fit([torch.from_numpy(values)], 2, minutes=None, max_steps=3)]
        fits += [fit([torch.from_numpy(values)], 5, minutes=None, max_steps=3, recipe=Recipe(prior=False, width=4))]
        results = [lkca.upscale(values, scale=2), lkca.upscale(values, "bicubic", scale=2)]
        results += [np.float32(evaluate_model(scene, find_model("general"), 2).scores["model"].mpsnr)]
        assert export_model(cave, tmp_path / name, "pt2", plain=True).error < 1e-5
        assert all(parameter.dtype is torch.float32 for done in fits for parameter in done.net.parameters())
        return results + [parameter.detach().numpy() for parameter in fits[0].net.parameters()]

    expected = made("single.pt2")
    with double_by_default():
        found = made("double.pt2")
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)
