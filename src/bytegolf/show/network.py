"""A recipe as a plan, before anything is trained: layers, parameters, bytes, memory, work.

Shapes: B rows, T tokens, D width.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from bytegolf.errors import RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.block import Block, Layer
from bytegolf.model.lanes import LaneLayer, Lanes
from bytegolf.model.loop import layer_order
from bytegolf.model.roles import LOOKUP_ROLES, Role, parameter_roles
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import first_share
from bytegolf.model.stream import Stream
from bytegolf.recipe import Recipe
from bytegolf.runner import compute_dtype
from bytegolf.show.artifact_bytes import ArtifactPlan, artifact_plan
from bytegolf.tokens.spec import Bytes, SentencePiece, TokenizerFile
from bytegolf.tokens.tokenizer import ByteTokenizer, load_tokenizer
from bytegolf.training.muon import Muon
from bytegolf.training.ranks import chosen_device

#: A piece of a trained table takes 1.6 to 3.1 bytes (512 to 8,192 pieces of the King James Bible).
_TABLE_BYTES_PER_PIECE = 3.0


@dataclass(frozen=True)
class LayerPlan:
    """One layer at one place in the order of scoring; with a loop, a layer has several.

    index: the place. layer: the layer's number. turn: how often it has run before. skip_to: the place that
    adds this one's output again, if any. matrices: (name, shape). joining: how mixer and MLP are.
    """

    index: int
    layer: int
    turn: int
    mixer: str
    mlp: str
    parameters: int
    matrices: tuple[tuple[str, tuple[int, ...]], ...]
    skip_to: int | None
    joining: Literal["in turn", "parallel", "two lanes"] = "in turn"


@dataclass(frozen=True)
class NetworkPlan:
    """Everything that `bytegolf show` says about a recipe.

    roles: parameters by role. memory: bytes of one process by what they hold, estimated. flops_forward: of
    one token as it is scored, multiply-adds counted twice; flops_forward_training: with a loop's passes in
    training. steps: what the budget holds; None if only seconds limit it and no speed is given.
    """

    recipe: Recipe
    device: str
    tokenizer: str
    layers: tuple[LayerPlan, ...]
    roles: dict[str, int]
    artifact: ArtifactPlan
    memory: dict[str, int]
    flops_forward: float
    flops_forward_training: float
    steps: int | None

    @property
    def parameters(self) -> int:
        return sum(self.roles.values())

    @property
    def flops_training(self) -> float:
        """The backward pass takes two matrix products for each one of the forward pass."""
        return 3.0 * self.flops_forward_training


def plan_of(
    recipe: Recipe, *, tokens_per_second: float | None = None, device: torch.device | None = None
) -> NetworkPlan:
    """The plan of a recipe on a device (by default this machine's). No text is read.

    Raises `BytegolfError` if the recipe cannot be built, and for a tokenizer file that cannot be read.
    """
    if tokens_per_second is not None and tokens_per_second <= 0:
        raise RecipeError(f"tokens_per_second={tokens_per_second}; give a positive number")
    device = device or chosen_device("auto")
    vocabulary, table_bytes, tokenizer = _tokenizer(recipe)
    recipe = recipe.with_vocabulary(vocabulary)
    with torch.device("meta"):
        model = recipe.model.build()
    loop = recipe.model.loop
    roles: Counter[str] = Counter()
    parameters = dict(model.named_parameters())
    for name, role in parameter_roles(model).items():
        roles[str(role)] += parameters[name].numel()
    return NetworkPlan(
        recipe=recipe,
        device=device.type,
        tokenizer=tokenizer,
        layers=tuple(_layers(recipe, model)),
        roles=dict(roles),
        artifact=artifact_plan(model, recipe, table_bytes),
        memory=_memory(recipe, model, device),
        flops_forward=_flops(recipe, model, None if loop is None else loop.scored_passes),
        flops_forward_training=_flops(recipe, model, None),
        steps=_steps(recipe, tokens_per_second),
    )


def _tokenizer(recipe: Recipe) -> tuple[int, int, str]:
    """Vocabulary, bytes of the table in an artifact, and a description."""
    match recipe.tokens:
        case Bytes():
            return ByteTokenizer.vocabulary, len(ByteTokenizer().to_bytes()), "bytes"
        case SentencePiece(vocabulary=vocabulary):
            return (
                vocabulary,
                round(_TABLE_BYTES_PER_PIECE * vocabulary),
                "SentencePiece, trained on the text",
            )
        case TokenizerFile(path=path):
            found = load_tokenizer(path)
            return found.vocabulary, len(found.to_bytes()), f"{found.kind} from {path}"


def describe(spec: object) -> str:
    """A component's settings in a few words: those that are on."""
    settings = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in vars(spec).items()
        if value not in (None, 0, False)
    ]
    return f"{type(spec).__name__} ({', '.join(settings)})"


def _layers(recipe: Recipe, model: LanguageModel) -> Iterator[LayerPlan]:
    order, storing, skips = model.stack.order, model.stack.storing, model.stack.skips
    for index, number in enumerate(order):
        spec, own = recipe.model.layers[number], list(model.stack.layers[number].named_parameters())
        yield LayerPlan(
            index,
            number,
            order[:index].count(number),
            describe(spec.mixer),
            describe(spec.mlp),
            sum(value.numel() for _, value in own),
            tuple(
                (name.removesuffix(".weight"), tuple(v.shape)) for name, v in own if name.endswith(".weight")
            ),
            # The last one stored is the first one used again.
            2 * storing - 1 - index if storing - skips <= index < storing else None,
            "two lanes" if _in_lanes(recipe.model, number) else "parallel" if spec.parallel else "in turn",
        )


def _in_lanes(model: Model, layer: int) -> bool:
    return model.lanes is not None and layer >= model.lanes.start


def _flops(recipe: Recipe, model: LanguageModel, passes: int | None) -> float:
    """Of one token, forward: two for every weight of a matrix each time it is used, and the attention.

    The head's are among them; tables that are only looked up are not. passes: of a loop; None as in training.
    """
    order = layer_order(len(recipe.model.layers), recipe.model.loop, passes)
    times, length = Counter(order), recipe.training.length
    layers = model.stack.layers
    inside = [_multiplied(layer) for layer in layers]
    work = 2.0 * (_multiplied(model) - sum(inside))
    for number, layer in enumerate(layers):
        work += times[number] * (2.0 * inside[number] + layer.mixer.flops_per_token(length))
    return work


def _multiplied(module: nn.Module) -> int:
    """Weights that a token is multiplied with."""
    roles = parameter_roles(module)
    unmultiplied = LOOKUP_ROLES | {Role.SCALAR}
    return sum(value.numel() for name, value in module.named_parameters() if roles[name] not in unmultiplied)


def _steps(recipe: Recipe, tokens_per_second: float | None) -> int | None:
    budget, tokens = recipe.training.budget, recipe.training.tokens_per_step
    limits = []
    if budget.steps is not None:
        limits.append(budget.steps)
    if budget.tokens is not None:
        limits.append(budget.tokens // tokens)
    if budget.seconds is not None and tokens_per_second is not None:
        limits.append(int(budget.seconds * tokens_per_second / tokens))
    return min(limits) if limits else None


def _memory(recipe: Recipe, model: LanguageModel, device: torch.device) -> dict[str, int]:
    """Bytes of one process. Weights and optimizer state are exact; activations are those of eager code."""
    spec = recipe.training
    dtype = compute_dtype(spec.precision, device)
    element = 8 if dtype == torch.float64 else 4
    roles = parameter_roles(model)
    state = matrices = total = 0
    for name, value in model.named_parameters():
        muon = isinstance(spec.optimizers.treatment(roles[name]), Muon)
        state += value.numel() * (1 if muon else 2)
        matrices += value.numel() if roles[name] != "scalar" else 0
        total += value.numel()
    memory = {"weights": total * element, "gradients": total * element, "optimizer": state * element}
    if spec.average is not None:
        memory["average"] = total * element
    if recipe.compression.quantization_aware_from is not None or recipe.compression.noise is not None:
        memory["quantized weights"] = matrices * element
    memory["activations"] = _activations(recipe, device, dtype)
    return memory


def _activations(recipe: Recipe, device: torch.device, dtype: torch.dtype) -> int:
    """What the forward pass of `forward_rows` rows keeps for the backward pass.

    Measured on this processor, one layer of each kind, by watching what autograd saves: for one row and for
    two, since casts of weights are kept once. Packed attention on GPUs keeps no T × T matrix: there rows are
    measured short, where that matrix is small, and scaled.
    """
    spec = recipe.training
    measured = spec.context if device.type == "cpu" else min(spec.length, 64)
    rows = min(spec.rows, spec.forward_rows) * spec.length / measured
    kept = 0.0
    order = layer_order(len(recipe.model.layers), recipe.model.loop)
    model = recipe.model
    kinds = ((model.layers[number], model.lanes if _in_lanes(model, number) else None) for number in order)
    for (block, lanes), count in Counter(kinds).items():
        one, two = (_kept(block, lanes, model, measured, n, dtype) for n in (1, 2))
        kept += count * ((2 * one - two) + (two - one) * rows)
    tokens = min(spec.rows, spec.forward_rows) * spec.length
    # Embedding, first and last normalization; on GPUs also the logits and their float32 gradient.
    ends = 4 * recipe.model.width * dtype.itemsize
    if device.type != "cpu":
        ends += recipe.model.vocabulary * (dtype.itemsize + 4)
    return round(kept + tokens * ends)


def _kept(block: Block, lanes: Lanes | None, model: Model, length: int, rows: int, dtype: torch.dtype) -> int:
    """Bytes that one layer's forward pass keeps for its backward pass, its parameters aside."""
    width, share = model.width, first_share(model.residual_mix, 0, 1)
    layer: Layer = block.build(width, "layer", input_share=share)
    if lanes is not None:
        layer = LaneLayer(block, lanes, width, "layer", input_share=share, norm_scale=None)
    if dtype == torch.float64:
        layer.double()
    own = {parameter.data_ptr() for parameter in layer.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    x_BTD = torch.randn(rows, length, width, dtype=dtype).requires_grad_()
    stream = Stream.of(torch.zeros(rows, length, dtype=torch.bool))
    if isinstance(block.mixer, Attention) and block.mixer.shared_values:
        shared_BTX = torch.randn(rows, length, block.mixer.value_width(width), dtype=dtype)
        stream.shared_values_BTX = shared_BTX.requires_grad_()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        # The output must stay alive while sizes are taken: freed memory would be counted under one address.
        streams = [x_BTD] if lanes is None else [x_BTD, x_BTD.detach().clone().requires_grad_()]
        left = layer(*streams, x_BTD.detach().clone().requires_grad_(), stream)
    assert (left if lanes is None else left[0]).shape == x_BTD.shape
    return sum(sizes.values())
