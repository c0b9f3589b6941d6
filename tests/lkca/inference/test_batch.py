"""Which scenes a folder holds, what their results are called, and who gets which."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from lkca.data import Cube, open_cube
from lkca.errors import InputError
from lkca.inference import SceneOptions, UpscaleReport, batch
from lkca.inference.batch import deal, find_scenes, name_outputs, upscale_scenes
from lkca.inference.ranks import Ranks


def test_scenes_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.tif", "a.npy", ".hidden.tif", "notes.txt", "c.img"):
        (tmp_path / name).write_bytes(b"x" * 100)
    (tmp_path / "c.hdr").write_text("ENVI\n")
    (tmp_path / "d.hdr").write_text("no ENVI")
    (tmp_path / "deeper.tif").mkdir()
    found, remarks = find_scenes([str(tmp_path), "elsewhere.mat::cube"])
    assert remarks == []
    assert [Path(scene).name for scene in found] == ["a.npy", "b.tif", "c.hdr", "elsewhere.mat::cube"]
    outputs = name_outputs(found, Path("out"))
    assert [str(output) for output in outputs] == ["out/a.tif", "out/b.tif", "out/c.img", "out/elsewhere.mat"]
    for name in ("out.tif", "out.vrt"):
        with pytest.raises(InputError, match=f"{name}: is a file's name"):
            name_outputs(found, Path(name))
    assert name_outputs(["a.tif"], tmp_path / "deeper.tif") == [tmp_path / "deeper.tif" / "a.tif"]
    with pytest.raises(InputError, match=r"would both become out/a\.tif"):
        name_outputs(["a.tif", "there/a.npy"], Path("out"))
    with pytest.raises(InputError, match=r"holds no cube \(.*\)$"):
        find_scenes([str(tmp_path / "deeper.tif")])


def test_what_may_be_a_cube_is_named(tmp_path: Path) -> None:
    for name in ("b.jp2", "a.vrt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"holds no cube \(.*\); name a.vrt, b.jp2 itself"):
        find_scenes([str(tmp_path)])
    (tmp_path / "a.tif").write_bytes(b"x")
    scenes, remarks = find_scenes([str(tmp_path)])
    assert scenes == [str(tmp_path / "a.tif")] and len(remarks) == 1 and "left out: a.vrt, b.jp2" in remarks[0]


def test_headers_of_no_images_are_left_out(tmp_path: Path) -> None:
    """A map of classes beside its scene was upscaled as an image of one band, a spectral library made the run fail."""
    for name, kind in (("gt.hdr", "ENVI Classification"), ("lib.hdr", "ENVI Spectral Library")):
        (tmp_path / name).write_text(f"ENVI\nfile type = {kind}\n")
    named = "gt.hdr (an ENVI classification), lib.hdr (an ENVI spectral library)"
    with pytest.raises(InputError, match=f"holds no cube .*; these are no images: {re.escape(named)}"):
        find_scenes([str(tmp_path)])
    (tmp_path / "scene.hdr").write_text("ENVI\nfile type = ENVI Standard\n")
    (tmp_path / "damaged.hdr").write_text("ENVI\nwavelength = {1,\n")  # is told when its turn comes
    (tmp_path / "a.tif").write_bytes(b"x")
    (tmp_path / "a.hdr").write_text("ENVI\nfile type = TIFF\n")  # that of the scene before
    scenes, remarks = find_scenes([str(tmp_path)])
    assert [Path(scene).name for scene in scenes] == ["a.tif", "damaged.hdr", "scene.hdr"]
    assert remarks == [f"{tmp_path}: left out, as they are no images: {named}"]


def test_results_are_called_as_their_scenes(tmp_path: Path) -> None:
    """Names may hold dots, and an ENVI cube may be named by its data file."""
    for name in (
        "flight.2020.01",
        "flight.2020.02.hdr",
        "line_img",
        "line_img.hdr",
        "x.bil",
        "x.hdr",
        "y.img",
        "z.vrt",
    ):
        (tmp_path / name).write_text("ENVI\n")
    (tmp_path / "flight.2020.01.hdr").write_text("ENVI\n")
    names = {
        "flight.2020.01.hdr": "flight.2020.01.img", "flight.2020.02.hdr": "flight.2020.02.img",
        "line_img": "line_img.img", "x.bil": "x.img", "y.img": "y.tif", "z.vrt": "z.tif", "s.v1.tif": "s.v1.tif",
    }  # fmt: skip
    outputs = name_outputs([str(tmp_path / name) for name in names], Path("out"))
    assert [output.name for output in outputs] == list(names.values())
    assert name_outputs(["a.img.hdr"], Path("out")) == [Path("out/a.img")]


def check_what_is_left_out(folder: Path, scenes: list[str], layers: list[str]) -> None:
    for name in (*scenes, *layers):
        (folder / name).write_bytes(b"ENVI\n")
    found, remarks = find_scenes([str(folder)])
    assert [Path(scene).name for scene in found] == sorted(scenes)
    assert len(remarks) == 1 and all(name in remarks[0] for name in layers)
    layer = str(folder / layers[0])
    assert find_scenes([layer]) == ([layer], [])  # whoever names it wants it


def test_what_only_goes_with_a_spectral_image_is_no_scene(tmp_path: Path) -> None:
    enmap, desis = "ENMAP01-____L2A-DT1_20220712T104302Z_001_V010402_Z", "DESIS-HSI-L2A-DT1_009-20210716T1-V0213"
    scenes = [f"{desis}-SPECTRAL_IMAGE.tif", f"{enmap}-SPECTRAL_IMAGE.TIF"]
    scenes += ["L1B-SPECTRAL_IMAGE_SWIR.TIF", "L1B-SPECTRAL_IMAGE_VNIR.TIF", "alone-QL_VNIR.TIF", "mine-QL_.tif"]
    layers = [f"{desis}-{name}" for name in ("QL_IMAGE.tif", "QL_QUALITY-2.tif", "SPECTRAL_IMAGE.hdr")]
    layers += [f"{enmap}-QL_{name}.TIF" for name in ("PIXELMASK", "QUALITY_CLOUD", "SWIR", "VNIR")]
    layers += ["L1B-QL_PIXELMASK_VNIR.TIF"]
    check_what_is_left_out(tmp_path, scenes, layers)
    (tmp_path / scenes[0]).unlink()
    assert str(tmp_path / layers[2]) in find_scenes([str(tmp_path)])[0]


def test_geometry_and_quality_of_jpls_spectrometers_are_no_scenes(tmp_path: Path) -> None:
    scenes = ["AV320230821t173024_L1B_RDN_main_d71e8b07_RDN_ORT.hdr", "EMIT_L2A_RFL_001_20230316T045133_2307503_005.nc"]
    scenes += ["ang20170228t170016_corr_v2p5_img.hdr", "ang20170228t170016_rdn_v2p5_img.hdr"]
    scenes += ["emit20220815t042838_o22703_s000_l1b_rdn_b0106_v01.hdr", "f080611t01p00r07rdn_c_sc01_ort_img.hdr"]
    scenes += ["f080611t01p00r08rdn_c_obs.hdr", "lake_loc.hdr", "lake_rfl.hdr"]  # another line's, and a user's own
    scenes += ["site_20210704T101010_loc_a_rfl.hdr", "site_20210704T101010_rfl.hdr"]
    layers = [f"ang20170228t170016_{part}.hdr" for part in ("obs_ort", "ort_glt", "ort_igm", "rdn_v2p5_loc")]
    layers += [f"AV320230821t173024_L1B_ORT_main_d71e8b07_{part}.hdr" for part in ("GLT", "IGM", "LOC_ORT", "OBS_ORT")]
    layers += [f"EMIT_{part}_001_20230316T045133_2307503_005.nc" for part in ("L1B_OBS", "L2A_MASK", "L2A_RFLUNCERT")]
    layers += ["emit20220815t042838_o22703_s000_l1b_glt_b0106_v01.hdr", "f080611t01p00r07rdn_c.glt.hdr"]
    check_what_is_left_out(tmp_path, scenes, layers)


def test_scenes_are_balanced(tmp_path: Path) -> None:
    sizes = [5, 900, 300, 400, 10, 200]
    scenes = [str(tmp_path / f"{number}.tif") for number in range(6)]
    for scene, size in zip(scenes, sizes, strict=True):
        Path(scene).write_bytes(b"x" * size)
    Path(scenes[1]).rename(tmp_path / "1.img")
    scenes[1] = str(tmp_path / "1.hdr")  # of a few bytes
    Path(scenes[1]).write_text("ENVI")
    scenes[2] += "::cube"
    shares = [deal(scenes, Ranks(rank, 2)) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == list(range(6))
    assert shares[0][0] == 1 and shares[1][:2] == [3, 2]
    assert abs(sum(sizes[n] for n in shares[0]) - sum(sizes[n] for n in shares[1])) < 20
    assert deal(scenes, Ranks()) == [1, 3, 2, 5, 4, 0]


def test_a_scene_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises; and processes of one machine share its memory, though each has scenes of its own."""
    raised = [InputError("no cube"), ValueError(), KeyError("bands")]
    found: list[UpscaleReport | Exception] = []
    asked: list[Ranks] = []

    def upscale_scene(cube: Cube, *_: object, ranks: Ranks) -> UpscaleReport:
        asked.append(ranks)
        raise raised[len(asked) - 1]

    monkeypatch.setattr(batch, "upscale_scene", upscale_scene)
    np.save(tmp_path / "cube.npy", np.ones((4, 4, 2), dtype=np.float32))
    upscale_scenes(
        ["a", "b", "c"], tmp_path / "o", None, SceneOptions(scale=2), ranks=Ranks(local=3),
        open_scene=lambda _: open_cube(tmp_path / "cube.npy"), done=lambda _, result: found.append(result),
    )  # fmt: skip
    assert asked == [Ranks(0, 1, local=3)] * 3
    assert [str(error) for error in found] == [
        "no cube",
        "b: unexpected failure (ValueError: no message)",
        "c: unexpected failure (KeyError: 'bands')",
    ]
