"""The choice among a kernel's candidate tiles, with a timer that is made up; and that every candidate is right."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from lkca_kernels import reference
from lkca_kernels import triton as backend
from lkca_kernels.backends import BackendError
from lkca_kernels.triton import tune
from lkca_kernels.triton.config import ChannelTile
from lkca_kernels.triton.launch import record_launches

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TILES = (ChannelTile(4, 512), ChannelTile(1, 2048), ChannelTile(2, 512))
can_run = pytest.mark.skipif(backend.unavailable() is not None, reason=f"Triton backend {backend.unavailable()}")


class Card:
    """A card whose candidates take the given times, in their order; each timing is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.name, self.times, self.timed, self.capturing = "Card A", [3.0, 1.0, 2.0], 0, False
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        monkeypatch.setenv("LKCA_TRITON_TUNE", "1")
        monkeypatch.setattr(tune, "_can_time", lambda device: True)
        monkeypatch.setattr(tune, "_capturing", lambda: self.capturing)
        monkeypatch.setattr(tune, "_card", lambda device: self.name)
        monkeypatch.setattr(tune, "seconds", self._seconds)

    def _seconds(self, run: Callable[[], object], device: torch.device) -> float:
        self.timed += 1
        return self.times[(self.timed - 1) % len(self.times)]

    def choose(self, *key: object) -> ChannelTile:
        return tune.choose("op", key or (64, torch.float16), TILES, lambda tile: None, DEVICE)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    tune.forget()
    yield Card(monkeypatch, tmp_path)
    tune.forget()


@pytest.mark.parametrize("value", [None, "", "0"])
def test_default_unless_asked(card: Card, monkeypatch, value: str | None) -> None:
    """Nothing is timed, read or written then, not even with a file of winners there."""
    card.choose()
    tune.forget()
    if value is None:
        monkeypatch.delenv("LKCA_TRITON_TUNE")
    else:
        monkeypatch.setenv("LKCA_TRITON_TUNE", value)
    monkeypatch.setattr(tune, "_load", lambda *_, **__: pytest.fail("read the file"))
    assert card.choose() == TILES[0] and card.timed == 3


@pytest.mark.parametrize("value", ["yes", "2"])
def test_an_unknown_value_is_refused(card: Card, monkeypatch, value: str) -> None:
    """Where the backend is chosen already, so that `lkca doctor` says it."""
    monkeypatch.setenv("LKCA_TRITON_TUNE", value)
    monkeypatch.setattr("lkca_kernels.triton.support.interpreted", lambda: True)  # where there is no card either
    for call in (card.choose, lambda: backend.can_run("channel_gate", DEVICE, torch.float32, 1)):
        with pytest.raises(BackendError, match=f"LKCA_TRITON_TUNE={value}: expected 1 or 0"):
            call()


def test_the_fastest_is_kept_in_the_process_and_in_the_file(card: Card) -> None:
    assert card.choose() == TILES[1] and card.timed == 3
    assert card.choose() == TILES[1] and card.timed == 3
    assert card.choose(128, torch.float16) == TILES[1] and card.timed == 6  # another key
    stored = json.loads(tune.cache_file().read_text())
    winner = {"block_c": 1, "block_p": 2048, "num_warps": 4}
    assert stored == {"Card A": {"op 64 torch.float16": winner, "op 128 torch.float16": winner}}
    tune.forget()  # a new process
    assert card.choose() == TILES[1] and card.timed == 6
    tune.forget()
    card.name = "Card B"
    assert card.choose() == TILES[1] and card.timed == 9
    assert set(json.loads(tune.cache_file().read_text())) == {"Card A", "Card B"}


def test_candidates_that_do_not_fit(card: Card) -> None:
    card.times = [2.0, math.inf, math.inf]
    assert card.choose() == TILES[0]
    card.times = [math.inf] * 3
    assert card.choose(1) == TILES[0]
    card.times = [math.inf, math.inf, 5.0]
    assert card.choose(2) == TILES[2]


def test_equals_go_to_the_default(card: Card) -> None:
    card.times = [1.0, 1.0, 1.0]
    assert card.choose() == TILES[0]


def test_a_captured_graph_is_never_timed(card: Card) -> None:
    card.capturing = True
    assert card.choose() == TILES[0] and card.timed == 0 and not tune.cache_file().exists()
    card.capturing = False
    assert card.choose() == TILES[1]  # the default was not kept
    card.capturing = True
    assert card.choose() == TILES[1]


@pytest.mark.parametrize("content", ["", "{", "[1]", "3", '{"Card A": 5}', '{"Card A": {"op": [1]}}', "\udcff"])
def test_a_damaged_file_is_one_warning_and_written_anew(card: Card, content: str) -> None:
    path = tune.cache_file()
    path.parent.mkdir()
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.warns(UserWarning, match="written anew") as caught:
        assert card.choose() == TILES[1] and card.choose(5) == TILES[1]
    assert len(caught) == 1
    assert set(json.loads(path.read_text())["Card A"]) == {"op 64 torch.float16", "op 5"}


def test_a_tile_that_is_no_candidate_any_more_is_timed_again(card: Card) -> None:
    card.choose()
    path = tune.cache_file()
    path.write_text(path.read_text().replace("2048", "4096"))
    tune.forget()
    assert card.choose() == TILES[1] and card.timed == 6


def test_a_folder_that_cannot_be_written_is_a_warning(card: Card, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "lkca").mkdir()
    (tmp_path / "lkca" / "triton_tiles.json").mkdir()  # a folder where the file should be
    monkeypatch.setattr(tune, "_load", lambda *_, **__: {})
    with pytest.warns(UserWarning, match="this process only"):
        assert card.choose() == TILES[1]
    assert card.choose() == TILES[1] and card.timed == 3


def _write_many(number: int) -> None:
    for i in range(40):
        tune._winners["Card A", f"op {number} {i}"] = TILES[1]
        tune._write()


def test_writers_at_once_never_leave_half_a_file(card: Card) -> None:
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside torch's threads: nothing here uses them
        writers = [context.Process(target=_write_many, args=(i,)) for i in range(3)]
        for writer in writers:
            writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        if tune.cache_file().exists():
            seen = max(seen, len(json.loads(tune.cache_file().read_text())["Card A"]))
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    last = json.loads(tune.cache_file().read_text())["Card A"]
    assert seen > 0 and any(all(f"op {k} {i}" in last for i in range(40)) for k in range(3))
    assert [path.name for path in tune.cache_file().parent.iterdir()] == [tune.cache_file().name]


LOWRANK = {f"lowrank_pixel_shuffle_{part}" for part in ("fwd", "bwd_weight", "bwd_input")}
SHUFFLES = LOWRANK | {"pixel_shuffle_epilogue_fwd", "pixel_shuffle_epilogue_bwd", "bicubic_adjoint"}
LOCAL = {"local_channel_attention_fwd", "local_channel_attention_bwd"}
ATTENTIONS = LOCAL | {"channel_gate_fwd", "channel_attention_fwd", "channel_attention_bwd"}


def call_all(
    h: int = 16, w: int = 24, c: int = 12, r: int = 16, k: int = 4, s: int = 4,
    dtype: torch.dtype = torch.float16, layout: torch.memory_format = torch.contiguous_format, added: str = "lr",
) -> set[str]:  # fmt: skip
    """Every operator, without running a kernel; the keys that are in the file then."""

    def meta(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    high, stack, x = meta(1, c, s * h, s * w), meta(1, c * s * s, h, w), meta(1, c, h, w).to(memory_format=layout)
    skip, residual = (meta(1, c, h, w), x) if added == "lr" else (high, None)
    factors = (meta(1, r, h, w), meta(c * s * s, r), meta(c * s * s), meta(1, c), skip)
    layers = (meta(k, c), meta(k), meta(c, k), meta(c))
    options = {"upscale_factor": s, "skip_bicubic": "matlab"}
    with record_launches():
        backend.lowrank_pixel_shuffle_fwd(*factors, **options)
        backend.lowrank_pixel_shuffle_bwd(high, *factors, **options, needs=(True,) * 4 + (added == "lr",))
        backend.pixel_shuffle_epilogue_fwd(stack, None, skip, **options)
        backend.pixel_shuffle_epilogue_bwd(high, stack, None, skip, **options, needs=(True, False, False))
        backend.channel_gate_fwd(x, *layers)
        backend.channel_attention_fwd(x, *layers, residual)
        backend.channel_attention_bwd(x, x, meta(1, c).float(), *layers, needs=(True,) * 5)
        backend.local_channel_attention_fwd(x, layers[0], layers[2], residual, window=5)
        backend.local_channel_attention_bwd(x, x, layers[0], layers[2], window=5, needs=(True,) * 3)
    return set(json.loads(tune.cache_file().read_text())["Card A"])


@pytest.mark.parametrize(
    ("change", "operators"),
    [
        ({"h": 7, "w": 331}, set()),  # another height and width use what was found
        ({"c": 20}, SHUFFLES | ATTENTIONS),
        ({"r": 32}, LOWRANK),
        ({"k": 8}, LOCAL | {"channel_attention_fwd"}),
        ({"s": 2}, SHUFFLES),
        ({"dtype": torch.float32}, SHUFFLES | ATTENTIONS),
        ({"layout": torch.channels_last}, ATTENTIONS),
        ({"added": "hr"}, {op for op in SHUFFLES | ATTENTIONS if op.endswith("_fwd")} - {"channel_gate_fwd"}),
    ],
    ids=["image", "channels", "rank", "hidden", "scale", "dtype", "layout", "skip"],
)  # fmt: skip
def test_every_operator_is_tuned_for_what_its_tiles_depend_on(card: Card, change: dict, operators: set[str]) -> None:
    """One timing of each candidate per operator and key."""
    before = call_all()
    assert {key.split()[0] for key in before} == SHUFFLES | ATTENTIONS
    timed = card.timed
    assert {key.split()[0] for key in call_all(**change) - before} == operators
    assert (card.timed > timed) == bool(operators)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


def agree(found: list[Tensor | None], wanted: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> None:
    """Result and gradients against float64; 2e-6: sums of some hundred products in float32."""
    exact = [t.double().requires_grad_() for t in inputs]
    out = wanted(*exact)
    for got, want in zip(found, [out.detach(), *torch.autograd.grad(out, exact, grad.double())], strict=True):
        assert got is not None and error(got, want) < 2e-6


@can_run
@pytest.mark.parametrize(("s", "index"), [(4, 1), (4, 2), (4, -1), (3, 1), (3, -1)])
def test_candidates_upsample_right(s: int, index: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE)

    options = {"upscale_factor": s, "skip_bicubic": "matlab"}
    z, weight, bias, gate = randn(1, 5, 3, 13), randn(5 * s * s, 5), randn(5 * s * s), randn(1, 5)
    skip, grad, y = randn(1, 5, 3, 13), randn(1, 5, 3 * s, 13 * s), randn(1, 5 * s * s, 3, 13)
    factors = [z, weight, bias, gate, skip]
    with tune.candidate(index):
        out = backend.lowrank_pixel_shuffle_fwd(*factors, **options)
        gradients = backend.lowrank_pixel_shuffle_bwd(grad, *factors, **options, needs=(True,) * 5)
        shuffled = backend.pixel_shuffle_epilogue_fwd(y, gate, skip, **options)
        others = backend.pixel_shuffle_epilogue_bwd(grad, y, gate, skip, **options, needs=(True,) * 3)
    agree([out, *gradients], lambda *t: reference.lowrank_pixel_shuffle(*t, **options), factors, grad)
    agree([shuffled, *others], lambda *t: reference.pixel_shuffle_epilogue(*t, **options), [y, gate, skip], grad)


@can_run
@pytest.mark.parametrize("index", [1, 2, 3])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_candidates_attend_right(index: int, memory: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 9, 5, 13), (3, 9), (3,), (9, 3), (9,)]
    inputs = [torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes]
    inputs[0] = inputs[0].contiguous(memory_format=memory)
    inputs[2] = inputs[2].abs()
    grad = torch.randn(shapes[0], generator=generator).to(DEVICE)
    with tune.candidate(index):
        out, mean = backend.channel_attention_fwd(*inputs, None)
        gradients = backend.channel_attention_bwd(grad, inputs[0], mean, *inputs[1:], needs=(True,) * 5)
    agree([out, *gradients], reference.channel_attention, inputs, grad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_on_a_card(monkeypatch, tmp_path: Path) -> None:
    """The real timer: a winner is found and kept, and the tuned call is as right as the default."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LKCA_TRITON_TUNE", "1")
    tune.forget()
    z, weight = torch.randn(1, 32, 64, 64, device="cuda"), torch.randn(128 * 16, 32, device="cuda")
    options = {"upscale_factor": 4, "skip_bicubic": "matlab"}
    out = backend.lowrank_pixel_shuffle_fwd(z, weight, None, None, None, **options)
    wanted = reference.lowrank_pixel_shuffle(z.double(), weight.double(), None, None, None, upscale_factor=4)
    assert error(out, wanted) < 2e-6
    (tiles,) = json.loads(tune.cache_file().read_text()).values()
    assert len(tiles) == 1
    assert os.listdir(tune.cache_file().parent) == [tune.cache_file().name]
    tune.forget()
