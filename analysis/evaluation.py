"""What a comparison of checkpoints says, in sentences: made of the plain rows that `evaluate` gathers."""

from collections.abc import Mapping
from typing import Any

from .words import digits
from .yardstick import conjoined

Row = Mapping[str, Any]

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


def splits(found: Row, corpus: str) -> str:
    """The split on which a corpus was measured, as a word; two where checkpoints on their own corpora have others."""
    return conjoined(sorted({str(row["split"]) for row in scores_of(found, corpus)}))


def measure(found: Row) -> tuple[str, str]:
    """The key of the score by which the checkpoints are compared, and its name."""
    if found["same_vocabulary"]:
        return "ppl", "perplexity"
    if found["words_known_to_all"]:
        return "ppl_known", "perplexity of the words known to all"
    return ("bits_per_word", "bits per word") if _has_bits(found) else ("ppl", "perplexity")


def comparable(found: Row) -> bool:
    """Whether `measure` means the same for all checkpoints, so that one can be called better than another."""
    if not found["same_texts"]:
        return False
    kinds = {row["tokenizer"] == "words" for row in found["checkpoints"]}
    alike = found["same_vocabulary"] or found["words_known_to_all"]
    return bool(alike or (_has_bits(found) and len(kinds) == 1))


def _has_bits(found: Row) -> bool:
    return all(row["bits_per_word"] is not None for row in found["scores"])


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
        scores, where = scores_of(found, corpus), f"On the {splits(found, corpus)} split of {corpus}"
        if len(scores) == 1 or not comparable(found):
            values = conjoined([f"{row['checkpoint']} {digits(row[key])}" for row in scores])
            sentences.append(f"{where}, {name}: {values}.")
            continue
        ranked = sorted(scores, key=lambda row: row[key])
        first, *others = [f"{row['checkpoint']} has {digits(row[key])}" for row in ranked]
        sentences.append(f"{where} {first}, the lowest {name}; {', '.join(others)}.")
    return sentences


def _changes(found: Row) -> list[str]:
    """Against the first checkpoint, where several corpora show what was won here and lost there."""
    if len(found["corpora"]) < 2 or not comparable(found):
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
        sentences += _vocabularies(found)
    for corpus in found["corpora"]:
        windows = {(row["windowing"], row["window"]) for row in scores_of(found, corpus)}
        if len(windows) > 1:
            texts = conjoined(sorted(f"{windowing} windows of {window} tokens" for windowing, window in windows))
            sentences.append(f"On {corpus} they read {texts}, so what goes before a prediction is not the same.")
    return sentences


def _vocabularies(found: Row) -> list[str]:
    """What does not compare where they differ, and what does."""
    if found["words_known_to_all"]:
        share = min(row["known_share"] for row in found["scores"])
        return [
            "The vocabularies differ: a model need not tell apart the words that it does not know, so losses, "
            "perplexities and bits per word of all targets do not compare. Compared are the words that all of them "
            f"know, at least {share:.1%} of the targets."
        ]
    differ = "The vocabularies differ, so losses and perplexities per token do not compare"
    if not _has_bits(found):
        return [
            f"{differ}, and where texts were cut short or windows overlap there are no bits per word: give a --corpus "
            "whose windowing is complete, without max_tokens."
        ]
    if comparable(found):
        return [f"{differ}: bits per word, which divide by the words between white space, do."]
    if len({row["tokenizer"] == "words" for row in found["checkpoints"]}) == 1:
        return [f"{differ}; bits per word would, on the same texts."]
    unknown = max(found["scores"], key=lambda row: row["unk_share"])
    share = f", up to {unknown['unk_share']:.1%} of the targets are <UNK> ({unknown['checkpoint']})"
    share = share if unknown["unk_share"] else ""
    return [
        f"{differ}, and bits per word only about: words are lower-cased{share}, where pieces of words must tell case, "
        "spaces and every letter. None is called better."
    ]


def _int8(found: Row) -> list[str]:
    """Each quantised checkpoint against the one that it was made from."""
    sentences, checkpoints = [], {row["name"]: row for row in found["checkpoints"]}
    for row in found["int8"]:
        name, other = row["checkpoint"], row["made_from"]
        before, after = checkpoints[other]["weight_bytes"], checkpoints[name]["weight_bytes"]
        shrunk = f"from {size(before)} to {size(after)} of weights (÷ {before / after:.2f})"
        changed = f"{100 * row['change']:+.1f} % ({row['verdict']}, as the original research judged it)"
        speed = _speed_ratio(found, name, other)
        sentences.append(f"int8 takes {name} {shrunk} and changes perplexity by {changed}{speed}.")
    return sentences


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
    return [*sentences, *_left_out(found)]


def _left_out(found: Row) -> list[str]:
    """Each batch of a checkpoint that was too slow for the longest texts."""
    lengths: dict[tuple[str, int], list[str]] = {}
    for row in found["left_out"]:
        lengths.setdefault((row["checkpoint"], row["batch"]), []).append(f"{row['context']:,}")
    return [
        f"There was no time to measure {name} at {conjoined(texts)} tokens with batch {batch}."
        for (name, batch), texts in lengths.items()
    ]
