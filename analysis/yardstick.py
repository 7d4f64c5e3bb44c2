"""What the losses of a sweep were measured with: losses by different yardsticks must not be compared."""

from collections.abc import Sequence
from typing import Any

from .load import Sweep
from .tables import configured
from .words import digits, shown

_ASPECTS = {
    "vocabularies": "they have {} words",
    "windows": "a window has {} tokens, and a loss depends on how much text comes before a word",
    "windowing": "text is cut by windowing {}",
    "strides": "windows begin every {} tokens",
    "validation texts": "they hold {} words to predict",
    "unknown words": "of the validation words the vocabulary does not know {}",
}
"""What can differ, and how its values are put."""


def yardstick(sweep: Sweep) -> dict[str, Any] | None:
    """Each aspect of how the loss is measured, with its value; None where the folder does not say it.

    Equal shares of unknown words in equal texts mean, for all practical purposes, the same vocabulary.
    """
    validation = configured(sweep.provenance, "data.stats.validation")
    if not isinstance(validation, dict) or configured(sweep.spec, "corpus.window") is None:
        return None
    stride = configured(sweep.spec, "corpus.stride")
    return {
        "vocabularies": configured(sweep.spec, "corpus.vocab_size"),
        "windows": configured(sweep.spec, "corpus.window"),
        "windowing": configured(sweep.spec, "corpus.windowing"),
        "strides": stride,
        "validation texts": validation.get("targets"),
        "unknown words": validation.get("unk_share"),
    }


def differing(sweeps: Sequence[Sweep], names: Sequence[str]) -> list[str] | None:
    """Why the losses of sweeps cannot be compared, one sentence each; empty where they can, None where it is not known.

    Args:
        names: what the sentences call the sweeps.
    """
    prints = [configured(sweep.provenance, "data.fingerprint") for sweep in sweeps]
    found = [yardstick(sweep) for sweep in sweeps]
    if None in found:
        return [] if len(set(map(str, prints))) == 1 and prints[0] is not None else None
    said = []
    for aspect, words in _ASPECTS.items():
        values = [each[aspect] for each in found if each is not None]
        if len(set(map(str, values))) > 1:
            text = _percent if aspect == "unknown words" else shown
            said.append(f"The {aspect} differ: {words.format(by_value([*map(text, values)], names))}.")
    return said


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
