"""What the original research called its experiments, and names of that kind for any other."""

import re
from collections.abc import Mapping
from typing import Any

from tune_newllm.errors import UsageError
from tune_newllm.training.config import Configuration

_FAMILIES = {"context_vector": "new_llm", "gpt2": "tinygpt2", "fixed_point": "cvfp"}
_CORPORA = {"wikitext-2": "wikitext", "dailydialog": "dialog"}
_USUAL: Mapping[str, Mapping[str, Any]] = {
    "context_vector": {
        "ctx_dim": 256, "num_layers": 6, "hidden_dim": 512, "embed_dim": 256, "ffn": "plain", "tied": False,
    },
    "gpt2": {
        "embed_dim": 256, "num_layers": 6, "hidden_dim": 1024, "num_heads": 4, "num_positions": 64, "tied": True,
    },
    "fixed_point": {
        "ctx_dim": 768, "num_layers": 6, "embed_dim": 768, "num_input_tokens": 1, "token_input_all_layers": True,
        "blocks": 1, "tied": False,
    },
}  # fmt: skip
"""The shape of the original research's models, which its names leave out."""
_SHORT = {
    "ctx_dim": "ctx", "num_layers": "layers", "hidden_dim": "hidden", "embed_dim": "embed", "num_heads": "heads",
    "num_positions": "positions", "num_input_tokens": "tokens", "blocks": "blocks",
}  # fmt: skip
_WORDS: Mapping[str, Mapping[Any, str]] = {
    "ffn": {"residual": "residual"},
    "tied": {True: "tied", False: "untied"},
    "token_input_all_layers": {False: "first_layer_only"},
}


def name_of(configuration: Configuration, precision: bool = True) -> str:
    """The name after the original's pattern: `new_llm_wikitext`, `new_llm_wikitext_ctx512_layers12`,
    `new_llm_wikitext_fp16`, `tinygpt2_wikitext`, `new_llm_dialog`.

    Family and corpus, then what of the model's shape is not the original's own, context and depth together, then a
    precision that was asked for. How it is begun and trained is no part of the name.

    Args:
        precision: whether it was asked for.
    """
    model, corpus, training = configuration.model, configuration.corpus.name, configuration.training
    usual = _USUAL[model.family]
    other = {key for key, value in usual.items() if getattr(model, key) != value}
    if other & {"ctx_dim", "num_layers"} and "ctx_dim" in usual:
        other |= {"ctx_dim", "num_layers"}
    parts = [_FAMILIES[model.family], _CORPORA.get(corpus) or _word(corpus.removeprefix("hf:").rpartition("/")[2])]
    parts += [_part(key, getattr(model, key)) for key in usual if key in other]
    parts += [training.precision] if precision and training.precision not in ("auto", "fp32") else []
    return "_".join(parts)


def _part(key: str, value: Any) -> str:
    return _WORDS[key][value] if key in _WORDS else f"{_SHORT[key]}{value}"


def require_name(name: str) -> str:
    """The same name, which is to be a part of file names.

    Raises:
        UsageError: it cannot be one.
    """
    if not re.fullmatch(r"\w[\w.-]{0,99}", name, flags=re.ASCII):
        raise UsageError(f"--name takes letters, digits, _, . and -, at most 100, got {name[:100]!r}")
    return name


def _word(text: str) -> str:
    return re.sub(r"\W+", "_", text.lower(), flags=re.ASCII).strip("_")
