"""The fused capped cross-entropy against the plain one in float64, where it can run."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from fused_device import (
    DEVICE,
    PLAIN,
    ROUNDING,
    TYPES,
    chosen,
    error,
    needs_fused,
    new_tensors_without_numbers,
)
from torch import Tensor

from bytegolf.kernels.capped_loss import CapForm, capped_cross_entropy, capped_cross_entropy_and_normalizer
from bytegolf.kernels.capped_loss.reference import capped_cross_entropy_and_normalizer as reference

pytestmark = needs_fused

#: One tile and a little, none full, one token, widths that the tile's depth does not divide, parts of the
#: vocabulary: 2,048 columns are one.
SHAPES = [(131, 48, 300), (128, 64, 128), (1, 8, 5), (70, 130, 33), (33, 16, 2100)]
SETTINGS = list(itertools.product([False, True], [("tanh", 5.0), ("polynomial", 5.0), ("tanh", None)]))


@pytest.fixture
def fused() -> Any:
    from bytegolf.kernels.capped_loss import triton

    return triton


def problem(
    shape: tuple[int, int, int], dtype: torch.dtype, biased: bool, seed: int = 0
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Leaves (states, table, perhaps bias), targets and weights of losses and normalizers."""
    tokens, width, vocabulary = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(tokens, width), (vocabulary, width)]
    leaves = [torch.randn(*size, generator=generator).to(DEVICE, dtype) for size in sizes]
    if biased:
        leaves.append(torch.randn(vocabulary, generator=generator).to(DEVICE))
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    targets[-1] = vocabulary - 1
    weights = (torch.randn(tokens, generator=generator).to(DEVICE) for _ in range(2))
    return [leaf.requires_grad_() for leaf in leaves], targets.to(DEVICE), *weights


def results(
    body: Any,
    leaves: list[Tensor],
    rest: tuple[Tensor, float | None, CapForm],
    weights: tuple[Tensor, Tensor],
) -> list[Tensor]:
    """Losses, normalizers and the gradients of the leaves."""
    bias = leaves[2] if len(leaves) == 3 else None
    nats, normalizers = body(leaves[0], leaves[1], bias, *rest)
    total = (nats * weights[0]).sum() + (normalizers * weights[1]).sum()
    return [nats, normalizers, *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("shape", "setting"),
    # The last cap is too large for sums without a maximum.
    [*chosen(SHAPES, SETTINGS), (SHAPES[0], (False, ("tanh", 90.0)))],
)
def test_fused_equals_reference(
    fused: Any,
    shape: tuple[int, int, int],
    setting: tuple[bool, tuple[CapForm, float | None]],
    dtype: torch.dtype,
) -> None:
    biased, (form, cap) = setting
    leaves, targets, *weights = problem(shape, dtype, biased)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    ours = results(
        fused.fused_capped_cross_entropy_and_normalizer, leaves, (targets, cap, form), tuple(weights)
    )
    theirs = results(reference, exact, (targets, cap, form), tuple(weights))
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        # Sums are in float32 whatever the operands; gradients pass through the operands' type.
        rounded = index >= 2 and dtype != torch.float32
        assert error(a, b) < (1e-2 if rounded else 1e-5), index
    assert [x.dtype for x in ours] == [torch.float32, torch.float32, *(leaf.dtype for leaf in leaves)]


# The interpreter's processor says that an exponential is infinite, as it is meant to be.
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
@pytest.mark.parametrize("form", ["tanh", "polynomial"])
def test_logits_far_beyond_the_cap_neither_overflow_nor_pull(fused: Any, form: CapForm) -> None:
    h = torch.full((2, 48), 1000.0, device=DEVICE, dtype=PLAIN, requires_grad=True)
    table = torch.tensor([[1000.0] * 48, [-1000.0] * 48], device=DEVICE, dtype=PLAIN, requires_grad=True)
    body = fused.fused_capped_cross_entropy_and_normalizer
    nats, _ = body(h, table, None, torch.tensor([0, 1], device=DEVICE), 3.0, form)
    expected = torch.tensor([0.0024757, 6.0024757], device=DEVICE)
    torch.testing.assert_close(nats, expected, rtol=0, atol=1e-6)
    for gradient in torch.autograd.grad(nats.sum(), (h, table)):
        assert not gradient.any()


def test_slabs_add_up(fused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves, targets, *weights = problem((131, 48, 50), PLAIN, biased=True)
    arguments = (
        fused.fused_capped_cross_entropy_and_normalizer,
        leaves,
        (targets, 4.0, "tanh"),
        tuple(weights),
    )
    whole = results(*arguments)
    monkeypatch.setattr(fused, "_SLAB", 50 * 70)
    assert fused.slab_rows(131, 50) == 64
    for a, b in zip(results(*arguments), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=ROUNDING, atol=ROUNDING)


def test_no_slab_is_a_small_rest(fused: Any) -> None:
    # As many entries as three slabs hold, but for one row.
    rows = fused.slab_rows(65_536, 12_288)
    assert (rows, 65_536 % rows) == (16_384, 0)
    assert fused.slab_rows(65_536, 8192) == 32_768


@pytest.mark.parametrize("shape", SHAPES)
def test_every_entry_is_written(fused: Any, shape: tuple[int, int, int]) -> None:
    (h, table), targets, *weights = problem(shape, PLAIN, biased=False)
    with torch.no_grad(), new_tensors_without_numbers():
        nats, normalizers = fused.losses_and_normalizers(h, table, None, targets, 4.0, "tanh")
        gradients = fused.logit_gradients(h, table, None, targets, normalizers, tuple(weights), 4.0, "tanh")
    assert nats.isfinite().all()
    assert gradients.isfinite().all()


def test_a_token_sees_neither_the_others_nor_their_targets(fused: Any) -> None:
    (h, table), targets, *_ = problem((200, 48, 70), PLAIN, biased=False)
    h, table = h.detach(), table.detach()
    before = fused.losses_and_normalizers(h, table, None, targets, 4.0, "tanh")[0]
    h[150:] += 1.0
    targets[150:] = 3
    after = fused.losses_and_normalizers(h, table, None, targets, 4.0, "tanh")[0]
    assert torch.equal(after[:150], before[:150])
    assert not torch.equal(after[150:], before[150:])


def test_the_operators_are_what_compiled_code_takes_them_for(fused: Any) -> None:
    (h, table, bias), targets, *weights = problem((20, 48, 40), PLAIN, biased=True)
    torch.library.opcheck(fused._loss, (h, table, bias, targets, 4.0, "tanh"))
    torch.library.opcheck(fused._loss, (h, table, None, targets, None, "tanh"))
    plain = [x.detach() for x in (h, table, bias)]
    torch.library.opcheck(fused._loss_gradient, (*plain, targets, weights[0], *weights, 4.0, "polynomial"))


def test_compiled_equals_eager(fused: Any) -> None:
    leaves, targets, *weights = problem((65, 48, 70), PLAIN, biased=False)
    arguments = (leaves, (targets, 4.0, "tanh"), tuple(weights))
    body = fused.fused_capped_cross_entropy_and_normalizer
    backend = "inductor" if DEVICE == "cuda" else "aot_eager"
    compiled = torch.compile(body, fullgraph=True, dynamic=False, backend=backend)
    for a, b in zip(results(compiled, *arguments), results(body, *arguments), strict=True):
        torch.testing.assert_close(a, b, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("width", [48, 50])
def test_descriptors_of_tiles_change_nothing(fused: Any, width: int) -> None:
    # Rows of 50 numbers are not aligned: there the tiles come by their addresses after all.
    (h, table), targets, *weights = problem((131, width, 300), TYPES[-1], biased=False)
    found = []
    for described in (False, True):
        forward, backward = (
            dataclasses.replace(tiles, descriptors=described)
            for tiles in (fused.FORWARD_TILES, fused.BACKWARD_TILES)
        )
        with torch.no_grad():
            both = fused.losses_and_normalizers(h, table, None, targets, 5.0, "tanh", tiles=forward)
            rest = (None, targets, both[1], tuple(weights), 5.0, "tanh")
            found.append((*both, fused.logit_gradients(h, table, *rest, tiles=backward)))
    for a, b in zip(*found, strict=True):
        assert a.any()
        torch.testing.assert_close(a, b, rtol=1e-2 if a.dtype == h.dtype else 1e-5, atol=1e-5)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA GPU")
def test_a_gpu_takes_the_fused_body_in_16_bits_and_stores_no_logits(
    fused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (h, table), targets, *_ = problem((8192, 64, 8192), torch.bfloat16, biased=False)
    body = fused.fused_capped_cross_entropy_and_normalizer
    nats, normalizers = body(h, table, None, targets, 4.0)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert torch.equal(capped_cross_entropy(h, table, None, targets, 4.0), nats)
    assert torch.equal(capped_cross_entropy_and_normalizer(h, table, None, targets, 4.0)[1], normalizers)
    # All logits would be 128 MiB in bfloat16.
    assert torch.cuda.max_memory_allocated() - before < 2**20
    monkeypatch.setattr(fused, "_SLAB", 2**24)
    for _ in range(2):
        # The library's own memory is taken the first time.
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(nats.sum(), (h, table), retain_graph=True)
    # A slab is 32 MiB.
    assert torch.cuda.max_memory_allocated() - before < 48 * 2**20
