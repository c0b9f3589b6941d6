"""Every Triton kernel compiled for sm_80, sm_90 and sm_100 without a GPU, within limits on what it needs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("interpreted kernels are not compiled; run without TRITON_INTERPRET", allow_module_level=True)

from lkca_kernels import triton as backend  # noqa: E402
from lkca_kernels.triton.aot import ARCHITECTURES, Resources, compile_launch, representative_launches  # noqa: E402
from lkca_kernels.triton.launch import record_launches  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

# ptxas parks a few registers on the stack at occupancy steps of its own choosing: one or two at 40 registers, four at
# 128 (Triton 3.8: float32 backward pass of local attention in channels_last, sm_90; 3.9 takes 162 and no stack).
STACK_LIMIT = 16


def check_limits(name: str, found: Resources, least_occupancy: float) -> None:
    architecture = ARCHITECTURES[found.capability]
    assert found.stack <= STACK_LIMIT, f"{name}: {found.stack} bytes spilled"
    share = architecture.shared_per_block // 3 * max(1, found.num_warps // 4)  # 12 warps a multiprocessor, or more
    assert found.shared <= share, f"{name}: {found.shared} bytes of shared memory"
    assert found.occupancy >= least_occupancy, f"{name}: occupancy {found.occupancy:.0%}, {found.registers} registers"


def test_every_kernel_is_among_the_representatives() -> None:
    folder = Path(backend.__file__).parent
    defined = {name for file in folder.glob("*.py") for name in re.findall(r"def (\w+_kernel)\(", file.read_text())}
    launches = representative_launches(torch.bfloat16)
    assert {launch.kernel.__name__ for launch in launches.values()} == defined


@pytest.mark.parametrize(
    ("capability", "dtype", "scales"),
    [(80, "bfloat16", "×4"), (90, "bfloat16", "×3 ×4"), (90, "float32", "×4"), (100, "bfloat16", "×4")],
)
def test_kernels_compile_within_limits(capability: int, dtype: str, scales: str) -> None:
    """Eight warps a multiprocessor at worst."""
    for name, launch in representative_launches(getattr(torch, dtype)).items():
        scale = re.search(r"×\d", name)
        if scale is None or scale[0] in scales:  # bench/aot_report.py shows them all
            check_limits(name, compile_launch(launch, capability), 0.125)


def test_last_candidates_compile_within_limits() -> None:
    """A sample of the tiles that tuning tries, on the card with the least shared memory."""
    for name, launch in representative_launches(torch.bfloat16, -1).items():
        if "×3" not in name:
            check_limits(name, compile_launch(launch, 80), 0.125)


@pytest.mark.skipif(os.environ.get("LKCA_SLOW_TESTS") != "1", reason="minutes of compilations (LKCA_SLOW_TESTS=1)")
@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("candidate", [1, 2, 3, 4])
def test_every_candidate_compiles_within_limits(capability: int, dtype: torch.dtype, candidate: int) -> None:
    for name, launch in representative_launches(dtype, candidate).items():
        check_limits(name, compile_launch(launch, capability), 0.125)


@pytest.mark.parametrize("scale", [64, 256])
def test_large_scales_fit(scale: int) -> None:
    """A row's phases alone are as many columns as a tile has at small scales, and more."""

    def meta(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device="meta")

    tensors = meta(1, 64, 8, 8), meta(3 * scale**2, 64), meta(3 * scale**2), meta(1, 3)
    high, options = meta(1, 3, 8 * scale, 8 * scale), {"upscale_factor": scale, "skip_bicubic": "matlab"}
    with record_launches() as launches:
        backend.lowrank_pixel_shuffle_fwd(*tensors, high, **options)
        backend.lowrank_pixel_shuffle_bwd(high, *tensors, None, **options, needs=(True,) * 4 + (False,))
    for launch in launches:
        found = compile_launch(launch, 80)
        assert found.stack <= STACK_LIMIT and found.shared <= 99 * 1024, (found.kernel, found.stack, found.shared)


def test_rows_are_stored_in_16_byte_pieces() -> None:
    """At a power-of-two scale a thread writes 16 consecutive bytes of an HR row, lanes side by side."""
    for dtype in (torch.bfloat16, torch.float32):
        for name, launch in representative_launches(dtype).items():
            if "_fwd (×4" in name:
                stores = set(re.findall(r"st\.global[.\w]*", compile_launch(launch, 90).ptx))
                assert stores == {"st.global.v4.b32"}, (name, stores)


def test_gradient_rows_are_loaded_in_16_byte_pieces() -> None:
    """And so is all else that the two kernels read which go through the HR gradient: its run of columns is seen."""
    for dtype in (torch.bfloat16, torch.float32):
        for name, launch in representative_launches(dtype).items():
            if re.match(r"lowrank_pixel_shuffle_bwd_(weight|input) \(×4", name):
                ptx = compile_launch(launch, 90).ptx
                loads = set(re.findall(r"ld\.global[.\w]*", ptx))
                copies = set(re.findall(r"cp\.async\.c.*\], (0x\w+)", ptx))  # ahead, into shared memory
                assert loads | copies, name
                assert loads <= {"ld.global.v4.b32"} and copies <= {"0x10"}, (name, loads, copies)


def test_float32_follows_the_matmul_setting_of_torch() -> None:
    """ieee takes three tf32 products of parts for each one of tf32, or none; sums are never taken in tf32."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    products = {}
    try:
        for setting, expected in (("ieee", {"tf32x3", "ieee"}), ("tf32", {"tf32"})):
            matmul.fp32_precision = setting
            launches = representative_launches(torch.float32)
            given = [launch.arguments for launch in launches.values()]
            assert {a["PRECISION"] for a in given if "PRECISION" in a} == expected
            assert {a["SUM_PRECISION"] for a in given if "SUM_PRECISION" in a} == {"tf32x3"}
            launch = launches["lowrank_pixel_shuffle_fwd (×4, no skip)"]
            products[setting] = compile_launch(launch, 80).ptx.count("f32.tf32.tf32.f32")
    finally:
        matmul.fp32_precision = before
    assert products["ieee"] == 3 * products["tf32"] > 0


def test_image_size_never_changes_the_tile() -> None:
    """Height and width appear in no compile-time argument, so that no new size compiles a new tile.

    But for the parity of the width under an LR skip: two pixels are read at a time where it is even.
    """

    def tiles(h: int, w: int) -> list[dict[str, object]]:
        def meta(*shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=torch.float16, device="meta")

        with record_launches() as launches:
            tensors = (meta(1, 16, h, w), meta(12 * 16, 16), meta(12 * 16), meta(1, 12), meta(1, 12, h, w))
            options = {"upscale_factor": 4, "skip_bicubic": "matlab"}
            backend.lowrank_pixel_shuffle_fwd(*tensors, **options)
            backend.lowrank_pixel_shuffle_bwd(meta(1, 12, 4 * h, 4 * w), *tensors, **options, needs=(True,) * 5)
            backend.channel_attention_fwd(tensors[0], meta(4, 16), meta(4), meta(16, 4), meta(16), None)
            backend.local_channel_attention_fwd(tensors[0], meta(4, 16), meta(16, 4), None, window=5)
        constants = []
        for launch in launches:
            names = [p.name for p in launch.kernel.params if p.is_constexpr]
            constants.append({n: launch.arguments[n] for n in names if n != "PAIRS"} | {"num_warps": launch.num_warps})
        return constants

    assert tiles(16, 16) == tiles(7, 331) == tiles(512, 400)


def test_strides_multiply_in_64_bits() -> None:
    """The only thing that happens to a 32-bit stride is that it is widened, before any product is taken."""
    for name, launch in representative_launches(torch.bfloat16).items():
        signature, *lines = compile_launch(launch, 90).ttir.split("tt.func public", 1)[1].splitlines()
        strides = re.findall(r"%(\w+_s[a-z0-9]+): i32", signature)
        if not strides:  # its tensors are contiguous planes
            assert not [line for line in lines if re.search(r"arith\.muli .*%h\b.*: i32", line)], name
            continue
        pattern = re.compile("|".join(rf"%{stride}\b(?!\()" for stride in strides))
        uses = [line for line in (line.split(" loc(")[0].strip() for line in lines) if pattern.search(line)]
        assert uses, name  # strides of absent tensors have none, others do
        assert all("arith.extsi" in use for use in uses), (name, uses)
