"""The plan of a recipe: its sums, its predictions against the real thing, its drawing."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bytegolf.artifact.container import Contents, pack
from bytegolf.compression.compress import compress_model
from bytegolf.compression.grid import Grid, LeastSquares, StandardDeviations
from bytegolf.compression.residual import LowRankCorrection
from bytegolf.compression.spec import Compression, FitBytes, FixedBits
from bytegolf.errors import BytegolfError, RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.gates import OutGate
from bytegolf.model.mlp import SquaredMlp, SwiGlu
from bytegolf.model.roles import parameter_roles
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Recipe
from bytegolf.show.artifact_bytes import gaussian_bytes
from bytegolf.show.network import plan_of
from bytegolf.show.page import print_plan, size_of
from bytegolf.show.picture import arc_columns, draw_svg, text_picture
from bytegolf.tokens.spec import Bytes, SentencePiece, TokenizerFile
from bytegolf.tokens.tokenizer import ByteTokenizer
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training
from bytegolf.tree import to_json

CPU = torch.device("cpu")
LAYER = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=128))
RECIPE = Recipe(
    name="small",
    tokens=Bytes(),
    model=Model(width=64, layers=(LAYER,) * 5),
    training=Training(Budget(seconds=100, steps=1000), rows=8, length=32, forward_rows=4),
    compression=Compression(FixedBits(Grid(6, StandardDeviations(11)))),
)


def shown(recipe: Recipe, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        print_plan(console, plan_of(recipe, device=CPU))
    return console.export_text()


def test_parameters_by_role_and_by_layer_add_up_to_the_model() -> None:
    plan = plan_of(RECIPE, device=CPU)
    model = replace(RECIPE.model, vocabulary=257).build()
    counts = {name: value.numel() for name, value in model.named_parameters()}
    assert plan.parameters == sum(counts.values())
    for role in set(parameter_roles(model).values()):
        own = sum(counts[name] for name, found in parameter_roles(model).items() if found == role)
        assert plan.roles[str(role)] == own
    outside = counts["embedding.weight"] + counts["stack.skip_ND"]
    assert sum(layer.parameters for layer in plan.layers) + outside == plan.parameters


@pytest.mark.parametrize("grid", [Grid(6, StandardDeviations(11)), Grid(8), Grid(4, StandardDeviations(7))])
def test_predicted_bytes_are_those_of_a_model_with_gaussian_weights(grid: Grid) -> None:
    recipe = replace(RECIPE, model=replace(RECIPE.model, width=128), compression=Compression(FixedBits(grid)))
    predicted = plan_of(recipe, device=CPU).artifact
    recipe = recipe.with_vocabulary(257)
    torch.manual_seed(5)
    model = recipe.model.build()
    parameters = {name: 0.1 * torch.randn_like(value) for name, value in model.named_parameters()}
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    compressed = compress_model(parameters, roles, FixedBits(grid).grids())
    contents = Contents(to_json(recipe), ByteTokenizer().to_bytes(), compressed, roles, {})
    account = pack(contents)[1]
    assert predicted.total_bytes == pytest.approx(account.total_bytes, rel=0.015)
    for role in predicted.roles:
        assert role.bytes == pytest.approx(dict(account.parts)[role.role], rel=0.04), role


@pytest.mark.parametrize(("bits", "k"), [(6, 12.85), (6, 11.5), (7, 15), (8, 20), (5, 9)])
def test_the_law_for_clips_of_standard_deviations_holds(bits: int, k: float) -> None:
    grid = Grid(bits, StandardDeviations(k))
    bits_per_weight = 8 * gaussian_bytes((2048, 1024), grid) / (2048 * 1024)
    assert bits_per_weight == pytest.approx(2.047 - math.log2(k / grid.limit), abs=0.04)


def test_fewer_bits_and_coarser_clips_take_fewer_bytes() -> None:
    shape = (300, 200)
    sizes = [gaussian_bytes(shape, Grid(bits, LeastSquares())) for bits in (8, 6, 4, 2)]
    assert sizes == sorted(sizes, reverse=True)
    assert gaussian_bytes(shape, Grid(6, StandardDeviations(14))) < gaussian_bytes(
        shape, Grid(6, StandardDeviations(11))
    )


def test_a_fitted_plan_shows_the_finest_choice_within_the_budget() -> None:
    def fitted(budget: int) -> Recipe:
        return replace(RECIPE, compression=Compression(FitBytes(), budget_bytes=budget))

    roomy = plan_of(fitted(10_000_000), device=CPU).artifact
    assert roomy.least_bytes is not None
    assert {role.grid for role in roomy.roles} == {FitBytes().choices[0]}
    middle = (roomy.total_bytes + roomy.least_bytes) // 2
    between = plan_of(fitted(middle), device=CPU).artifact
    assert roomy.least_bytes < between.total_bytes <= middle
    tight = plan_of(fitted(1000), device=CPU).artifact
    assert tight.total_bytes == tight.least_bytes
    # The header says the budget too, in a few digits more or less.
    assert tight.least_bytes == pytest.approx(roomy.least_bytes, abs=20)
    assert "missed by about" in shown(fitted(1000))


def test_memory_counts_each_copy_of_the_weights() -> None:
    plan = plan_of(RECIPE, device=CPU)
    total, matrices = plan.parameters, plan.parameters - plan.roles["scalar"]
    assert plan.memory["weights"] == plan.memory["gradients"] == plan.memory["average"] == 4 * total
    # Muon keeps one number a weight, AdamW (embedding, scalars) two.
    assert plan.memory["optimizer"] == 4 * (total + plan.roles["embedding"] + plan.roles["scalar"])
    assert "quantized weights" not in plan.memory
    aware = replace(RECIPE, compression=replace(RECIPE.compression, quantization_aware_from=0.5))
    assert plan_of(aware, device=CPU).memory["quantized weights"] == 4 * matrices


def test_activations_grow_with_rows_in_flight_and_are_what_autograd_keeps() -> None:
    def activations(rows: int) -> int:
        training = replace(RECIPE.training, forward_rows=rows, precision="float32")
        return plan_of(replace(RECIPE, training=training), device=CPU).memory["activations"]

    # Scaled copies of weights are kept once, whatever the number of rows.
    fixed = 2 * activations(2) - activations(4)
    assert 0 < fixed < activations(4) / 2
    assert activations(8) - fixed == pytest.approx(4 * (activations(2) - fixed), rel=0.02)
    model = replace(RECIPE.model, vocabulary=257).build()
    own = {value.data_ptr() for value in model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.randint(0, 257, (4, 32))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.losses(ids, ids, torch.zeros(4, 32, dtype=torch.bool))
    assert loss.shape == (4, 32)
    assert activations(4) == pytest.approx(sum(sizes.values()), rel=0.15)


def test_work_is_two_operations_a_weight_and_the_attention() -> None:
    plan = plan_of(RECIPE, device=CPU)
    attention = 5 * 4 * (32 / 2) * 64
    assert plan.flops_forward == 2 * (plan.parameters - plan.roles["scalar"]) + attention
    assert plan.flops_training == 3 * plan.flops_forward


def test_steps_are_what_the_first_limit_allows() -> None:
    assert plan_of(RECIPE, device=CPU).steps == 1000
    assert plan_of(RECIPE, device=CPU, tokens_per_second=256.0).steps == 100
    only_seconds = replace(RECIPE, training=replace(RECIPE.training, budget=Budget(seconds=9)))
    assert plan_of(only_seconds, device=CPU).steps is None
    assert "--tokens-per-second" in shown(only_seconds)
    by_tokens = replace(RECIPE, training=replace(RECIPE.training, budget=Budget(tokens=1000)))
    assert plan_of(by_tokens, device=CPU).steps == 3
    with pytest.raises(RecipeError, match="tokens_per_second=-1"):
        plan_of(RECIPE, tokens_per_second=-1)


def test_the_vocabulary_comes_from_the_tokenizer() -> None:
    assert plan_of(RECIPE, device=CPU).recipe.model.vocabulary == 257
    pieces = replace(RECIPE, tokens=SentencePiece(vocabulary=700))
    assert plan_of(pieces, device=CPU).roles["embedding"] == 700 * 64
    with pytest.raises(BytegolfError, match=r"absent\.model"):
        plan_of(replace(RECIPE, tokens=TokenizerFile("absent.model")), device=CPU)


@pytest.mark.parametrize("layers", [1, 2, 4, 5, 9])
def test_arcs_join_the_layers_that_the_network_joins(layers: int) -> None:
    recipe = replace(RECIPE, model=replace(RECIPE.model, layers=(LAYER,) * layers))
    plan = plan_of(recipe, device=CPU)
    rows = arc_columns(plan.layers)
    for layer in plan.layers:
        if layer.skip_to is None:
            continue
        column = rows[layer.index].index("╮")
        assert rows[layer.skip_to][column] == "╯"
        assert all(rows[i][column] == "│" for i in range(layer.index + 1, layer.skip_to))
    shown_joins = {(layer.index, layer.skip_to) for layer in plan.layers if layer.skip_to is not None}
    model = replace(recipe.model, vocabulary=257).build()
    outputs: list[torch.Tensor] = []
    joins: set[tuple[int, int]] = set()
    for block in model.stack.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))

    def merge(x: torch.Tensor, skip: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        joins.add((next(i for i, output in enumerate(outputs) if output is skip), len(outputs)))
        return x + factor * skip

    model.stack.merge = merge
    ids = torch.zeros(1, 3, dtype=torch.int64)
    model.losses(ids, ids, torch.zeros(1, 3, dtype=torch.bool))
    assert joins == shown_joins


def test_without_skips_there_are_no_arcs() -> None:
    plan = plan_of(replace(RECIPE, model=replace(RECIPE.model, skips=False)), device=CPU)
    assert arc_columns(plan.layers) == [""] * 5


def test_the_page_names_each_kind_of_layer_once() -> None:
    layers = (LAYER, LAYER, Block(Attention(heads=2, key_value_heads=1, window=7), SwiGlu(96)), LAYER)
    page = shown(replace(RECIPE, model=replace(RECIPE.model, layers=layers)))
    assert "0–1" in page
    assert "window 7" in page
    assert "SwiGlu" in page
    assert "mlp.gate 96 × 64" in page
    assert len(text_picture(plan_of(RECIPE, device=CPU))) == 7


def test_the_drawing_is_a_picture_file(tmp_path: Path) -> None:
    plan = plan_of(RECIPE, device=CPU)
    draw_svg(plan, tmp_path / "net.svg")
    assert "<svg" in (tmp_path / "net.svg").read_text()
    draw_svg(plan, tmp_path / "net.png")
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RecipeError, match=r"net\.gif"):
        draw_svg(plan, tmp_path / "net.gif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.png", "net.svg"]


def test_sizes_are_decimal() -> None:
    assert (size_of(1_500_000), size_of(2_500_000_000)) == ("1.5 MB", "2.5 GB")


def test_corrections_and_gates_are_counted() -> None:
    gated = replace(
        LAYER, mixer=Attention(heads=2, key_value_heads=1, gate=OutGate(channels=64, reads="residual"))
    )
    recipe = replace(RECIPE, model=replace(RECIPE.model, layers=(gated,) * 5))
    spec = recipe.compression
    plain = plan_of(recipe, device=CPU).artifact
    assert "gate" not in {role.role for role in plain.roles}
    corrected = replace(spec, correction=LowRankCorrection(matrices=2))
    more = plan_of(replace(recipe, compression=corrected), device=CPU).artifact
    assert more.total_bytes - plain.total_bytes == pytest.approx(2 * 4 * (257 * 2 + 64 * 4) / 8, rel=0.5)
    gates = replace(spec, gates=Grid(4, StandardDeviations(5)))
    less = plan_of(replace(recipe, compression=gates), device=CPU).artifact
    (row,) = (role for role in less.roles if role.role == "gate")
    assert row.parameters == 5 * 2 * 64
    assert less.other_bytes < plain.other_bytes
