"""Artifacts that differ in some tensors: what an earlier one coded is taken over, to the same bytes."""

import dataclasses

import pytest
import torch

from bytegolf.artifact import container
from bytegolf.artifact.container import Coded, Contents, pack
from bytegolf.compression.grid import Grid, Quantized


def test_only_what_changed_is_coded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second, third = (torch.randn(12, 8, generator=generator) for _ in range(3))
    tensors: dict[str, Quantized | torch.Tensor] = {
        "a": Grid(6).quantize(first),
        "b": Grid(6).quantize(second),
        "gain": third,
    }
    contents = Contents({}, b"", tensors, {"a": "embedding", "b": "head", "gain": "scalar"}, {})
    known: Coded = {}
    assert pack(contents, known) == pack(contents)
    later = [
        dataclasses.replace(contents, tensors={**tensors, "b": Grid(4).quantize(second)}),
        dataclasses.replace(contents, tensors={**tensors, "gain": third + 1}),
        dataclasses.replace(contents, roles={**contents.roles, "a": "mlp_up"}),
    ]
    expected = [pack(changed) for changed in later]
    names: list[str] = []
    original = container._pack_tensor

    def counted(name: str, role: str, tensor: Quantized | torch.Tensor) -> object:
        names.append(name)
        return original(name, role, tensor)

    monkeypatch.setattr(container, "_pack_tensor", counted)
    # Each time the one that changed, and the one that is as it was at first again.
    assert [pack(changed, known) for changed in later] == expected
    assert names == ["b", "b", "gain", "a", "gain"]
