"""GPT-2 with weights of 8 bits for Hugging Face transformers, whose own keeps its matrices transposed, in layers that
no quantiser knows.

The configuration class stands in this file for the reason that `modeling_new_llm.py` gives.
"""

# mypy: disable-error-code="no-untyped-call"

from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D


class GPT2Int8Config(GPT2Config):
    """That of GPT-2; another class, as transformers keeps one model class for each."""

    model_type = "gpt2_int8"


class GPT2Int8ForCausalLM(GPT2LMHeadModel):
    """GPT-2, which computes the same with linear layers."""

    config_class = GPT2Int8Config

    def __init__(self, config: GPT2Int8Config) -> None:
        super().__init__(config)
        use_linear_layers(self)


def use_linear_layers(model: nn.Module) -> None:
    """Put a linear layer with the same weights in the place of each of GPT-2's own."""
    places = [(part, name, child) for part in model.modules() for name, child in part.named_children()]
    for part, name, theirs in places:
        if not isinstance(theirs, Conv1D):
            continue
        inputs, outputs = theirs.weight.shape
        linear = nn.Linear(inputs, outputs, device="meta")
        linear.weight = nn.Parameter(theirs.weight.detach().t().contiguous())
        linear.bias = theirs.bias
        setattr(part, name, linear)
