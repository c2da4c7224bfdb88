"""A network whose parts are fused, compiled as in training, against itself in float32 without.

How far 16 bits may lead off is what they do to the plain network on a CPU, where nothing is fused.
"""

import copy

import pytest
import torch
from fused_device import DEVICE, error

from bytegolf.kernels import activated_projection, capped_loss
from bytegolf.model.attention import Attention
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.friction import Friction
from bytegolf.model.mlp import SquaredMlp, XieluMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA GPU with Triton"),
]


#: Attention, and what stands in for its softmax.
MIXERS = {
    "softmax": Attention(heads=2, key_value_heads=1),
    "friction": Attention(heads=2, key_value_heads=1, friction=Friction(capacity=1.0), rotary=False),
    "friction, mu, learned": Attention(
        heads=2,
        key_value_heads=1,
        window=40,
        friction=Friction("mu", capacity=None, head_bias=True, head_friction=True),
    ),
    "friction in the softmax": Attention(
        heads=2, key_value_heads=1, friction=Friction("softmax", capacity=None, head_friction=True)
    ),
}


# What torch warns of while it compiles is torch's.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS.keys())
def test_losses_and_gradients_are_those_of_the_plain_network(mixer: Attention, compiled: bool) -> None:
    torch.manual_seed(0)
    mlps = SquaredMlp(160, slope=0.5), XieluMlp(160, learned=True)
    layers = tuple(Block(mixer, mlp) for mlp in mlps)
    spec = Model(width=128, layers=layers, embedding=TiedEmbedding(0.1, bias=True), vocabulary=300)
    plain = spec.build().cuda()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    fused, rounded = copy.deepcopy(plain), copy.deepcopy(plain).cpu()
    fused.compute_dtype = rounded.compute_dtype = torch.bfloat16
    if compiled:
        fused.compile_parts()
    ids = torch.randint(0, 300, (4, 96), device="cuda")
    starts = torch.rand(4, 96) < 0.05
    # The blocks, most of what is compiled, serve both.
    for z_loss in (0.0, 0.01):
        found = []
        for model in (plain, fused, rounded):
            model.zero_grad()
            read = ids.to(model.device)
            nats, penalty = (
                model.losses_and_penalties(read, read.roll(-1, 1), starts, z_loss=z_loss)
                if z_loss
                else (model.losses(read, read.roll(-1, 1), starts), torch.zeros((), device=read.device))
            )
            (nats.sum() + penalty.sum()).backward()
            found.append(nats)
        assert error(found[1], found[0].double()) < 0.01
        parameters = zip(fused.named_parameters(), rounded.parameters(), plain.parameters(), strict=True)
        for (name, ours), twin, exact in parameters:
            assert ours.grad is not None, name
            assert twin.grad is not None, name
            assert exact.grad is not None, name
            off, allowed = error(ours.grad, exact.grad), error(twin.grad.cuda(), exact.grad)
            assert off < 1.5 * allowed + 0.05, (name, off, allowed)


def test_the_dispatch_names_the_fused_bodies() -> None:
    x = torch.randn(4, 16, device="cuda")
    assert capped_loss.runs_fused(x.bfloat16())
    assert activated_projection.runs_fused(x.bfloat16())
    assert not capped_loss.runs_fused(x)
