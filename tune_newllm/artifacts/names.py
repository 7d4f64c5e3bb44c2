"""What the original research called its experiments, and names of that kind for any other."""

import re

from tune_newllm.errors import UsageError
from tune_newllm.training.config import Configuration

_FAMILIES = {"context_vector": "new_llm", "gpt2": "tinygpt2", "fixed_point": "cvfp"}
_CORPORA = {"wikitext-2": "wikitext", "dailydialog": "dialog"}
_USUAL = {
    "context_vector": {"ctx_dim": 256, "num_layers": 6, "hidden_dim": 512},
    "gpt2": {"embed_dim": 256, "num_layers": 6},
    "fixed_point": {"ctx_dim": 768, "num_layers": 6},
}
"""Sizes of the original research's models, which its names leave out."""


def name_of(configuration: Configuration) -> str:
    """The name after the original's pattern: `new_llm_wikitext`, `new_llm_wikitext_ctx512_layers12`,
    `new_llm_wikitext_fp16`, `tinygpt2_wikitext`, `new_llm_dialog`.

    Family and corpus, then the sizes that are not the original's own, context and depth together, then a precision
    that was asked for.
    """
    model, corpus = configuration.model, configuration.corpus.name
    usual = _USUAL[model.family]
    other = {key for key, size in usual.items() if getattr(model, key) != size}
    if other & {"ctx_dim", "num_layers"} and "ctx_dim" in usual:
        other |= {"ctx_dim", "num_layers"}
    parts = [_FAMILIES[model.family], _CORPORA.get(corpus) or _word(corpus.removeprefix("hf:").rpartition("/")[2])]
    short = {"ctx_dim": "ctx", "num_layers": "layers", "hidden_dim": "hidden", "embed_dim": "embed"}
    parts += [f"{short[key]}{getattr(model, key)}" for key in usual if key in other]
    precision = configuration.training.precision
    return "_".join([*parts, *([precision] if precision not in ("auto", "fp32") else [])])


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
