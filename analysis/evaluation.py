"""What a comparison of checkpoints says, in sentences: made of the plain rows that `evaluate` gathers."""

from collections.abc import Mapping
from typing import Any

from .words import digits
from .yardstick import conjoined

Row = Mapping[str, Any]

_OK, _MODERATE = 0.03, 0.05
"""Changes of perplexity by int8 that the original research calls ok and moderate."""
_ALIKE = 1.2
"""Ratio below which two measured times or sizes are called the same."""


def said(found: Row) -> list[str]:
    """The sentences, most important first.

    Args:
        found: what `tune_newllm.artifacts.evaluation.evaluate_all` returns.
    """
    return [
        *_order(found),
        *_changes(found),
        *_cautions(found),
        *_int8(found),
        *_growth(found),
    ]


def scores_of(found: Row, corpus: str) -> list[Row]:
    """The scores on one corpus, in the order of the checkpoints."""
    return [row for row in found["scores"] if row["corpus"] == corpus]


def measure(found: Row) -> tuple[str, str]:
    """The key of the score by which the checkpoints are compared, and its name."""
    if found["same_vocabulary"] or any(row["bits_per_word"] is None for row in found["scores"]):
        return "ppl", "perplexity"
    return "bits_per_word", "bits per word"


def change(before: float, after: float) -> str:
    """`+12.3 %`."""
    return f"{100 * (after / before - 1):+.1f} %"


def size(count: float) -> str:
    """`3.36 MiB`."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{digits(count / factor, 3)} {unit}"
    return f"{count:,.0f} B"


def _order(found: Row) -> list[str]:
    key, name = measure(found)
    sentences = []
    for corpus in found["corpora"]:
        ranked = sorted(scores_of(found, corpus), key=lambda row: row[key])
        where = f"On the {found['split']} split of {corpus}"
        first, *others = [f"{row['checkpoint']} has {digits(row[key])}" for row in ranked]
        better = "the lowest " if others and found["same_texts"] else ""
        sentences.append(f"{where} {first}, {better}{name}{'; ' if others else ''}{', '.join(others)}.")
    return sentences


def _changes(found: Row) -> list[str]:
    """Against the first checkpoint, where several corpora show what was won here and lost there."""
    if len(found["corpora"]) < 2:
        return []
    key, name = measure(found)
    first, *others = [row["name"] for row in found["checkpoints"]]
    value = {(row["checkpoint"], row["corpus"]): row[key] for row in found["scores"]}
    return [
        f"From {first} to {other}, {name} changes by "
        + conjoined(
            [f"{change(value[first, corpus], value[other, corpus])} on {corpus}" for corpus in found["corpora"]]
        )
        + "."
        for other in others
    ]


def _cautions(found: Row) -> list[str]:
    sentences = []
    if not found["same_texts"]:
        sentences.append("Each is measured on another corpus, so nothing here compares: give all the same --corpus.")
    if not found["same_vocabulary"]:
        sentences.append(
            "The vocabularies differ, so losses and perplexities per token do not compare: bits per word, which divide "
            "by the words between white space, do."
        )
        unknown = max(found["scores"], key=lambda row: row["unk_share"])
        if unknown["unk_share"] > 0:
            sentences.append(
                f"Up to {unknown['unk_share']:.1%} of the targets are <UNK> ({unknown['checkpoint']}): words that such "
                "a model need not tell apart, so its bits per word look better than they are."
            )
        if any(row["bits_per_word"] is None for row in found["scores"]):
            sentences.append(
                "Where texts were cut short or windows overlap there are no bits per word: give a --corpus whose "
                "windowing is complete, without max_tokens."
            )
    for corpus in found["corpora"]:
        windows = {(row["windowing"], row["window"]) for row in scores_of(found, corpus)}
        if len(windows) > 1:
            texts = conjoined(sorted(f"{windowing} windows of {window} tokens" for windowing, window in windows))
            sentences.append(f"On {corpus} they read {texts}, so what goes before a prediction is not the same.")
    return sentences


def _int8(found: Row) -> list[str]:
    """Each quantised checkpoint against the first one that has as many parameters and is not."""
    sentences = []
    for quantised in (row for row in found["checkpoints"] if row["int8"]):
        alike = [row for row in found["checkpoints"] if not row["int8"] and _shape(row) == _shape(quantised)]
        if not alike:
            continue
        name, other = quantised["name"], alike[0]["name"]
        corpus = found["corpora"][0]
        ppl = {row["checkpoint"]: row["ppl"] for row in scores_of(found, corpus)}
        share = abs(ppl[name] / ppl[other] - 1)
        verdict = "ok, below 3 %" if share < _OK else "moderate, up to 5 %" if share <= _MODERATE else "bad, above 5 %"
        shrunk = alike[0]["weight_bytes"] / quantised["weight_bytes"]
        text = (
            f"int8 takes {name} from {size(alike[0]['weight_bytes'])} to {size(quantised['weight_bytes'])} of weights "
        )
        text += f"(÷ {shrunk:.2f}) and changes perplexity by {change(ppl[other], ppl[name])} ({verdict})"
        sentences.append(text + _speed_ratio(found, name, other) + ".")
    return sentences


def _shape(row: Row) -> tuple[Any, ...]:
    return row["family"], row["parameters"], row["vocab_size"]


def _speed_ratio(found: Row, name: str, other: str) -> str:
    speed = {(row["checkpoint"], row["batch"]): row["tokens_per_s"] for row in found["passes"]}
    batches = sorted({batch for checkpoint, batch in speed if checkpoint == name})
    if not batches:
        return ""
    return "; its speed is " + conjoined(
        [f"{speed[name, b] / speed[other, b]:.2f} times at batch {b}" for b in batches]
    )


def _growth(found: Row) -> list[str]:
    sentences = []
    for checkpoint in found["checkpoints"]:
        rows = [row for row in found["readings"] if row["checkpoint"] == checkpoint["name"] and row["batch"] == 1]
        if len(rows) < 2:
            continue
        first, last = rows[0], rows[-1]
        grown = last["state_bytes"] / max(first["state_bytes"], 1)
        memory = f"stays at {size(last['state_bytes'])}"
        if grown >= _ALIKE:
            memory = f"grows from {size(first['state_bytes'])} to {size(last['state_bytes'])}"
        read = f"{first['context']:,} to {last['context']:,} tokens read"
        time = f"{digits(first['ms'], 3)} ms at first, {digits(last['ms'], 3)} ms at last"
        sentences.append(f"From {read}, what {checkpoint['name']} remembers {memory}; one token more takes {time}.")
    return sentences
