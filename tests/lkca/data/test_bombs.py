"""Files that claim, or unpack to, far more than they hold: refused, or read in bounded memory, before memory is taken.

All are opened in one process whose address space ends 500 MiB above what its imports need, so that an allocation of
what a file claims is an error there and not a dead machine.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import scipy.io

from lkca.data import open_cube
from lkca.errors import InputError

CUBE = np.random.default_rng(0).integers(0, 1000, (12, 9, 5)).astype(np.uint16)
MARGIN_MIB = 500
READER = """
import json, resource, sys
from peak import peak_bytes
from lkca.data import Window, open_cube
from lkca.errors import InputError

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + MARGIN * 2**20,) * 2)
for path in sys.argv[1:]:
    before = peak_bytes()
    try:
        with open_cube(path) as cube:
            outcome = f"read {cube.read(Window(0, 0, 2, 2)).shape}"
    except InputError as error:
        outcome = str(error)
    grown = (peak_bytes() - before) >> 20
    print(json.dumps([outcome, grown]))
"""


def envi_header(folder: Path) -> Path:
    (folder / "x.img").write_bytes(bytes(48))
    (folder / "x.hdr").write_text(
        "ENVI\nsamples = 1000000\nlines = 1000000\nbands = 2\ndata type = 2\ninterleave = bsq\n"
    )
    return folder / "x.img"


def envi_long_list(folder: Path) -> Path:
    """A band list and a band count without end."""
    (folder / "x.img").write_bytes(bytes(48))
    wavelengths = "wavelength = {" + "1," * 2_000_000 + "1}\n"
    (folder / "x.hdr").write_text(
        "ENVI\nsamples = 1\nlines = 1\nbands = 100000000000\ndata type = 2\ninterleave = bsq\n" + wavelengths
    )
    return folder / "x.img"


def npy_shape(folder: Path) -> Path:
    np.save(folder / "x.npy", np.zeros((2, 2, 2)))
    raw = (folder / "x.npy").read_bytes().replace(b"(2, 2, 2)", b"(9999999, 9999, 99)")
    (folder / "x.npy").write_bytes(raw)
    return folder / "x.npy"


def npz_shape(folder: Path) -> Path:
    npy = npy_shape(folder).read_bytes()
    with zipfile.ZipFile(folder / "x.npz", "w") as archive:
        archive.writestr("cube.npy", npy)
    return folder / "x.npz"


def npz_zeros(folder: Path) -> Path:
    """Honest about 1 GiB that packs into 5 MiB."""
    head = npy_head("|u1", (2**15, 2**15, 1))
    with (
        zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("cube.npy", "w") as entry,
    ):
        entry.write(head)
        for _ in range(2**30 // 2**26):
            entry.write(bytes(2**26))
    return folder / "x.npz"


def npz_header(folder: Path) -> Path:
    """An array header that claims 2 GiB of text, 200 MiB of which are there, packed."""
    with zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("cube.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + bytes(200 * 2**20))
    return folder / "x.npz"


def npz_many(folder: Path) -> Path:
    """A small cube among many arrays that nobody asked for, 640 MiB of them."""
    with zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(160):
            archive.writestr(f"a{number}.npy", npy_head("|u1", (2**22 - 4096,)) + bytes(2**22 - 4096))
        archive.writestr("cube.npy", npy_head("<u2", CUBE.shape) + CUBE.tobytes())
    return folder / "x.npz"


def npy_head(dtype: str, shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def mat_shape(folder: Path) -> Path:
    scipy.io.savemat(folder / "x.mat", {"cube": CUBE})
    return patched(folder / "x.mat", i4(*CUBE.shape), i4(100000, 100000, 90))


def mat_element(folder: Path) -> Path:
    """The right shape, but data that claim 2 GiB."""
    scipy.io.savemat(folder / "x.mat", {"cube": CUBE})
    return patched(folder / "x.mat", i4(4, CUBE.nbytes), i4(4, 2**31 - 8))


def mat_small_element(folder: Path) -> Path:
    """The same in a companion, which is read with every cube."""
    scipy.io.savemat(folder / "x.mat", {"wavelength": np.linspace(400.5, 900.5, 5), "cube": CUBE})
    return patched(folder / "x.mat", i4(9, 40), i4(9, 2**31 - 8))


def mat_text(folder: Path) -> Path:
    """Our own metadata text, of a claimed length of a thousand million."""
    scipy.io.savemat(folder / "x.mat", {"cube": CUBE, "lkca_meta": "x" * 77})
    return patched(folder / "x.mat", i4(1, 77), i4(1, 10**9))


def i4(*values: int) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


def patched(file: Path, old: bytes, new: bytes) -> Path:
    raw = file.read_bytes()
    assert raw.count(old) == 1
    file.write_bytes(raw.replace(old, new))
    return file


def hdf5_unfilled(folder: Path, name: str = "x.h5") -> Path:
    with h5py.File(folder / name, "w") as h5:
        h5.create_dataset("cube", shape=(10**6, 10**6, 400), dtype="f4", chunks=(8, 8, 8), fillvalue=-9999)
        h5["cube"].attrs["_FillValue"] = -9999.0
    return folder / name


def hdf5_one_chunk(folder: Path) -> Path:
    hdf5_unfilled(folder)
    with h5py.File(folder / "x.h5", "r+") as h5:
        h5["cube"][0, 0, 0] = 1
    return folder / "x.h5"


def mat73_unfilled(folder: Path) -> Path:
    return hdf5_unfilled(folder, "x.mat")


def hdf5_large_chunk(folder: Path, name: str = "x.h5", dataset: str = "cube") -> Path:
    """A cube of 128 KiB in one packed chunk of 2 GiB."""
    with h5py.File(folder / name, "a") as h5:
        cube = h5.create_dataset(
            dataset, (64, 64, 8), "f4", maxshape=(None, None, None), chunks=(1024, 1024, 512), compression="gzip"
        )
        cube.id.write_direct_chunk((0, 0, 0), b"packed")
    return folder / name


def mat73_large_chunk(folder: Path) -> Path:
    return hdf5_large_chunk(folder, "x.mat")


def hdf5_companions(folder: Path) -> Path:
    """A small cube among companions and coordinates that claim gigabytes."""
    with h5py.File(folder / "x.h5", "w") as h5:
        h5["cube"] = CUBE
        h5.create_dataset("Map_Info", (10**9,), "S16")
        h5.create_dataset("EPSG Code", (10**9,), "S16")
        h5.create_dataset("wavelength", (5,), "f8", maxshape=(None,), chunks=(2**28,), compression="gzip")
        for axis, name in enumerate("yx"):
            h5.create_dataset(name, (10**9,), "f8").make_scale()
            h5["cube"].dims[axis].attach_scale(h5[name])
    return folder / "x.h5"


def tiff_sparse(folder: Path) -> Path:
    return tiff(folder, 200000, 100, "BAND")


def tiff_large_block(folder: Path) -> Path:
    """One block of 16384 x 16384 x 4 float samples: 4 GiB for any sample of it."""
    file = tiff(folder, 16384, 4, "PIXEL")
    with file.open("ab") as stream:
        stream.write(bytes(2**20))  # so that the claim is not beyond all compression
    return file


def tiff(folder: Path, size: int, bands: int, interleave: str) -> Path:
    with rasterio.open(
        folder / "x.tif", "w", driver="GTiff", height=size, width=size, count=bands, dtype="float32", nodata=0,
        tiled=True, blockxsize=16384, blockysize=16384, SPARSE_OK=True, BIGTIFF="YES", interleave=interleave,
        compress="deflate", crs="EPSG:32633", transform=rasterio.Affine(2, 0, 0, 0, -2, 0),
    ):  # fmt: skip
        pass
    return folder / "x.tif"


def vrt(folder: Path) -> Path:
    """A mosaic of 3.6 TiB without sources, in blocks of 4 GiB."""
    (folder / "x.vrt").write_text(
        '<VRTDataset rasterXSize="1000000" rasterYSize="1000000">'
        '<VRTRasterBand dataType="Float32" band="1" blockXSize="32768" blockYSize="32768"/></VRTDataset>'
    )
    return folder / "x.vrt"


REFUSED: list[tuple[Callable[[Path], Path], str]] = [
    (envi_header, r"is truncated: holds 48 bytes.* claims"),
    (envi_long_list, "lists 2000001 values for 100000000000 bands"),
    (npy_shape, "claims"),
    (npz_shape, "claims"),
    (npz_zeros, r"loaded whole\) needs 1.0 GiB"),
    (npz_header, "cannot be read"),
    (mat_shape, "claims"),
    (mat_element, "damaged"),
    (mat_small_element, "damaged"),
    (mat_text, "damaged"),
    (hdf5_unfilled, "claims"),
    (hdf5_one_chunk, "claims"),
    (mat73_unfilled, "claims"),
    (hdf5_large_chunk, r"each of its chunks needs 2.0 GiB"),
    (mat73_large_chunk, r"each of its chunks needs 2.0 GiB"),
    (tiff_sparse, "claims"),
    (tiff_large_block, r"each of its blocks \(16384 x 16384 pixels\) needs 4.0 GiB"),
]
BOUNDED: list[Callable[[Path], Path]] = [npz_many, hdf5_companions, vrt]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """By bomb: what became of it, and by how many MiB the process grew."""
    names, paths = [], []
    for bomb in (*(bomb for bomb, _ in REFUSED), *BOUNDED):
        names.append(bomb.__name__)
        paths.append(str(bomb(tmp_path_factory.mktemp(bomb.__name__))))
    code = READER.replace("MARGIN", str(MARGIN_MIB))
    tools = str(Path(__file__).parents[2] / "tools")
    run = subprocess.run(
        [sys.executable, "-c", code, *paths],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": tools},
    )
    assert run.returncode == 0, run.stderr
    return dict(zip(names, (tuple(json.loads(line)) for line in run.stdout.splitlines()), strict=True))


@pytest.mark.parametrize(("bomb", "message"), REFUSED, ids=[bomb.__name__ for bomb, _ in REFUSED])
def test_refused(outcomes: dict[str, tuple[str, int]], bomb: Callable, message: str) -> None:
    outcome, grown = outcomes[bomb.__name__]
    assert not outcome.startswith("read")
    with pytest.raises(InputError, match=message):
        raise InputError(outcome)
    assert "\n" not in outcome and len(outcome) < 600 and grown < 100


@pytest.mark.parametrize("bomb", BOUNDED, ids=[bomb.__name__ for bomb in BOUNDED])
def test_the_cube_is_read_and_the_rest_left(outcomes: dict[str, tuple[str, int]], bomb: Callable) -> None:
    outcome, grown = outcomes[bomb.__name__]
    assert outcome == f"read ({1 if bomb is vrt else 5}, 2, 2)" and grown < 50


def test_symbolic_links(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", CUBE)
    (tmp_path / "good.npy").symlink_to("x.npy")
    assert open_cube(tmp_path / "good.npy").shape == CUBE.shape
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    (tmp_path / "nowhere.npy").symlink_to("none.npy")
    (tmp_path / "endless.npy").symlink_to("/dev/zero")
    for name, message in {"loop": "does not exist", "nowhere": "does not exist", "endless": "not a regular"}.items():
        with pytest.raises(InputError, match=message):
            open_cube(tmp_path / f"{name}.npy")


def test_an_envi_pair_that_leads_to_a_device_or_a_pipe(tmp_path: Path) -> None:
    """Neither is read: one would not end, the other would not begin."""
    header = "ENVI\nsamples = 4\nlines = 3\nbands = 2\ndata type = 2\ninterleave = bsq\n"
    (tmp_path / "x.hdr").write_text(header)
    (tmp_path / "x.img").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="data file is missing"):
        open_cube(tmp_path / "x.hdr")
    with pytest.raises(InputError, match="not a regular file"):
        open_cube(tmp_path / "x.img")
    (tmp_path / "y.img").write_bytes(bytes(48))
    os.mkfifo(tmp_path / "y.hdr")
    with pytest.raises(InputError, match=r"y\.hdr: is not a regular file"):
        open_cube(tmp_path / "y.img")


@pytest.mark.parametrize("kind", ["virtual", "external"])
def test_samples_in_other_files_are_not_followed(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret.raw").write_bytes(CUBE.tobytes())
    with h5py.File(tmp_path / "secret.h5", "w") as h5:
        h5["cube"] = CUBE
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        if kind == "virtual":
            layout = h5py.VirtualLayout(CUBE.shape, CUBE.dtype)
            layout[...] = h5py.VirtualSource("secret.h5", "cube", CUBE.shape)
            h5.create_virtual_dataset("cube", layout)
        else:
            h5.create_dataset("cube", CUBE.shape, CUBE.dtype, external=[(str(tmp_path / "secret.raw"), 0, CUBE.nbytes)])
    with pytest.raises(InputError, match="keeps its samples in other files, which are not followed"):
        open_cube(tmp_path / "x.h5")
