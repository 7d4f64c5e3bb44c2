"""Weights in 8 bits, after training, by torchao; transformers loads what it writes.

The matrices of the linear layers become integers from -128 to 127 times one number each; embedding, norms and biases
stay as they are. With `dynamic` the layers' inputs are rounded as well, at run time, a number for each token's vector.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from tune_newllm.errors import CheckpointError, UsageError
from tune_newllm.models.gpt2 import GPT2
from tune_newllm.models.torchao import load_torchao, quietly

Int8 = Literal["weights", "dynamic"]


def quantise(model: nn.Module, int8: Int8) -> None:
    """Replace the weights of a trained model's linear layers, in place.

    Raises:
        UsageError: torchao is not installed.
    """
    torchao = _torchao()
    _use_linear_layers(model)
    with quietly():
        torchao.quantization.quantize_(model, _settings(torchao, int8))


def quantization_config(int8: Int8) -> dict[str, Any]:
    """What the `config.json` of a quantised model says of it, so that transformers loads it."""
    torchao = _torchao()
    settings = torchao.to_dict(_settings(torchao, int8))
    return {"quant_method": "torchao", "quant_type": {"default": settings}, "modules_to_not_convert": []}


def int8_of(config: Mapping[str, Any]) -> Int8 | None:
    """How the weights beside a `config.json` with this content are quantised; None if they are not."""
    kind = config.get("quantization_config", {}).get("quant_type", {}).get("default", {}).get("_type", "")
    return None if "Int8" not in kind else "dynamic" if "Dynamic" in kind else "weights"


def flatten(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A quantised model's weights as plain tensors, and the metadata by which they are put together again."""
    return _torchao().flatten({_prefix(model) + name: tensor for name, tensor in model.state_dict().items()})


def insert_flattened(model: nn.Module, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Give a model the weights that `flatten` took apart.

    Raises:
        UsageError: torchao is not installed.
        CheckpointError: they are not those of such a model.
    """
    torchao = _torchao()
    try:
        whole, _ = torchao.unflatten(dict(tensors), dict(metadata))
        weights = {name.removeprefix(_prefix(model)): tensor for name, tensor in whole.items()}
        _use_linear_layers(model)
        model.load_state_dict(weights, assign=True)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"the int8 weights do not fit the configuration beside them ({first})") from None


def verdict(before: float, after: float) -> str:
    """What the original research says of a perplexity that quantising has changed: below 3 % ok, up to 5 % moderate."""
    change = abs(after / before - 1)
    return "ok" if change < 0.03 else "moderate" if change <= 0.05 else "bad"


def _prefix(model: nn.Module) -> str:
    """Of the weights' names in a quantised file: there transformers looks for them under the names of its own model."""
    return "" if isinstance(model, GPT2) else "model."


def _use_linear_layers(model: nn.Module) -> None:
    if isinstance(model, GPT2):
        from tune_newllm.artifacts.hf.modeling_gpt2_int8 import use_linear_layers

        use_linear_layers(model)


class _TorchAO(NamedTuple):
    """What is used of it."""

    quantization: Any
    to_dict: Callable[[Any], dict[str, Any]]
    flatten: Callable[[dict[str, Tensor]], tuple[dict[str, Tensor], dict[str, str]]]
    unflatten: Callable[[dict[str, Tensor], dict[str, str]], tuple[dict[str, Tensor], dict[str, Tensor]]]


def _settings(torchao: _TorchAO, int8: Int8) -> Any:
    ao = torchao.quantization
    if int8 == "weights":
        return ao.Int8WeightOnlyConfig(granularity=ao.PerTensor())
    return ao.Int8DynamicActivationInt8WeightConfig(granularity=[ao.PerRow(), ao.PerTensor()])


def _torchao() -> _TorchAO:
    load_torchao()
    try:
        import torchao.quantization
        from torchao.core.config import config_to_dict
        from torchao.prototype.safetensors import safetensors_support as files
    except ImportError:
        raise UsageError("int8 needs torchao: pip install 'tune-newllm[int8]' or pip install torchao") from None
    return _TorchAO(
        torchao.quantization, config_to_dict, files.flatten_tensor_state_dict, files.unflatten_tensor_state_dict
    )
