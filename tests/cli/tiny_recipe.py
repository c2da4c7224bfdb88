"""A recipe file that trains in seconds, for tests of commands."""


def tiny(*, steps: int) -> str:
    """The text of the file; training takes so many steps."""
    return _TEXT.replace("STEPS", str(steps))


_TEXT = '''
"""A model that trains in seconds."""
from bytegolf.compression.grid import Grid
from bytegolf.compression.spec import Compression, FixedBits
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Evaluation, Recipe
from bytegolf.text.spec import Text
from bytegolf.tokens.spec import Bytes
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training

RECIPE = Recipe(
    name="tiny",
    text=Text(sources=("text.txt",), cut_bytes=400, held_out=0.2),
    tokens=Bytes(),
    model=Model(width=16, layers=(Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=32)),)),
    training=Training(Budget(steps=STEPS), rows=4, length=32, precision="float32"),
    compression=Compression(FixedBits(Grid(6))),
    evaluation=Evaluation(plans=(Chunked(32),), sample_tokens=0, coloured_bytes=0),
)
'''
