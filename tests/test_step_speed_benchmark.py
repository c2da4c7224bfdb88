"""benchmarks/step_speed.py: a network and a recipe are timed, and kernels are told apart by their names."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bytegolf.model.attention import Attention
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Recipe
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training
from bytegolf.tree import to_json

SHORT = ["--rows", "2", "--passes", "2", "--steps", "1", "--vocabulary", "300"]


def test_a_network_and_a_recipe_are_timed(
    benchmark_script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    script = benchmark_script("step_speed")
    block = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=32))
    model = Model(width=16, layers=(block,) * 4, loop=Loop(first=1, last=2, passes=3, start=0.5))
    recipe = Recipe(
        name="toy", tokens=Bytes(), model=model, training=Training(Budget(steps=1), length=32, clip=1.0)
    )
    path, out = tmp_path / "toy.json", tmp_path / "out.json"
    path.write_text(json.dumps(to_json(recipe)))
    own = ["--width", "16", "--layers", "2", "--hidden", "32", "--length", "32"]
    for words in (own, ["--recipe", str(path)], ["--recipe", str(path), "--looped"]):
        script.main([*SHORT, *words, "--out", str(out)])
        record = json.loads(out.read_text())
        assert record["length"] == 32
        assert record["tokens_per_second"] * record["step_seconds"] == pytest.approx(2 * 2 * 32)
        assert record["first_pass_seconds"] <= record["first_step_seconds"]
        assert record["machine"]["torch"]


def test_kernels_are_told_apart(benchmark_script: Callable[[str], ModuleType]) -> None:
    kinds_of = benchmark_script("step_speed").kinds_of
    kernels = [
        ("nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_NNT", 3000.0),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits>", 500.0),
        ("kernel_cutlass_kernel_flash_attncuteflash_bwd_sm90FlashAttentionBac", 2000.0),
        ("_projection_kernel", 250.0),
        ("triton_per_fused__fused_rms_norm", 125.0),
        ("Memcpy DtoH (Device -> Pinned)", 1.0),
        ("void at::native::reduce_kernel<128>", 2.0),
    ]
    assert kinds_of(kernels) == {
        "matrix products": 3.0,
        "attention": 2.5,
        "own kernels": 0.25,
        "compiled": 0.125,
        "other": 0.002,
        "copies": 0.001,
    }
