"""FlashAttention 4: our side of it on a stand-in for the package, the package itself on GPUs that have it."""

import importlib.metadata
import importlib.util
import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bytegolf.errors import BytegolfError, PackageError
from bytegolf.kernels import attention
from bytegolf.kernels.attention import attend, flash4, segments_from_starts
from bytegolf.kernels.attention.reference import attention as reference
from bytegolf.kernels.attention.varlen import Segments
from bytegolf.kernels.attention.visibility import allowed_keys
from bytegolf.kernels.deterministic import deterministic_algorithms
from bytegolf.model.stream import Stream
from bytegolf.running.environment import describe_environment

Shape = tuple[int, int, int, int, int]


class StandIn:
    """Takes and returns what the package does, by plain matrix products over one segment after another."""

    def __init__(self) -> None:
        self.windows: list[int | None] = []

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        qv: Tensor | None = None,
        cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k: Tensor | None = None,
        max_seqlen_q: int | None = None,
        max_seqlen_k: int | None = None,
        causal: bool = False,
        window_size_left: int | None = None,
        window_size_right: int | None = None,
        return_lse: bool = False,
    ) -> tuple[Tensor | None, ...]:
        assert cu_seqlens_q is not None
        assert cu_seqlens_q.dtype == torch.int32
        assert causal
        assert return_lse
        assert max_seqlen_q == max_seqlen_k
        self.windows.append(window_size_left)
        y, normalizer = (
            torch.empty_like(q, memory_format=torch.contiguous_format),
            q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32),
        )
        for rows in self._segments(cu_seqlens_q, max_seqlen_q):
            scores = self._scores(q[rows], k[rows], window_size_left)
            y[rows] = torch.einsum("hts,shk->thk", scores.softmax(-1), self._shared(v[rows], q)).to(q.dtype)
            normalizer[:, rows] = scores.logsumexp(-1).float()
        return y, normalizer, None, None, None

    def backward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        dout: Tensor,
        lse: Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size_left: int | None = None,
        cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k: Tensor | None = None,
        max_seqlen_q: int | None = None,
        max_seqlen_k: int | None = None,
        dq: Tensor | None = None,
        dk: Tensor | None = None,
        dv: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        assert cu_seqlens_q is not None
        assert dq is not None
        assert dk is not None
        assert dv is not None
        assert dout.is_contiguous()
        self.windows.append(window_size_left)
        for rows in self._segments(cu_seqlens_q, max_seqlen_q):
            shared_k, shared_v = self._shared(k[rows], q), self._shared(v[rows], q)
            toward, scale = dout[rows].double(), 1 / math.sqrt(q.shape[-1])
            weights = (self._scores(q[rows], k[rows], window_size_left) - lse[:, rows, None]).exp()
            along = torch.einsum("thk,shk->hts", toward, shared_v)
            slope = weights * (along - (toward * out[rows]).sum(-1).T[:, :, None]) * scale
            dq[rows] = torch.einsum("hts,shk->thk", slope, shared_k).to(q.dtype)
            for found, whole in (
                (dk, torch.einsum("hts,thk->shk", slope, q[rows].double())),
                (dv, torch.einsum("hts,thk->shk", weights, toward)),
            ):
                found[rows] = whole.unflatten(1, (k.shape[1], -1)).sum(2).to(q.dtype)
        return dq, dk, dv

    @staticmethod
    def _segments(offsets: Tensor, longest: int | None) -> list[slice]:
        found = [slice(*pair) for pair in zip(offsets.tolist(), offsets.tolist()[1:], strict=False)]
        assert longest is not None
        assert all(0 <= part.stop - part.start <= longest for part in found)
        return [part for part in found if part.stop > part.start]

    @staticmethod
    def _shared(x: Tensor, q: Tensor) -> Tensor:
        return x.double().repeat_interleave(q.shape[1] // x.shape[1], dim=1)

    def _scores(self, q: Tensor, k: Tensor, window: int | None) -> Tensor:
        scores = torch.einsum("thk,shk->hts", q.double(), self._shared(k, q)) / math.sqrt(q.shape[-1])
        places = torch.arange(q.shape[0])
        earlier = places[:, None] - places
        hidden = (earlier < 0) | (earlier > (q.shape[0] if window is None else window))
        return scores.masked_fill(hidden, -math.inf)


def installed(monkeypatch: pytest.MonkeyPatch, forward: object, backward: object) -> None:
    package, cute = ModuleType("flash_attn"), ModuleType("flash_attn.cute")
    interface = ModuleType("flash_attn.cute.interface")
    interface._flash_attn_fwd, interface._flash_attn_bwd = forward, backward  # type: ignore[attr-defined]
    for module in (package, cute, interface):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(flash4, "FLASH4_VERSION", "4.0.0b0")
    flash4.load_flash4.cache_clear()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in, installed, and taken on CPUs too."""
    stand_in = StandIn()
    installed(monkeypatch, stand_in.forward, stand_in.backward)
    monkeypatch.setattr(attention, "runs_flash4", lambda q: True)
    yield stand_in
    flash4.load_flash4.cache_clear()


def tensors(shape: Shape, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values in bfloat16, cut out of one tensor as a layer's are."""
    rows, length, heads, groups, width = shape
    whole = torch.randn(rows, length, heads + 2 * groups, width, generator=torch.Generator().manual_seed(3))
    parts = whole.to(device, torch.bfloat16).split([heads, groups, groups], dim=2)
    return tuple(part.detach().requires_grad_() for part in parts)  # type: ignore[return-value]


def documents(rows: int, length: int, share: float) -> Tensor:
    return torch.rand(rows, length, generator=torch.Generator().manual_seed(1)) < share


def attended(
    q: Tensor, k: Tensor, v: Tensor, stream: Stream, segments: Segments, window: int | None
) -> Tensor:
    return attend(
        q,
        k,
        v,
        document_BT=stream.document_BT,
        key_document_BS=stream.key_document_BS,
        positions_T=stream.positions_T,
        key_positions_S=stream.key_positions_S,
        window=window,
        segments=segments,
    )


def compare(
    body: Callable[..., Tensor], shape: Shape, window: int | None, *, share: float = 0.05, device: str = "cpu"
) -> None:
    """Outputs and gradients of `body`, called as `attended` is, against the reference in float64."""
    ours = tensors(shape, device)
    exact = [x.detach().double().requires_grad_() for x in ours]
    starts = documents(*shape[:2], share)
    stream, segments = Stream.of(starts, device=torch.device(device)), segments_from_starts(starts)
    segments = Segments(segments.offsets.to(device), segments.longest)
    assert int((segments.offsets == starts.numel()).sum()) > 1, "no padding to try"
    allowed = allowed_keys(
        stream.document_BT, stream.key_document_BS, stream.positions_T, stream.key_positions_S, window
    )
    y, expected = body(*ours, stream, segments, window), reference(*exact, allowed)
    assert y.dtype == torch.bfloat16
    assert float((y - expected).detach().norm() / expected.detach().norm()) < 0.01
    toward = torch.randn_like(y)
    found = torch.autograd.grad(y, ours, toward)
    theirs = torch.autograd.grad(expected, exact, toward.double())
    for gradient, right in zip(found, theirs, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert float((gradient - right).norm() / right.norm()) < 0.02


@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (4, 1)])
@pytest.mark.parametrize("window", [None, 1, 7])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_stand_in_attends_and_learns_as_the_reference(
    package: StandIn, heads: tuple[int, int], window: int | None, compiled: bool
) -> None:
    torch._dynamo.reset()
    body = torch.compile(attended, fullgraph=True, backend="aot_eager") if compiled else attended
    compare(body, (3, 40, *heads, 8), window)
    assert package.windows == [window, window]


def test_a_window_that_hides_nothing_is_not_one_of_its_own_kernels(package: StandIn) -> None:
    compare(attended, (2, 12, 2, 1, 8), 11)
    compare(attended, (2, 12, 2, 1, 8), 12)
    assert package.windows == [11, 11, None, None]


def test_both_operators_keep_what_torch_asks_of_one(package: StandIn) -> None:
    q, k, v = (x.detach().flatten(0, 1).requires_grad_() for x in tensors((2, 9, 4, 2, 8)))
    segments = segments_from_starts(documents(2, 9, 0.2))
    borders = (segments.offsets, segments.longest, 3)
    torch.library.opcheck(flash4._attention, (q, k, v, *borders))
    inputs = [x.detach() for x in (q, k, v)]
    y, normalizer = flash4._attention(*inputs, *borders)
    # A gradient may be laid out in any way.
    toward = torch.randn_like(y).transpose(0, 1).contiguous().transpose(0, 1)
    torch.library.opcheck(flash4._gradient, (toward, *inputs, y, normalizer, *borders))


def hopper(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.setattr(flash4, "FLASH4_VERSION", "4.0.0b0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


def queries(width: int = 64, device: str = "cuda") -> Tensor:
    with FakeTensorMode():
        return torch.empty(1, 8, 4, width, dtype=torch.bfloat16, device=device)


def test_training_on_the_gpus_it_was_written_for_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hopper(monkeypatch)
    assert flash4.runs_flash4(queries())
    assert flash4.runs_flash4(queries(128))
    hopper(monkeypatch, (10, 3))
    assert flash4.runs_flash4(queries())


def test_all_else_stays_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    hopper(monkeypatch)
    assert not flash4.runs_flash4(queries(device="cpu"))
    # Its gradients are wrong at 48, and were compared with the reference's at two widths alone.
    for width in (12, 32, 48, 96, 256):
        assert not flash4.runs_flash4(queries(width))
    with torch.no_grad():
        assert not flash4.runs_flash4(queries())
    for warn_only in (False, True):
        with deterministic_algorithms(warn_only=warn_only):
            assert not flash4.runs_flash4(queries())
    for other in ((8, 0), (12, 0)):
        hopper(monkeypatch, other)
        assert not flash4.runs_flash4(queries())
    hopper(monkeypatch)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert not flash4.runs_flash4(queries())
    monkeypatch.undo()
    hopper(monkeypatch)
    monkeypatch.setattr(flash4, "FLASH4_VERSION", None)
    assert not flash4.runs_flash4(queries())


def where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is where the package was there when it was imported."""
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.0.0b0")
    spec = importlib.util.spec_from_file_location("bytegolf_installed_flash4", flash4.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("choice", [True, False])
def test_compiled_code_takes_the_choice_as_a_constant(monkeypatch: pytest.MonkeyPatch, choice: bool) -> None:
    flash4 = where_it_is_installed(monkeypatch)
    # What the compiler cannot follow, as it cannot follow the driver.
    capability = memoryview(bytes((9, 0) if choice else (8, 0))).tolist
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: tuple(capability()))
    torch._dynamo.reset()
    q = torch.randn(1, 8, 4, 64)
    # As if on a GPU: the rest of the rule is asked of the tensor itself.
    device = torch.device("cuda")

    @torch.compile(fullgraph=True, backend="eager")
    def chosen(q: Tensor) -> Tensor:
        if flash4.runs_flash4(q):
            return q * 0
        return q + 1 if torch.is_grad_enabled() and flash4.flash4_trains_on(device) else q - 1

    assert torch.equal(chosen(q), q + 1 if choice else q - 1)
    with torch.no_grad():
        assert torch.equal(chosen(q), q - 1)


@pytest.mark.parametrize("missing", [None, "window_size_left", "dq"])
def test_a_package_that_does_not_fit_is_named_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, missing: str | None
) -> None:
    stand_in = StandIn()

    def other(q: Tensor, k: Tensor, v: Tensor) -> None:
        pass

    forward = other if missing == "window_size_left" else stand_in.forward
    backward = other if missing == "dq" else stand_in.backward
    installed(monkeypatch, forward, backward)
    if missing is None:
        monkeypatch.setitem(sys.modules, "flash_attn.cute.interface", None)
    q, k, v = tensors((1, 4, 2, 1, 8))
    starts = documents(1, 4, 0.5)
    with pytest.raises(PackageError, match=missing or "cannot be loaded") as found:
        flash4.flash4_attention(q, k, v, segments=segments_from_starts(starts), window=None)
    assert "pip uninstall flash-attn-4" in str(found.value)
    assert "\n" not in str(found.value)
    assert isinstance(found.value, BytegolfError)


def test_a_run_records_which_version_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        return "4.0.0b0" if name == "flash-attn-4" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert describe_environment()["packages"]["flash-attn-4"] == "4.0.0b0"


def flash4_is_here() -> bool:
    return torch.cuda.is_available() and flash4.flash4_trains_on(torch.device("cuda"))


needs_flash4 = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not flash4_is_here(), reason="needs a Hopper or Blackwell GPU and the package flash-attn-4"
    ),
    # What its compiler warns of concerns its makers.
    pytest.mark.filterwarnings("ignore"),
]


def on_gpu(test: Any) -> Any:
    for mark in needs_flash4:
        test = mark(test)
    return test


@on_gpu
@pytest.mark.parametrize("heads", [(8, 4), (8, 8)])
@pytest.mark.parametrize("window", [None, 256])
@pytest.mark.parametrize("compiled", [False, True])
def test_on_gpus_it_attends_and_learns_as_the_reference(
    heads: tuple[int, int], window: int | None, compiled: bool
) -> None:
    assert flash4.runs_flash4(tensors((1, 8, *heads, 64), "cuda")[0])
    torch._dynamo.reset()
    body = torch.compile(attended, fullgraph=True) if compiled else attended
    compare(body, (4, 640, *heads, 64), window, share=0.01, device="cuda")


@on_gpu
@pytest.mark.parametrize("shape", [(4, 300, 4, 2, 128), (2, 256, 8, 1, 128)])
def test_on_gpus_wide_heads_attend_and_learn_as_well(shape: Shape) -> None:
    compare(attended, shape, 100, share=0.02, device="cuda")


@on_gpu
def test_on_gpus_hundreds_of_documents_and_empty_segments_are_attended() -> None:
    compare(attended, (8, 512, 8, 4, 64), None, share=0.07, device="cuda")
    compare(attended, (2, 65, 8, 4, 64), None, share=0.9, device="cuda")


@on_gpu
def test_on_gpus_no_bit_crosses_a_document() -> None:
    q, k, v = (x.detach().clone().requires_grad_() for x in tensors((2, 128, 4, 2, 64), "cuda"))
    starts = torch.zeros(2, 128, dtype=torch.bool)
    starts[0, 50] = starts[1, 70] = True
    stream = Stream.of(starts, device=torch.device("cuda"))
    assert stream.segments is not None
    before = attended(q, k, v, stream, stream.segments, None)
    with torch.no_grad():
        k[0, 10:50] += 1.0
        v[0, 10:50] -= 1.0
    after = attended(q, k, v, stream, stream.segments, None)
    assert torch.equal(after[0, :10], before[0, :10])
    assert torch.equal(after[0, 50:], before[0, 50:])
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0, 10:50], before[0, 10:50])
