"""What the losses of a sweep were measured with: losses by different yardsticks must not be compared."""

from collections.abc import Mapping, Sequence
from typing import Any

from .load import Sweep
from .tables import configured
from .words import digits, shown

_ASPECTS = {
    "tokenizers": "{}; losses are per token",
    "vocabularies": "tokens known, {}",
    "windows": "tokens, {}; a loss depends on how much text comes before a word",
    "windowing": "{}",
    "strides": "tokens from window to window, {}",
    "validation texts": "words to predict, {}",
    "unknown words": "share of the validation text, {}",
}
"""What can differ, and how its values are put."""


def yardstick(sweep: Sweep) -> dict[str, Any]:
    """Each aspect of how the loss is measured, with its value; None where the folder does not say it.

    Equal shares of unknown words in equal texts mean, for all practical purposes, the same vocabulary.
    """
    return {
        # Sweeps of older programs knew words alone.
        "tokenizers": configured(sweep.spec, "corpus.tokenizer") or "words",
        "vocabularies": configured(sweep.spec, "corpus.vocab_size"),
        "windows": configured(sweep.spec, "corpus.window"),
        "windowing": configured(sweep.spec, "corpus.windowing"),
        "strides": configured(sweep.spec, "corpus.stride"),
        "validation texts": configured(sweep.provenance, "data.stats.validation.targets"),
        "unknown words": configured(sweep.provenance, "data.stats.validation.unk_share"),
    }


def complete(stick: Mapping[str, Any]) -> bool:
    """Whether a yardstick says all; windows that do not overlap have no stride."""
    return all(value is not None for aspect, value in stick.items() if aspect != "strides")


def differing(sweeps: Sequence[Sweep], names: Sequence[str]) -> list[str] | None:
    """Why the losses of sweeps cannot be compared, one sentence each; empty where they can, None where it is not known.

    Args:
        names: what the sentences call the sweeps.
    """
    prints = {configured(sweep.provenance, "data.fingerprint") for sweep in sweeps}
    sticks = [yardstick(sweep) for sweep in sweeps]
    said = []
    for aspect, words in _ASPECTS.items():
        found = [(stick[aspect], name) for stick, name in zip(sticks, names, strict=True)]
        known = [(value, name) for value, name in found if value is not None or aspect == "strides"]
        if len({str(value) for value, _ in known}) > 1:
            text = _percent if aspect == "unknown words" else shown
            who = by_value([text(value) for value, _ in known], [name for _, name in known])
            said.append(f"The {aspect} differ: {words.format(who)}.")
    one_text = len(prints) == 1 and None not in prints
    return said if said or one_text or all(map(complete, sticks)) else None


def by_value(texts: Sequence[str], names: Sequence[str]) -> str:
    """`4 in a and b, 8 in c`."""
    groups: dict[str, list[str]] = {}
    for text, name in zip(texts, names, strict=True):
        groups.setdefault(text, []).append(name)
    return ", ".join(f"{text} in {conjoined(members)}" for text, members in groups.items())


def conjoined(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _percent(share: Any) -> str:
    return f"{digits(100 * share, 3)} %" if isinstance(share, int | float) else shown(share)
