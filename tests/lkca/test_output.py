"""What cannot be written is refused at the start, for cubes and pictures alike; what fails leaves the old file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lkca
from lkca.data import CubeMeta, write_cube
from lkca.errors import InputError, OutputError
from lkca.models.directory import check_model_output, load_model
from lkca.output import check_output, written_aside
from lkca.training.config import DataConfig, TrainConfig
from lkca.training.trainer import check_run


def refused(path: Path, message: str, **options: object) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_output(path, **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_new_name_in_a_folder_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output(tmp_path / "x.tif", inputs=[tmp_path / "y.tif", "z.mat::cube"])
    monkeypatch.chdir(tmp_path)
    check_output("x.tif")
    assert not list(tmp_path.iterdir())


def test_what_exists_needs_overwrite(tmp_path: Path) -> None:
    file = tmp_path / "x.tif"
    file.touch()
    refused(file, "exists already; give --overwrite to replace it or choose another name")
    check_output(file, overwrite=True)


def test_inputs_are_never_overwritten(tmp_path: Path) -> None:
    file, link, hard = tmp_path / "x.mat", tmp_path / "link.mat", tmp_path / "hard.mat"
    file.touch()
    link.symlink_to(file)
    os.link(file, hard)
    for output in (file, link, hard):
        refused(output, "is an input of the same command", inputs=[f"{file}::cube"], overwrite=True)
    refused(tmp_path / "new.tif", "is an input", inputs=[tmp_path / "." / "new.tif"])  # neither exists yet


def test_a_utf8_name_in_another_locale_is_not_called_wrong() -> None:
    """Python of an ASCII or Latin-1 locale reads its bytes as something else; LC_ALL=C alone switches UTF-8 mode on."""
    code = "import sys; from pathlib import Path; from lkca.output import check_utf8; check_utf8(Path(sys.argv[1]))"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = subprocess.run(
        [sys.executable, "-P", "-c", code, "Zürich.tif"], env={**os.environ, **locale}, capture_output=True, text=True
    )
    assert "set LC_ALL=C.UTF-8" in told.stderr and "rename it" not in told.stderr


def test_names_that_are_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of outputs, pages and models too: tags, headers and JSON hold nothing else, which failed after all the work."""
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"M\xfcnchen")
    for output in (f"{name}.tif", f"{name}.img", f"{name}.npz"):
        with pytest.raises(InputError, match="not UTF-8; rename it"):
            lkca.upscale(np.ones((3, 4, 5), dtype=np.float32), "bicubic", scale=2, output=output)
    with pytest.raises(InputError, match="not UTF-8"):
        check_output(f"{name}.html")
    with pytest.raises(InputError, match="not UTF-8"):
        check_model_output(name, overwrite=False)
    with pytest.raises(InputError, match="not UTF-8"):
        check_output("\ud800.tif")  # nor any bytes of a file system's
    assert not list(tmp_path.iterdir())
    Path(name).mkdir()
    with pytest.raises(InputError, match="not UTF-8"):
        load_model(name)


def test_a_dangling_link_exists(tmp_path: Path) -> None:
    """It would be replaced, or, worse, be followed to wherever it leads."""
    link, elsewhere = tmp_path / "x.tif", tmp_path / "elsewhere.tif"
    link.symlink_to(elsewhere)
    refused(link, "exists already")
    with pytest.raises(InputError, match="exists already"):
        write_cube(link, np.ones((2, 3, 3), np.float32), CubeMeta())
    write_cube(link, np.ones((2, 3, 3), np.float32), CubeMeta(), overwrite=True)
    assert not link.is_symlink() and link.is_file() and not elsewhere.exists()


def test_a_link_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    (tmp_path / "precious.tif").write_text("mine")
    (tmp_path / "x.tif").symlink_to(tmp_path / "precious.tif")
    write_cube(tmp_path / "x.tif", np.ones((2, 3, 3), np.float32), CubeMeta(), overwrite=True)
    assert (tmp_path / "precious.tif").read_text() == "mine" and not (tmp_path / "x.tif").is_symlink()


def test_directories_and_missing_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path, "is a directory; give the name of a file", overwrite=True)
    refused(tmp_path / "no" / "x.tif", "the folder .*no does not exist; create it")
    refused(tmp_path / "file" / "x.tif", "the folder .*file is not a directory")


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        if os.geteuid() == 0:  # root may write everywhere: ask in another's place
            monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
        says = "no permission to write in .*locked; choose another folder"
        refused(folder / "x.tif", says, overwrite=True)
        with pytest.raises(InputError, match=says):
            check_model_output(folder / "model", overwrite=True)
        config = TrainConfig(scale=2, data=DataConfig(scenes=["x.tif"]))
        for run in (folder / "run", folder):
            with pytest.raises(InputError, match=says):
                check_run(run, config, resume=False, overwrite=True)
    finally:
        folder.chmod(0o755)


def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for text in ("old", "new"):
        with written_aside(file) as aside:
            aside.write_text(text)
            assert not file.exists() or file.read_text() == "old"
    for error, raised in ((OSError(28, "No space left on device"), OutputError), (KeyError("x"), KeyError)):
        with pytest.raises(raised, match="x"), written_aside(file) as aside:
            aside.write_text("half")
            raise error
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]
