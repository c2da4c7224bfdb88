"""An exported model, as the Hugging Face library loads it: the one forward pass, and its decoding memory.

Shapes: B rows, T tokens that are read now, S all tokens so far, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from bytegolf.model.spec import Model
from bytegolf.model.stream import Memory, Stream
from bytegolf.serving.huggingface.configuration import BytegolfConfig
from bytegolf.tree import from_json


class DecodingMemory:
    """What layers keep between tokens, under the names that `generate` asks for."""

    is_compileable = False

    def __init__(self) -> None:
        self.memory = Memory()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far."""
        return self.memory.position

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Lets rows go on from other rows, as beam search asks for."""
        tensors = self.memory.tensors
        for key, value in tensors.items():
            tensors[key] = value.index_select(0, beam_idx.to(value.device))


class BytegolfForCausalLM(PreTrainedModel, GenerationMixin):
    """A language model. Where a row holds the id that begins documents, what comes before is not seen.

    It computes in the precision of its weights.
    """

    config_class = BytegolfConfig
    base_model_prefix = "network"
    _supports_sdpa = True

    def __init__(self, config: BytegolfConfig) -> None:
        super().__init__(config)
        spec = from_json(Model, config.spec, "spec")
        wanted = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            # The library builds models without memory, where what is no weight would be lost.
            with torch.device("cpu"):
                self.network = spec.build()
        finally:
            torch.set_default_dtype(wanted)
        for weight in self.network.parameters():
            weight.data = weight.data.to(wanted)
        # Angles, constants: neither saved nor to be rounded.
        self._constants = [
            (module, name, value.clone())
            for module in self.network.modules()
            for name, value in module.named_buffers(recurse=False)
        ]
        self._settled: tuple[torch.device, torch.dtype] | None = None
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """No: layers keep what they like, in a memory of their own."""
        return False

    def _init_weights(self, module: torch.nn.Module) -> None:
        """All weights are loaded."""

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.network.embedding

    # Another kind of memory than the library's is what this class is about.
    def prepare_inputs_for_generation(  # pyrefly: ignore [bad-override]
        self,
        input_ids: Tensor,
        past_key_values: DecodingMemory | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = True,
        **others: Any,
    ) -> dict[str, Any]:
        """The ids that were not read yet, with what is known of those before."""
        if past_key_values is not None:
            input_ids = input_ids[:, past_key_values.get_seq_length() :]
        return {
            "input_ids": input_ids,
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "use_cache": use_cache,
            "logits_to_keep": others.get("logits_to_keep", 0),
        }

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: DecodingMemory | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V) of what follows each of the ids (B, T), or each of the last `logits_to_keep`.

        attention_mask (B, S): 0 for padding, which may stand before a row's ids or behind them.
        """
        if others.get("inputs_embeds") is not None:
            raise ValueError(
                "inputs_embeds is not supported: parts of the network read the ids; give input_ids"
            )
        self._settle()
        memory = past_key_values
        if memory is None and use_cache:
            memory = DecodingMemory()
        read = 0 if memory is None else memory.get_seq_length()
        starts_BT = self._starts(input_ids, attention_mask, first=not read)
        stream = Stream.of(
            starts_BT.cpu(), None if memory is None else memory.memory, device=input_ids.device
        )
        h_BTD = self.network.hidden(input_ids, stream)
        logits = self.network.logits(h_BTD[:, -logits_to_keep:] if logits_to_keep else h_BTD)
        loss = None
        if labels is not None:
            # As the library has it: labels are the ids themselves, and -100 is left out.
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
            )
        kept: Any = memory
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=kept)

    def _starts(self, ids_BT: Tensor, mask_BS: Tensor | None, *, first: bool) -> Tensor:
        """Where documents begin: at the id that says so, at a row's first id, and behind padding."""
        starts_BT = ids_BT == self.config.bos_token_id
        if first:
            starts_BT[:, 0] = True
        if mask_BS is not None and mask_BS.dim() == 2:
            counts_BS = mask_BS.bool()
            padded_BS = torch.nn.functional.pad(counts_BS[:, :-1], (1, 0), value=True)
            begins_BS = counts_BS & ~padded_BS
            starts_BT = starts_BT | begins_BS[:, -ids_BT.shape[1] :]
        return starts_BT

    def _settle(self) -> None:
        """Puts back the constants after the library has moved or rounded them."""
        weight = self.network.embedding.weight
        state = (weight.device, weight.dtype)
        if self._settled != state:
            for module, name, value in self._constants:
                setattr(module, name, value.to(weight.device))
            self.network.compute_dtype = weight.dtype
            self._settled = state
