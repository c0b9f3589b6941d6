"""Exported files give what ``lkca upscale`` gives, on sizes they were not traced with; nothing wrong is left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lkca_kernels
from lkca.cli.app import app
from lkca.errors import InputError, OutputError
from lkca.export import export_model, formats
from lkca.export.check import check_sizes
from lkca.export.model import describe
from lkca.inference.array import upscale_array
from lkca.models.directory import LoadedModel

needs_onnx = pytest.mark.skipif(
    any(__import__("importlib").util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra 'export' is not installed",
)


def physical(model: LoadedModel, rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """A cube of the model's files, and what ``lkca upscale`` makes of the bands that the network sees."""
    cube = np.random.default_rng(rows).uniform(20, 4115, (model.config.bands.count, rows, cols)).astype(np.float32)
    result = upscale_array(cube, model)
    assert rows < 9 or ((result[[1, 5]] == 0).any(axis=(1, 2)) & (result[[0, 2]] < 0).any(axis=(1, 2))).all()
    return cube[model.config.bands.used], result[model.config.bands.used]


def test_a_full_disk(
    models: dict[str, LoadedModel], tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    """It ended the process, in a destructor of torch's."""
    with full_disk(3000), pytest.raises(OutputError, match=r"model.pt2: cannot be written \(File too large\)"):
        export_model(models["full"], tmp_path / "model.pt2", "pt2")
    assert not list(tmp_path.iterdir())


@needs_onnx
@pytest.mark.parametrize("kind", ["full", "shared"])
def test_onnx(models: dict[str, LoadedModel], kind: str, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    model = models[kind]
    done = export_model(model, tmp_path / "model.onnx", "onnx")
    assert done.plain and done.error <= 1e-5 and done.bytes == (tmp_path / "model.onnx").stat().st_size
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 5, "rows", "cols"]
    for rows, cols in ((1, 1), (2, 31), (18, 7)):
        cube, expected = physical(model, rows, cols)
        (found,) = session.run(None, {"cube": cube[None]})
        np.testing.assert_allclose(found[0], expected, atol=4095e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["lkca.bands"]) == [0, 1, 2, 3, 5] and metadata["lkca.scale"] == str(model.config.scale)
    assert json.loads(metadata["lkca.wavelengths_nm"])[5] == 900.0 and metadata["lkca.peak"] == "4095.0"
    written = onnx.load(done.path)
    assert [(o.domain, o.version) for o in written.opset_import] == [("", formats.ONNX_OPSET)]
    assert str(Path(lkca_kernels.__file__).parent) not in str(written)  # no paths of the exporting machine


@pytest.mark.parametrize("plain", [False, True])
def test_pt2(models: dict[str, LoadedModel], plain: bool, tmp_path: Path) -> None:
    model = models["shared"]
    export_model(model, tmp_path / "model.pt2", "pt2", plain=plain)
    extra = {formats.METADATA_FILE: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra[formats.METADATA_FILE])["lkca.halo"] == str(model.net.halo)
    ours = {str(node.target) for node in program.graph.nodes if "lkca" in str(node.target)}
    operators = ("large_kernel_branch", "local_channel_attention", "lowrank_pixel_shuffle")
    kept = {f"lkca_kernels.{op}.default" for op in operators}
    assert ours == (set() if plain else kept)
    for rows, cols in ((1, 3), (20, 9)):
        cube, expected = physical(model, rows, cols)
        found = program.module()(torch.from_numpy(cube)[None])
        np.testing.assert_allclose(found[0].numpy(), expected, atol=4095e-5)


def test_what_a_file_says_of_itself(models: dict[str, LoadedModel]) -> None:
    model = models["shared"]
    model = replace(model, config=model.config.model_copy(update={"versions": {"torch": "2.13"}}))
    told = {name.removeprefix("lkca."): text for name, text in describe(model).items()}
    assert told.pop("input").startswith("float32 (batch, bands") and told.pop("output").startswith(
        "float32 (batch, bands"
    )
    assert told.pop("format") == "lkca-export"
    assert {name: json.loads(text) for name, text in told.items()} == {
        "format_version": 1,
        "scale": 4,
        "halo": model.net.halo,
        "band_count": 6,
        "bands": [0, 1, 2, 3, 5],
        "wavelengths_nm": [400, 500, 600, 700, 800, 900],
        "fwhm_nm": [10, 11, 12, 13, 14, 15],
        "offset": 20,
        "peak": 4095,
        "degradation": {"method": "bicubic", "scale": 4, "sigma": None},
        "versions": {"torch": "2.13"},
    }


def test_sizes_that_are_compared(models: dict[str, LoadedModel]) -> None:
    for halo in (2, 3, models["full"].net.halo, 72):
        sizes = check_sizes(halo)
        assert len({size[1:] for size in sizes}) == 3 and any(max(rows, cols) < halo for _, rows, cols in sizes)
        assert any(rows % 2 and cols % 2 for _, rows, cols in sizes)


def test_a_file_that_computes_something_else_is_removed(
    models: dict[str, LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = formats.write

    def wrong_by(added: float) -> Callable[..., Callable[[torch.Tensor], torch.Tensor]]:
        def write(*args: Any, **kwargs: Any) -> Callable[[torch.Tensor], torch.Tensor]:
            run = honest(*args, **kwargs)
            return lambda cube: run(cube) + (added if len(cube) == 2 else 0)  # in the last comparison alone

        return write

    for added, words in ((1.0, r"2\.4e-04"), (float("nan"), "inf")):  # of 4095
        monkeypatch.setattr("lkca.export.run.write", wrong_by(added))
        with pytest.raises(OutputError, match=f"differ from the model's by {words}"):
            export_model(models["full"], tmp_path / "model.pt2", "pt2")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("lkca.export.run.write", lambda *args, **kwargs: lambda cube: cube)
    with pytest.raises(OutputError, match="inf"):
        export_model(models["full"], tmp_path / "model.pt2", "pt2")
    monkeypatch.setattr("lkca.export.run.write", lambda *args, **kwargs: torch.ones(3).view(2))
    with pytest.raises(OutputError, match="could not export the model"):
        export_model(models["full"], tmp_path / "model.pt2", "pt2")
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(
    models: dict[str, LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"lkca\[export\]"):
        export_model(models["full"], tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_no_compiler(models: dict[str, LoadedModel], tmp_path: Path) -> None:
    import torch._inductor.config as inductor

    compilers = inductor.patch({"cpp.cxx": ("no-such-compiler",)})
    with compilers, pytest.raises(InputError, match=r"install g\+\+"):
        export_model(models["full"], tmp_path / "model.pt2", "aoti")


def test_the_command(models: dict[str, LoadedModel], tmp_path: Path) -> None:
    def run(*args: str | Path) -> Any:
        return CliRunner().invoke(app, ["export", *map(str, args)], catch_exceptions=False)

    model, out = models["full"].path, tmp_path / "model.pt2"
    done = run(model, "--to", "pt2", "-o", out)
    assert done.exit_code == 0 and "1 × 23 × 37" in done.stdout and "uses 5 of a file's 6 bands" in done.stderr
    before = out.read_bytes()
    for arguments, words in (
        ((model, "--to", "pt2", "-o", out), "--overwrite"),
        ((model, "--to", "torchscript", "-o", tmp_path / "a.pt"), "Invalid value for '--to'"),
        ((model, "--to", "onnx", "-o", tmp_path / "a.pt2"), ".onnx"),
        ((tmp_path / "nothing", "--to", "pt2", "-o", tmp_path / "a.pt2"), "does not exist"),
        ((tmp_path, "--to", "pt2", "-o", tmp_path / "a.pt2"), "has no readable config.json"),
        (("general", "--to", "pt2", "-o", tmp_path / "a.pt2"), "adapted to each cube"),
        ((model, "--to", "pt2", "-o", tmp_path / "missing" / "a.pt2"), "does not exist"),
    ):
        refused = run(*arguments)
        assert refused.exit_code == 2 and words in refused.stderr and refused.stdout == "", refused.stderr
    assert out.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["model.pt2"]
    told = json.loads(run(model, "--to", "pt2", "-o", out, "--overwrite", "--plain", "--json").stdout)
    assert told["plain"] and told["error"] <= 1e-4 and len(told["checks"]) == 3
    with pytest.raises(InputError, match="the format 'torchscript' is unknown; choose onnx, pt2, aoti"):
        export_model(models["full"], tmp_path / "a.pt", "torchscript")  # type: ignore[arg-type]
