"""What optimizers have in common: parameters, settings that change from step to step, a state to save."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


class Optimizer:
    """Parameters, the settings of all of them, and what is kept of each (`state`).

    Saves and reads what torch's optimizers do with one group of parameters. These import torch's compiler
    when one is made: two seconds that a start without compiled code, as on a CPU, would wait for nothing.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: dict[str, Any]) -> None:
        self.parameters, self.settings = list(parameters), settings
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    def step(self) -> None:
        """One update from the parameters' gradients; a parameter without one stays as it is."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Settings, and what is kept of each parameter by its number. Holds the tensors themselves."""
        numbers: dict[Tensor, int] = {parameter: number for number, parameter in enumerate(self.parameters)}
        state = {numbers[parameter]: values for parameter, values in self.state.items()}
        return {"state": state, "param_groups": [{**self.settings, "params": list(numbers.values())}]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes copies of what `state_dict` holds, to where each parameter is.

        Raises `ValueError` if it is of another number of parameters.
        """
        (saved,) = state_dict["param_groups"]
        if len(saved["params"]) != len(self.parameters):
            raise ValueError(
                f"the saved optimizer has {len(saved['params'])} parameters and this one "
                f"{len(self.parameters)}; give it the state of the same model"
            )
        self.settings = {name: value for name, value in saved.items() if name != "params"}
        self.state.clear()
        for index, values in state_dict["state"].items():
            parameter = self.parameters[index]
            self.state[parameter] = {
                name: value.to(parameter.device, copy=True) for name, value in values.items()
            }
