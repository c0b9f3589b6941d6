"""The CUDA kernels without a card: the very bodies, launch plans and registration, compiled by the C++ compiler for the
emulated grid (csrc/cuda/emulation.h) and compared with the float64 reference.

What this cannot show: that nvcc and the card do what the emulation does (the tensor-core instruction follows NVIDIA's
published tables here), and anything about speed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import cpp_extension

from lkca_kernels import cuda, reference

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]

# RMS error relative to the float64 reference on the same (rounded) inputs. float32: sums of up to some thousand
# products, 2^-24 each, growing like their square root. 16 bits: half an ulp of the result (2^-11, 2^-8 at most; a
# single element may have it all), and again half an ulp where a 16-bit value goes into the sum.
BOUND = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
# Gradient of z or x: gate * weight is rounded to 16 bits before the sum, and in the smallest shapes the sum cancels.
FIRST = {torch.float32: 2e-6, torch.float16: 2**-8, torch.bfloat16: 2**-5}


def _compile(compiler: str, source: Path, target: Path, flags: list[str]) -> None:
    command = [compiler, "-std=c++20", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-DLKCA_EMULATED_GRID"]
    command.append("-U_FORTIFY_SOURCE")  # its longjmp refuses to change stacks
    language = ["-x", "c++"] if source.suffix == ".cu" else []
    done = subprocess.run(
        [*command, *flags, *language, "-c", str(source), "-o", str(target)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"{source.name}: {done.stderr[:4000]}"


@pytest.fixture(scope="session")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library of the emulated kernels, its operators in torch.ops.lkca_cuda_emulated."""
    compiler = next(
        (found for name in (os.environ.get("CXX"), "g++", "c++") if name and (found := shutil.which(name))), None
    )
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("emulated")
    flags = [f"-I{CSRC}", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    flags += [f"-isystem{path}" for path in cpp_extension.include_paths()]
    sources = [*sorted((CSRC / "cuda").glob("*.cu")), CSRC / "cuda" / "emulation.cpp", CSRC / "registration_cuda.cpp"]
    sources.append(Path(__file__).with_name("emulation_faults.cpp"))
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda pair: _compile(compiler, *pair, flags), zip(sources, objects, strict=True)))
    library = folder / "libemulated.so"
    torch_lib = Path(torch.__file__).parent / "lib"
    link = [
        compiler,
        "-shared",
        "-o",
        str(library),
        *map(str, objects),
        f"-L{torch_lib}",
        "-ltorch_cpu",
        "-ltorch",
        "-lc10",
    ]
    subprocess.run(link, check=True)
    torch.ops.load_library(str(library))
    loaded = ctypes.CDLL(str(library))
    for name in ("bytes_written", "bytes_read", "vector_bytes", "shared_bytes"):
        getattr(loaded, f"lkca_emulation_{name}").restype = ctypes.c_int64
    for name in ("max_blocks", "only_last", "forward_blocks"):
        getattr(loaded, f"lkca_emulation_{name}").argtypes = [ctypes.c_int64]
    loaded.lkca_emulation_round.restype = ctypes.c_float
    loaded.lkca_emulation_round.argtypes = [ctypes.c_int, ctypes.c_float]
    loaded.lkca_emulation_fault.restype = ctypes.c_char_p
    loaded.lkca_emulation_fault.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int64]
    return loaded


@pytest.fixture
def grid(emulation: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """The adapters of lkca_kernels.cuda on the emulated grid; every fresh tensor is filled with NaN first."""
    monkeypatch.setattr(cuda, "_ops", lambda: torch.ops.lkca_cuda_emulated)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # torch.empty then fills with NaN
    assert torch.empty(3).isnan().all()
    yield emulation
    torch.use_deterministic_algorithms(before)
    emulation.lkca_emulation_thread_order(0)
    emulation.lkca_emulation_max_blocks(0)
    emulation.lkca_emulation_only_last(0)
    emulation.lkca_emulation_forward_blocks(0)


def random(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rms(value: Tensor, expected: Tensor) -> float:
    assert value.shape == expected.shape
    scale = expected.square().mean().sqrt().clamp_min(1e-12)
    return float((value.double() - expected).square().mean().sqrt() / scale)


def with_sentinels(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A NaN-filled tensor inside a larger one, and the larger one."""
    count = torch.Size(shape).numel()
    room = torch.full((count + 64,), 77.0, dtype=dtype)
    out = room[32 : 32 + count].view(shape)
    out.fill_(float("nan"))
    return out, room


# (B, C, R, h, w, s): ones, primes, tiles that end within a row, ranks over one operand tile, rows of whole vectors
# and not, the narrowest rows that are interpolated on the tensor cores.
SHAPES = [
    (1, 1, 1, 1, 1, 2),
    (1, 3, 5, 4, 8, 2),
    (2, 5, 32, 9, 16, 4),
    (1, 7, 70, 5, 7, 3),
    (1, 2, 1, 13, 11, 5),
    (2, 3, 16, 3, 2, 8),
    (1, 1, 3, 2, 3, 17),
    (1, 45, 7, 3, 52, 2),
    (2, 17, 17, 5, 30, 4),
    (1, 11, 32, 13, 11, 8),
    (1, 9, 40, 9, 4, 4),
    (2, 19, 12, 23, 6, 4),
]
SKIPS = ["none", "hr", "matlab", "torch"]


def upsampling_inputs(
    shape: tuple[int, ...], skip: str, dtype: torch.dtype, full: bool
) -> tuple[list[Tensor | None], str]:
    b, c, r, h, w, s = shape
    bias = random(c * s * s, dtype=dtype, seed=3) if full else None
    gate = random(b, c, dtype=dtype, seed=4) if full else None
    size = (b, c, h * s, w * s) if skip == "hr" else (b, c, h, w)
    added = None if skip == "none" else random(*size, dtype=dtype, seed=5)
    z, weight = random(b, r, h, w, dtype=dtype, seed=1), random(c * s * s, r, dtype=dtype, seed=2)
    return [z, weight, bias, gate, added], "torch" if skip == "torch" else "matlab"


def doubles(tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.double().requires_grad_() for t in tensors]


def gradients(tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.grad for t in tensors]


def check_gradients(
    got: tuple[Tensor | None, ...], tensors: list[Tensor | None], dtype: torch.dtype, cancelled: int = 1
) -> None:
    """``cancelled``: how much smaller than its terms a sum in float32 may be."""
    for i, (value, expected) in enumerate(zip(got, gradients(tensors), strict=False)):
        assert (value is None) == (expected is None), i
        if value is not None and expected is not None:
            assert value.dtype == dtype
            error = rms(value, expected)
            bound = (FIRST if i == 0 else BOUND)[dtype] * (cancelled if dtype == torch.float32 else 1)
            assert error < bound, f"gradient {i}: {error:.2e}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lowrank_pixel_shuffle(grid: ctypes.CDLL, shape: tuple[int, ...], skip: str, dtype: torch.dtype) -> None:
    full = skip != "torch"  # without bias and gate there
    inputs, convention = upsampling_inputs(shape, skip, dtype, full)
    b, c, _, h, w, s = shape
    exact = doubles(inputs)
    expected = reference.lowrank_pixel_shuffle(*exact, upscale_factor=s, skip_bicubic=convention)
    out, room = with_sentinels((b, c, h * s, w * s), dtype)
    options = {"upscale_factor": s, "skip_bicubic": convention}
    assert cuda.lowrank_pixel_shuffle_fwd(*inputs, **options, out=out) is out
    assert rms(out, expected.detach()) < BOUND[dtype]
    assert (room[:32] == 77).all() and (room[-32:] == 77).all()

    grad_out = random(b, c, h * s, w * s, dtype=dtype, seed=6)
    needs = (True, True, full, full, skip in ("matlab", "torch"))
    got = cuda.lowrank_pixel_shuffle_bwd(grad_out, *inputs, **options, needs=needs)
    expected.backward(grad_out.double())
    if skip == "hr":
        exact[4] = None
    check_gradients(got, exact, dtype)


# (h, w): one row and two, several rows in a tile, and none; the last tile may be short. Rows of whole vectors from 16.
@pytest.mark.parametrize(
    "size",
    [(1, 6), (2, 130), (11, 22), (37, 8), (3, 150), (5, 4), (43, 6), (9, 16), (7, 24), (5, 40), (2, 136)],
    ids=str,
)
@pytest.mark.parametrize("convention", ["matlab", "torch"])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_low_res_skip_alone(grid: ctypes.CDLL, dtype: torch.dtype, convention: str, size: tuple[int, int]) -> None:
    """The interpolated skip is right to half an ulp of the result, and what is not finite stays near."""
    h, w = size
    channels, options = 35, {"upscale_factor": 4, "skip_bicubic": convention}
    z, weight = random(1, 3, h, w, dtype=dtype, seed=1), torch.zeros(channels * 16, 3, dtype=dtype)
    skip = random(1, channels, h, w, dtype=dtype, seed=2)

    def compare(given: Tensor) -> tuple[Tensor, Tensor]:
        expected = reference.lowrank_pixel_shuffle(z.double(), weight.double(), None, None, given.double(), **options)
        return cuda.lowrank_pixel_shuffle_fwd(z, weight, None, None, given, **options), expected

    found, expected = compare(skip)
    # 2^-17 of each of the 16 terms, which are 5 at most
    allowed = expected.abs() * torch.finfo(dtype).eps / 2 + 16 * 5 * 2**-17
    assert ((found - expected).abs() <= allowed).all() and rms(found, expected) < torch.finfo(dtype).eps / 3

    for value in (float("nan"), float("inf")):
        given = skip.clone()
        at = torch.randint(h * w, (channels,), generator=torch.Generator().manual_seed(3))
        at[:4] = torch.tensor([0, w - 1, (h - 1) * w, h * w - 1])
        given.view(channels, -1)[torch.arange(channels), at] = value
        found, expected = compare(given)
        lost, reached = ~found.isfinite(), ~expected.isfinite()
        near = torch.nn.functional.max_pool2d(reached.float(), 9, stride=1, padding=4) > 0
        assert reached.any() and (lost | ~reached).all() and (near | ~lost).all()

    room = torch.zeros(skip.numel() + 1, dtype=dtype)  # words of the skip that are not aligned
    found, expected = compare(room[1:].view(skip.shape).copy_(skip))
    assert rms(found, expected) < torch.finfo(dtype).eps / 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pixel_shuffle_epilogue(grid: ctypes.CDLL, shape: tuple[int, ...], skip: str, dtype: torch.dtype) -> None:
    (_, _, _, gate, added), convention = upsampling_inputs(shape, skip, dtype, skip != "torch")
    b, c, _, h, w, s = shape
    inputs = [random(b, c * s * s, h, w, dtype=dtype, seed=7), gate, added]
    exact = doubles(inputs)
    expected = reference.pixel_shuffle_epilogue(*exact, upscale_factor=s, skip_bicubic=convention)
    out, room = with_sentinels((b, c, h * s, w * s), dtype)
    options = {"upscale_factor": s, "skip_bicubic": convention}
    cuda.pixel_shuffle_epilogue_fwd(*inputs, **options, out=out)
    assert rms(out, expected.detach()) < BOUND[dtype]
    assert (room[:32] == 77).all() and (room[-32:] == 77).all()

    grad_out = random(b, c, h * s, w * s, dtype=dtype, seed=6)
    needs = (True, gate is not None, skip in ("matlab", "torch"))
    got = cuda.pixel_shuffle_epilogue_bwd(grad_out, *inputs, **options, needs=needs)
    expected.backward(grad_out.double())
    if skip == "hr":
        exact[2] = None
    check_gradients(got, exact, dtype)


# (B, C, hidden, H, W): planes of one part and of several, whole vectors and not.
PLANES = [(1, 1, 1, 1, 1), (2, 7, 3, 5, 8), (1, 3, 2, 97, 101), (2, 12, 20, 4, 4)]


def attention_inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    b, c, k, h, w = shape
    sizes = [(b, c, h, w), (k, c), (k,), (c, k), (c,)]
    return [random(*size, dtype=dtype, seed=seed) for seed, size in enumerate(sizes)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", PLANES, ids=str)
def test_channel_gate(grid: ctypes.CDLL, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = attention_inputs(shape, dtype)
    exact = doubles(inputs)
    expected = reference.channel_gate(*exact)
    gate, mean = cuda.channel_gate_fwd(*inputs)
    assert gate.dtype == dtype and rms(gate, expected.detach()) < BOUND[dtype]
    assert mean.dtype == torch.float32 and rms(mean, exact[0].detach().mean((2, 3))) < 1e-5

    grad = random(*shape[:2], dtype=dtype, seed=9) * (shape[3] * shape[4]) ** 0.5  # keeps dx off float16's subnormals
    expected.backward(grad.double())
    got = cuda.channel_gate_bwd(grad, inputs[0], mean, *inputs[1:], needs=(True,) * 5)
    check_gradients(got, exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", PLANES, ids=str)
@pytest.mark.parametrize("with_residual", [False, True], ids=["", "residual"])
def test_channel_attention(grid: ctypes.CDLL, shape: tuple[int, ...], dtype: torch.dtype, with_residual: bool) -> None:
    inputs = attention_inputs(shape, dtype)
    residual = random(*inputs[0].shape, dtype=dtype, seed=8) if with_residual else None
    exact = doubles(inputs)
    expected = reference.channel_attention(*exact, residual=None if residual is None else residual.double())
    out, room = with_sentinels(tuple(inputs[0].shape), dtype)
    got, mean = cuda.channel_attention_fwd(*inputs, residual, out=out)
    assert got is out and rms(out, expected.detach()) < BOUND[dtype]
    assert (room[:32] == 77).all() and (room[-32:] == 77).all()

    grad_out = random(*inputs[0].shape, dtype=dtype, seed=9)
    expected.backward(grad_out.double())
    needs = (True,) * 5
    check_gradients(cuda.channel_attention_bwd(grad_out, inputs[0], mean, *inputs[1:], needs=needs), exact, dtype)


# (B, C, hidden, H, W, window): ones, primes, windows of one pixel and wider than the image, hidden channels of one part
# (either size) and of several, more than 64 rows of fields, tiles that end within a row, whole vectors and not.
WINDOWS = [
    (1, 1, 1, 1, 1, 1),
    (2, 7, 2, 5, 11, 3),
    (1, 67, 17, 19, 23, 9),
    (2, 5, 3, 13, 1, 31),
    (1, 3, 70, 2, 8, 101),
    (1, 130, 16, 9, 32, 5),
    (2, 64, 33, 12, 16, 7),
]


def local_inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor | None]:
    b, c, k, h, w, _ = shape
    x, residual = (random(b, c, h, w, dtype=dtype, seed=seed) for seed in (0, 3))
    scale = c**-0.5  # logits of about 1: gates that are neither 0 nor 2
    w1, w2 = (random(*size, dtype=dtype, seed=i) * scale for i, size in ((1, (k, c)), (2, (c, k))))
    return [x, w1, w2, residual]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", WINDOWS, ids=str)
@pytest.mark.parametrize("with_residual", [False, True], ids=["", "residual"])
def test_local_channel_attention(
    grid: ctypes.CDLL, shape: tuple[int, ...], dtype: torch.dtype, with_residual: bool
) -> None:
    x, w1, w2, residual = local_inputs(shape, dtype)
    residual = residual if with_residual else None
    exact = doubles([x, w1, w2])
    window = shape[-1]
    expected = reference.local_channel_attention(
        *exact, residual=None if residual is None else residual.double(), window=window
    )
    out, room = with_sentinels(tuple(x.shape), dtype)
    assert cuda.local_channel_attention_fwd(x, w1, w2, residual, window=window, out=out) is out
    assert rms(out, expected.detach()) < BOUND[dtype]
    assert (room[:32] == 77).all() and (room[-32:] == 77).all()

    grad_out = random(*x.shape, dtype=dtype, seed=9)
    expected.backward(grad_out.double())
    got = cuda.local_channel_attention_bwd(grad_out, x, w1, w2, window=window, needs=(True,) * 3)
    check_gradients(got, exact, dtype)
    for i in range(3):  # each alone has the same bits
        needs = (i == 0, i == 1, i == 2)
        alone = cuda.local_channel_attention_bwd(grad_out, x, w1, w2, window=window, needs=needs)
        assert torch.equal(alone[i], got[i]) and [g is not None for g in alone] == list(needs)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_local_channel_attention_of_any_shape(grid: ctypes.CDLL, data: st.DataObject) -> None:
    integer = st.integers
    sizes = [integer(1, 2), integer(1, 20), integer(1, 40), integer(1, 9), integer(1, 40), integer(0, 12)]
    *shape, reach = data.draw(st.tuples(*sizes))
    dtype, window = data.draw(st.sampled_from(DTYPES)), 2 * reach + 1
    x, w1, w2, residual = local_inputs((*shape, window), dtype)
    exact = doubles([x, w1, w2])
    expected = reference.local_channel_attention(*exact, residual=residual.double(), window=window)
    out = cuda.local_channel_attention_fwd(x, w1, w2, residual, window=window)
    assert rms(out, expected.detach()) < BOUND[dtype]
    grad_out = random(*x.shape, dtype=dtype, seed=9)
    expected.backward(grad_out.double())
    got = cuda.local_channel_attention_bwd(grad_out, x, w1, w2, window=window, needs=(True,) * 3)
    check_gradients(got, exact, dtype, cancelled=20)  # the few terms of the smallest shapes


def test_local_channel_attention_of_zeros_and_infinities(grid: ctypes.CDLL) -> None:
    """Empty surroundings give gates of 1 and no NaN; what is not finite stays within the windows that hold it."""
    x, w1, w2, _ = local_inputs((1, 5, 3, 9, 20, 3), torch.float32)
    x[..., :10] = 0
    x[0, 2, 4, 15] = float("inf")
    out = cuda.local_channel_attention_fwd(x, w1, w2, None, window=3)
    assert (out[..., :9] == 0).all() and out[..., 17:].isfinite().all()
    assert not out[..., 3:6, 14:17].isfinite().all()
    grad_x = cuda.local_channel_attention_bwd(torch.ones_like(x), x, w1, w2, window=3, needs=(True, False, False))[0]
    assert (grad_x[..., :8] == 1).all() and grad_x[..., 18:].isfinite().all()
    expected = reference.local_channel_attention(x.double(), w1.double(), w2.double(), window=3)
    assert torch.equal(out.isnan(), expected.isnan())


def test_local_channel_attention_past_two_to_the_31(emulation: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block of every launch, for x with more than 2^31 elements, nearly all of them pages never touched."""
    monkeypatch.setattr(cuda, "_ops", lambda: torch.ops.lkca_cuda_emulated)
    b, c, h, w = 131100, 64, 16, 16
    (last, w1, w2, _), dtype = local_inputs((1, c, 1, h, w, 3), torch.bfloat16), torch.bfloat16
    x, grad_out, out = (torch.empty(b, c, h, w, dtype=dtype) for _ in range(3))
    assert x.numel() > 2**31
    x[-1:], grad_out[-1:] = last, random(1, c, h, w, dtype=dtype, seed=9)
    monkeypatch.setattr(cuda, "_wanted", lambda tensors, needs: [out, None, None])
    exact = doubles([last, w1, w2])
    expected = reference.local_channel_attention(*exact, window=3)
    expected.backward(grad_out[-1:].double())
    emulation.lkca_emulation_only_last(1)
    try:
        cuda.local_channel_attention_fwd(x, w1, w2, None, window=3, out=out)
        # Its tile begins at row 8, and what lies above was not mixed.
        assert rms(out[-1:, :, 9:], expected.detach()[:, :, 9:]) < BOUND[dtype]
        cuda.local_channel_attention_bwd(grad_out, x, w1, w2, window=3, needs=(True, False, False))
        assert rms(out[-1:, :, 10:], exact[0].grad[:, :, 10:]) < FIRST[dtype]
    finally:
        emulation.lkca_emulation_only_last(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_result_depends_on_neither_thread_order_nor_grid(grid: ctypes.CDLL, dtype: torch.dtype) -> None:
    """A missing barrier shows in one of the orders; the loop over work shows with fewer blocks than work."""
    upsampling, _ = upsampling_inputs((2, 5, 70, 9, 16, 4), "matlab", dtype, True)
    low_rank, _ = upsampling_inputs((2, 37, 9, 9, 16, 4), "matlab", dtype, True)  # three chunks
    grad_out = random(2, 5, 36, 64, dtype=dtype, seed=6)
    y = random(2, 80, 9, 16, dtype=dtype, seed=7)
    y17 = random(1, 289, 2, 3, dtype=dtype, seed=7)  # few u rows in a tile: several warps to each
    layers, many = attention_inputs((1, 3, 2, 97, 101), dtype), attention_inputs((5, 3, 2, 4, 4), dtype)
    local, several_parts = (local_inputs(shape, dtype)[:3] for shape in WINDOWS[2:5:2])
    options = {"upscale_factor": 4, "skip_bicubic": "matlab"}
    options17 = {"upscale_factor": 17, "skip_bicubic": "matlab"}

    def run() -> list[Tensor]:
        _, _, _, gate, skip = upsampling
        out = [cuda.lowrank_pixel_shuffle_fwd(*upsampling, **options)]
        out.append(cuda.lowrank_pixel_shuffle_fwd(*low_rank, **options))
        out.append(cuda.lowrank_pixel_shuffle_fwd(*low_rank[:4], None, **options))
        out.append(cuda.lowrank_pixel_shuffle_fwd(*low_rank[:4], out[-1], **options))
        out += cuda.lowrank_pixel_shuffle_bwd(grad_out, *upsampling, **options, needs=(True,) * 5)
        out.append(cuda.pixel_shuffle_epilogue_fwd(y, gate, skip, **options))
        out += cuda.pixel_shuffle_epilogue_bwd(grad_out, y, gate, skip, **options, needs=(True,) * 3)
        g17 = cuda.pixel_shuffle_epilogue_fwd(y17, None, None, **options17)
        out += [g17, cuda.pixel_shuffle_epilogue_bwd(g17, y17, None, None, **options17, needs=(True, False, False))[0]]
        out += cuda.channel_gate_fwd(*layers)
        several, mean = cuda.channel_gate_fwd(*many)
        out += [several, *cuda.channel_gate_bwd(several, many[0], mean, *many[1:], needs=(True,) * 5)]
        attended, mean = cuda.channel_attention_fwd(*layers, None)
        out += [attended, mean]
        out += cuda.channel_attention_bwd(attended, layers[0], mean, *layers[1:], needs=(True,) * 5)
        for x, w1, w2 in (local, several_parts):
            out.append(cuda.local_channel_attention_fwd(x, w1, w2, x, window=5))
            out += cuda.local_channel_attention_bwd(out[-1], x, w1, w2, window=5, needs=(True,) * 3)
        return out

    expected = run()
    for order, blocks, forward_blocks in ((1, 0, 0), (2, 0, 1), (1, 2, 1), (3, 2, 0)):
        grid.lkca_emulation_thread_order(order)
        grid.lkca_emulation_max_blocks(blocks)
        grid.lkca_emulation_forward_blocks(forward_blocks)  # 1: a block takes all weight rows of its pixels
        for i, (a, b) in enumerate(zip(run(), expected, strict=True)):
            assert torch.equal(a, b), f"result {i}, order {order}, at most {blocks} blocks"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hr_cube_is_moved_once_in_whole_vectors(grid: ctypes.CDLL, dtype: torch.dtype) -> None:
    """Bytes of the accesses, not of the caches: HR written once and its skip read once, 16 bytes at a time."""
    inputs, convention = upsampling_inputs((2, 9, 32, 24, 16, 4), "hr", dtype, True)
    options = {"upscale_factor": 4, "skip_bicubic": convention}
    out = cuda.lowrank_pixel_shuffle_fwd(*inputs, **options)
    size = out.numel() * out.element_size()
    assert grid.lkca_emulation_bytes_written(0) == grid.lkca_emulation_vector_bytes(0) == size
    assert grid.lkca_emulation_bytes_read(4) == size  # z, weight, bias, gate, skip

    y = random(2, 144, 24, 16, dtype=dtype, seed=7)
    cuda.pixel_shuffle_epilogue_fwd(y, inputs[3], inputs[4], **options)
    assert grid.lkca_emulation_bytes_written(0) == grid.lkca_emulation_vector_bytes(0) == size
    assert [grid.lkca_emulation_bytes_read(i) for i in (0, 2)] == [size, size]

    cuda.pixel_shuffle_epilogue_bwd(out, y, inputs[3], None, **options, needs=(True, True, False))
    assert grid.lkca_emulation_bytes_read(0) == size and grid.lkca_emulation_bytes_written(0) == size
    # the low-rank backward reads the HR gradient once for z and once for weight, bias and gate together
    cuda.lowrank_pixel_shuffle_bwd(out, *inputs, **options, needs=(True, True, True, True, False))
    assert grid.lkca_emulation_bytes_read(4) == 2 * size
    cuda.lowrank_pixel_shuffle_bwd(out, *inputs, **options, needs=(True, False, False, False, False))
    assert grid.lkca_emulation_bytes_read(4) == size

    x = random(2, 6, 40, 32, dtype=dtype, seed=1)
    layers = attention_inputs((2, 6, 3, 40, 32), dtype)[1:]
    cuda.channel_attention_fwd(x, *layers, None)
    size = x.numel() * x.element_size()
    assert grid.lkca_emulation_bytes_read(4) == 2 * size  # w1, b1, w2, b2, x: once for the means, once for the product
    assert grid.lkca_emulation_vector_bytes(0) == size

    w1, w2 = layers[0], layers[2]
    cuda.local_channel_attention_fwd(x, w1, w2, x.clone(), window=5)
    assert [grid.lkca_emulation_bytes_read(i) for i in (0, 3)] == [2 * size, size]  # x: for the fields, for the product
    assert grid.lkca_emulation_bytes_written(0) == grid.lkca_emulation_vector_bytes(0) == size
    cuda.local_channel_attention_bwd(x.clone(), x, w1, w2, window=5, needs=(True, False, False))
    assert [grid.lkca_emulation_bytes_read(i) for i in (0, 3)] == [3 * size, 2 * size]
    assert grid.lkca_emulation_bytes_written(0) == grid.lkca_emulation_vector_bytes(0) == size


def test_offsets_past_two_to_the_31(emulation: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block of an output with more than 2^31 elements; the rest of its memory is never touched."""
    monkeypatch.setattr(cuda, "_ops", lambda: torch.ops.lkca_cuda_emulated)
    b, c, r, h, w, s = 1, 520, 1, 256, 256, 8
    z, weight = random(b, r, h, w, dtype=torch.bfloat16, seed=1), random(c * s * s, r, dtype=torch.bfloat16, seed=2)
    out = torch.empty(b, c, h * s, w * s, dtype=torch.bfloat16)
    assert out.numel() > 2**31
    emulation.lkca_emulation_only_last(1)
    try:
        cuda.lowrank_pixel_shuffle_fwd(z, weight, None, None, None, upscale_factor=s, skip_bicubic="matlab", out=out)
    finally:
        emulation.lkca_emulation_only_last(0)
    rows = weight[-s * s :].double()
    expected = torch.nn.functional.pixel_shuffle(torch.einsum("mr,brhw->bmhw", rows, z[:, :, -1:, 128:].double()), s)
    assert rms(out[:, -1:, -s:, 128 * s :], expected) < BOUND[torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_local_channel_attention_at_most_twice_the_error_of_pytorch(grid: ctypes.CDLL, dtype: torch.dtype) -> None:
    x, w1, w2, _ = local_inputs((1, 24, 8, 12, 16, 5), dtype)
    grad_out = random(*x.shape, dtype=dtype, seed=9)

    def eager(*tensors: Tensor) -> list[Tensor]:
        x, w1, w2 = tensors
        a = torch.nn.functional.avg_pool2d(x.abs(), 5, stride=1, padding=2, count_include_pad=False)
        hidden = torch.nn.functional.conv2d(a / a.mean(1, keepdim=True), w1[:, :, None, None]).relu()
        out = x * (2 * torch.nn.functional.conv2d(hidden, w2[:, :, None, None]).sigmoid())
        out.backward(grad_out.to(out.dtype))
        return [out.detach(), *[t.grad for t in tensors]]

    exact = eager(*doubles([x, w1, w2]))
    theirs = eager(*[t.clone().requires_grad_() for t in (x, w1, w2)])
    ours = [cuda.local_channel_attention_fwd(x, w1, w2, None, window=5)]
    ours += cuda.local_channel_attention_bwd(grad_out, x, w1, w2, window=5, needs=(True,) * 3)
    for name, our, their, right in zip(["out", "x", "w1", "w2"], ours, theirs, exact, strict=True):
        assert rms(our, right) <= 2 * rms(their, right), name


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_at_most_twice_the_error_of_pytorch_in_the_same_dtype(grid: ctypes.CDLL, dtype: torch.dtype) -> None:
    inputs, _ = upsampling_inputs((2, 4, 32, 12, 16, 4), "hr", dtype, True)
    grad_out = random(2, 4, 48, 64, dtype=dtype, seed=6)
    options = {"upscale_factor": 4, "skip_bicubic": "matlab"}

    def eager(tensors: list[Tensor | None]) -> list[Tensor]:
        z, weight, bias, gate, skip = tensors
        y = torch.nn.functional.conv2d(z, weight[:, :, None, None], bias)
        out = torch.nn.functional.pixel_shuffle(y, 4) * gate[:, :, None, None] + skip
        out.backward(grad_out.to(out.dtype))
        return [out.detach(), *[t.grad for t in (z, weight, bias, gate)]]

    exact = eager(doubles(inputs))
    theirs = eager([t.clone().requires_grad_() for t in inputs])
    needs = (True, True, True, True, False)
    ours = [cuda.lowrank_pixel_shuffle_fwd(*inputs, **options)]
    ours += cuda.lowrank_pixel_shuffle_bwd(grad_out, *inputs, **options, needs=needs)[:4]
    for name, our, their, right in zip(["out", "z", "weight", "bias", "gate"], ours, theirs, exact, strict=True):
        assert rms(our, right) <= 2 * rms(their, right), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [2, 3, 4, 5, 8, 64])
def test_shared_memory_fits_every_card(grid: ctypes.CDLL, scale: int, dtype: torch.dtype) -> None:
    """99 KB a block is what sm_86 and sm_89 give; three blocks of 16-bit types at rank 32 fit an A100's 164 KB."""
    options = {"upscale_factor": scale, "skip_bicubic": "matlab"}
    for rank in (70, 32):
        inputs, _ = upsampling_inputs((1, 1, rank, 1, 4, scale), "matlab", dtype, True)
        out = cuda.lowrank_pixel_shuffle_fwd(*inputs, **options)
        assert grid.lkca_emulation_shared_bytes() <= 99 * 1024
    cuda.lowrank_pixel_shuffle_bwd(out, *inputs, **options, needs=(True,) * 5)
    assert grid.lkca_emulation_shared_bytes() <= 99 * 1024
    if dtype != torch.float32:
        inputs, _ = upsampling_inputs((1, 1, 32, 1, 4, scale), "hr", dtype, True)
        cuda.lowrank_pixel_shuffle_fwd(*inputs, **options)
        assert 3 * (grid.lkca_emulation_shared_bytes() + 1024) <= 164 * 1024


def test_shared_memory_of_local_channel_attention(grid: ctypes.CDLL) -> None:
    for hidden in (16, 70):
        x, w1, w2, _ = local_inputs((1, 3, hidden, 2, 4, 3), torch.float32)
        cuda.local_channel_attention_fwd(x, w1, w2, None, window=3)
        assert grid.lkca_emulation_shared_bytes() <= 49 * 1024
        cuda.local_channel_attention_bwd(x, x, w1, w2, window=3, needs=(True,) * 3)
        assert grid.lkca_emulation_shared_bytes() <= 99 * 1024


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape(grid: ctypes.CDLL, data: st.DataObject) -> None:
    integer = st.integers
    sizes = [integer(1, 2), integer(1, 6), integer(1, 40), integer(1, 7), integer(1, 9), integer(2, 9)]
    shape = tuple(data.draw(st.tuples(*sizes)))
    dtype, skip = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(SKIPS))
    inputs, convention = upsampling_inputs(shape, skip, dtype, data.draw(st.booleans()))
    options = {"upscale_factor": shape[-1], "skip_bicubic": convention}
    exact = doubles(inputs)
    expected = reference.lowrank_pixel_shuffle(*exact, **options)
    assert rms(cuda.lowrank_pixel_shuffle_fwd(*inputs, **options), expected.detach()) < BOUND[dtype]


def test_layouts(grid: ctypes.CDLL) -> None:
    """Other strides are copied, and results follow the layout rule of the contract."""
    x = random(2, 6, 5, 8, dtype=torch.float32, seed=1).contiguous(memory_format=torch.channels_last)
    layers = attention_inputs((2, 6, 3, 5, 8), torch.float32)[1:]
    out, mean = cuda.channel_attention_fwd(x, *layers, None)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert rms(out, reference.channel_attention(x.double(), *[t.double() for t in layers])) < 2e-6
    room = torch.empty_like(x)
    assert cuda.channel_attention_fwd(x, *layers, None, out=room)[0] is room
    assert torch.equal(room, out)
    grads = cuda.channel_attention_bwd(out, x, mean, *layers, needs=(True, False, True, False, False))
    assert grads[0] is not None and grads[0].is_contiguous(memory_format=torch.channels_last)
    assert [g is None for g in grads] == [False, True, False, True, True]
    w1, w2 = layers[0], layers[2]
    expected = reference.local_channel_attention(x.double(), w1.double(), w2.double(), x.double(), window=3)
    assert cuda.local_channel_attention_fwd(x, w1, w2, x, window=3, out=room) is room and rms(room, expected) < 2e-6
    out = cuda.local_channel_attention_fwd(x, w1, w2, x, window=3)
    assert torch.equal(out, room) and out.is_contiguous(memory_format=torch.channels_last)
    spread = torch.ones(1, 1, 1, 1).expand(2, 6, 5, 8)
    grads = cuda.local_channel_attention_bwd(spread, x, w1, w2, window=3, needs=(True, False, True))
    assert grads[0] is not None and grads[0].is_contiguous(memory_format=torch.channels_last)
    assert grads[1] is None and grads[2] is not None

    inputs, _ = upsampling_inputs((2, 3, 8, 5, 6, 2), "none", torch.float32, True)
    z = inputs[0].contiguous(memory_format=torch.channels_last)
    options = {"upscale_factor": 2, "skip_bicubic": "matlab"}
    expected = cuda.lowrank_pixel_shuffle_fwd(*inputs, **options)
    assert torch.equal(cuda.lowrank_pixel_shuffle_fwd(z, *inputs[1:], **options), expected)
    spread = torch.ones(1, 1, 1, 1).expand(2, 3, 10, 12)
    needs = (True, False, False, False, False)
    grad_z = cuda.lowrank_pixel_shuffle_bwd(spread, z, *inputs[1:], **options, needs=needs)[0]
    assert grad_z is not None and grad_z.is_contiguous(memory_format=torch.channels_last)


def test_misaligned_tensors(grid: ctypes.CDLL) -> None:
    """Data at an odd element: no 16-byte access may touch it (the emulated grid refuses misaligned ones)."""
    inputs, _ = upsampling_inputs((1, 3, 16, 4, 8, 2), "hr", torch.float16, True)
    options = {"upscale_factor": 2, "skip_bicubic": "matlab"}
    expected = cuda.lowrank_pixel_shuffle_fwd(*inputs, **options)
    shifted = []
    for tensor in inputs:
        room = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype)
        shifted.append(room[1:].view(tensor.shape).copy_(tensor))
    room = torch.zeros(expected.numel() + 1, dtype=torch.float16)
    out = cuda.lowrank_pixel_shuffle_fwd(*shifted, **options, out=room[1:].view(expected.shape))
    assert torch.equal(out, expected)

    def run(tensors: list[Tensor | None], out: Tensor) -> list[Tensor | None]:
        cuda.local_channel_attention_fwd(*tensors, window=3, out=out)
        x, w1, w2, residual = tensors
        return [out, *cuda.local_channel_attention_bwd(residual, x, w1, w2, window=3, needs=(True,) * 3)]

    tensors = local_inputs((1, 16, 8, 4, 8, 3), torch.float16)
    shifted = [torch.zeros(t.numel() + 1, dtype=t.dtype)[1:].view(t.shape).copy_(t) for t in tensors]
    room = torch.zeros(tensors[0].numel() + 1, dtype=torch.float16)[1:].view(tensors[0].shape)
    for a, b in zip(run(shifted, room), run(tensors, torch.empty_like(tensors[0])), strict=True):
        assert torch.equal(a, b)


def test_infinities_stay_in_their_channel(grid: ctypes.CDLL) -> None:
    """What a tile leaves out is zero, not what an earlier tile left there: inf * 0 would be NaN elsewhere."""
    for dtype in DTYPES:
        inputs, _ = upsampling_inputs((1, 5, 8, 3, 43, 4), "none", dtype, True)
        grad_out = random(1, 5, 12, 172, dtype=dtype, seed=6)
        grad_out[:, 0] = float("inf")
        options = {"upscale_factor": 4, "skip_bicubic": "matlab"}
        needs = (False, True, True, True, False)
        got = cuda.lowrank_pixel_shuffle_bwd(grad_out, *inputs, **options, needs=needs)
        assert got[1][16:].isfinite().all() and got[2][16:].isfinite().all() and got[3][:, 1:].isfinite().all()


def test_registration_refuses_what_the_kernels_do_not_expect(grid: ctypes.CDLL) -> None:
    ops = torch.ops.lkca_cuda_emulated
    z, weight, out = torch.zeros(1, 4, 3, 3), torch.zeros(8, 4), torch.zeros(1, 2, 6, 6)

    def forward(**changes: object) -> None:
        arguments = {"z": z, "weight": weight, "bias": None, "gate": None, "skip": None, "s": 2, "b": 0, "out": out}
        ops.lowrank_pixel_shuffle_fwd(*(arguments | changes).values())

    forward()
    refused = {
        "expected shape": {"z": torch.zeros(1, 5, 3, 3)},
        "dimensions": {"z": torch.zeros(4, 3, 3)},
        "weight: expected 2": {"weight": torch.zeros(8, 4, 1)},
        "no multiple": {"s": 3},
        "upscale_factor": {"s": 0},
        "bias: expected shape": {"bias": torch.zeros(9)},
        "gate: the dtype": {"gate": torch.zeros(1, 2, dtype=torch.float16)},
        "skip: expected shape": {"skip": torch.zeros(1, 2, 5, 5)},
        "out: expected a contiguous": {"out": torch.zeros(1, 2, 6, 12)[..., ::2]},
        "float32, float16 or bfloat16": {"z": z.double()},
    }
    for words, change in refused.items():
        with pytest.raises(RuntimeError, match=words):
            forward(**change)

    x, w1, w2, out = (torch.zeros(sizes) for sizes in ((1, 4, 3, 3), (2, 4), (4, 2), (1, 4, 3, 3)))
    ops.local_channel_attention_fwd(x, w1, w2, None, 3, out)
    for arguments, words in (
        ((x[0], w1, w2, None, 3, out), "x: expected 4"),
        ((x, w2, w2, None, 3, out), "w1: expected shape"),
        ((x, w1, w1, None, 3, out), "w2: expected shape"),
        ((x, w1, w2, out[..., :2], 3, out), "residual: expected shape"),
        ((x, w1, w2, None, 4, out), "window: expected an odd number"),
        ((x, w1, w2, None, 2**20 + 1, out), "window: expected an odd number"),
        ((x, w1, w2, None, 3, out.half()), "out: the dtype"),
    ):
        with pytest.raises(RuntimeError, match=words):
            ops.local_channel_attention_fwd(*arguments)


def test_emulation_notices_faults(emulation: ctypes.CDLL) -> None:
    out = (ctypes.c_float * 64)()

    def run(fault: int) -> tuple[str | None, list[float]]:
        message = emulation.lkca_emulation_fault(fault, ctypes.addressof(out), 64)
        return None if message is None else message.decode(), list(out)

    right = [float((t + 1) % 64) for t in range(64)]
    assert run(0) == (None, right)
    missing_barrier = []
    for order in (0, 1):
        emulation.lkca_emulation_thread_order(order)
        missing_barrier.append(run(1)[1] == right)
    emulation.lkca_emulation_thread_order(0)
    assert missing_barrier != [True, True]
    run(0)
    assert run(7) == (None, right[1:] + right[:1])  # copies of `right`
    assert all(value != value for value in run(6)[1])
    for fault, words in {2: "outside", 3: "misaligned", 4: "barrier", 5: "past its end"}.items():
        message, _ = run(fault)
        assert message is not None and words in message, (fault, message)


def test_conversions(emulation: ctypes.CDLL) -> None:
    """The host's storage conversions agree with torch's: all 16-bit values, and floats at every rounding border."""
    for code, dtype in ((1, torch.float16), (2, torch.bfloat16)):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        values = every[~every.isnan()].float()
        between = (values[:-1].double() + values[1:].double()).div(2).float()
        near = torch.cat(
            [values, between, between.nextafter(torch.tensor(9e38)), random(2000, dtype=torch.float32, seed=0)]
        )
        near = near[~near.isnan()][::3]
        got = torch.tensor([emulation.lkca_emulation_round(code, v) for v in near.tolist()])
        assert torch.equal(got, near.to(dtype).float())
        assert emulation.lkca_emulation_round(code, float("nan")) != emulation.lkca_emulation_round(code, float("nan"))


@given(divisor=st.integers(1, 2**31 - 1), n=st.integers(0, 2**31 - 1))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fast_division(emulation: ctypes.CDLL, divisor: int, n: int) -> None:
    for value in {n, n // divisor * divisor, max(0, n // divisor * divisor - 1)}:
        assert emulation.lkca_emulation_divide(divisor, value) == value // divisor


def test_backend_says_why_it_cannot_run() -> None:
    if torch.version.cuda is None:
        assert "CUDA build of torch" in (cuda.unavailable() or "")
    cpu = torch.device("cpu")
    assert "cpu" in (cuda.can_run("channel_gate", cpu, torch.float32, 1) or "")
    assert "float64" in (cuda.can_run("channel_gate", torch.device("cuda"), torch.float64, 1) or "")
    assert "65" in (cuda.can_run("lowrank_pixel_shuffle", torch.device("cuda"), torch.float32, 65) or "")


def test_backend_serves_every_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    for op in ("channel_gate", "channel_attention", "local_channel_attention", "lowrank_pixel_shuffle"):
        assert cuda.can_run(op, torch.device("cuda"), torch.bfloat16, 2) is None
        assert callable(getattr(cuda, f"{op}_fwd")) and callable(getattr(cuda, f"{op}_bwd"))


def test_border_rule_without_a_loop(emulation: ctypes.CDLL) -> None:
    """The kernels' short form of bicubic_border, over all that taps reach."""
    for size in range(1, 9):
        for i in range(-2, size + 2):
            for convention in (0, 1):
                short, full = (
                    f(i, size, convention) for f in (emulation.lkca_emulation_inside, emulation.lkca_emulation_border)
                )
                assert short == full, (i, size, convention)
