"""The sections of a page on checkpoints that were measured side by side."""

from html import escape

from ..evaluation import Row, change, comparable, measure, scores_of, size
from ..figures import evaluation as figures
from ..markup import Section, table
from ..words import digits


def evaluation_sections(found: Row) -> list[Section]:
    """Those for which something was measured."""
    made = [_scores(found), _texts(found), _growth(found), _passes(found), _checkpoints(found)]
    return [section for section in made if section is not None]


def _scores(found: Row) -> Section:
    numbers = ["loss", "perplexity", "known words", "accuracy", "bits per word", "<UNK> targets", "targets"]
    head = [("checkpoint", ""), ("corpus", ""), ("split", ""), *((name, "number") for name in numbers)]
    key, _ = measure(found)
    several = len(found["checkpoints"]) > 1 and comparable(found)
    counted = "the words that all know" if found["words_known_to_all"] else "the targets that are not <UNK>"
    rows = []
    for corpus in found["corpora"]:
        scores = scores_of(found, corpus)
        for row in scores:
            moved = f" ({change(scores[0][key], row[key])})" if several and row is not scores[0] else ""
            bits = "" if row["bits_per_word"] is None else f"{row['bits_per_word']:.3f}"
            cells = [row["checkpoint"], corpus, row["split"]]
            cells += [f"{row['loss']:.4f}", digits(row["ppl"]), digits(row["ppl_known"]), f"{row['acc']:.1%}", bits]
            cells += [f"{row['unk_share']:.1%}", f"{row['targets']:,}"]
            cells[{"ppl": 4, "ppl_known": 5, "bits_per_word": 7}[key]] += moved
            rows.append(cells)
    guide = (
        "Each target of the split once, in fp32 whatever the training's precision was, independent of any batch size. "
        f"Losses are nats per token; “known words” is the perplexity of {counted}."
        + (" In brackets: the difference from the first checkpoint." if several else "")
    )
    return Section("scores", "Scores", guide, [figures.scores_figure(found)], body=table(head, rows))


def _texts(found: Row) -> Section | None:
    if not found["texts"]:
        return None
    head = [("", ""), ("continuation", "text")]
    body = ""
    for prompt in found["prompts"]:
        rows = [(row["checkpoint"], row["text"]) for row in found["texts"] if row["prompt"] == prompt]
        body += f'<h3 class="after">{escape(prompt) or "(start of a text)"}</h3>{table(head, rows)}'
    guide = (
        "The same beginnings, continued by each; a text ends where the model ends it, or at the most tokens allowed."
    )
    return Section("texts", "Continuations", guide, body=body)


def _growth(found: Row) -> Section | None:
    if not found["readings"]:
        return None
    batches = sorted({row["batch"] for row in found["readings"]})
    drawn = [figures.growth_figure(found, "ms", batch) for batch in batches]
    drawn.append(figures.growth_figure(found, "state_bytes", batches[0]))
    captions = [(f"Time, batch {batch}", "What one token more takes.") for batch in batches]
    captions.append((f"Memory, batch {batches[0]}", "What the model remembers of the text, by which it goes on."))
    guide = (
        "A context vector stays as large as it is; attention keeps keys and values of every token, and looks at all of "
        "them for the next one. Attention's lines end where its positions do, others where the time was up."
    )
    return Section("growth", "After more and more text", guide, drawn, captions)


def _passes(found: Row) -> Section | None:
    if not found["passes"]:
        return None
    head = [
        ("checkpoint", ""),
        ("batch", "number"),
        ("ms", "number"),
        ("tokens/s", "number"),
        ("peak memory", "number"),
    ]
    rows = [
        (
            row["checkpoint"],
            str(row["batch"]),
            digits(row["ms"], 3),
            f"{row['tokens_per_s']:,.0f}",
            size(row["peak_memory_bytes"]),
        )
        for row in found["passes"]
    ]
    of = " Peak memory is that of the whole process." if found["device"] == "cpu" else ""
    guide = (
        f"A forward pass over {found['passes'][0]['tokens']} tokens with all logits, on {found['device']} with "
        f"{found['threads']} threads: the fastest of the runs, after warm-up.{of}"
    )
    return Section("passes", "Whole windows", guide, body=table(head, rows))


def _checkpoints(found: Row) -> Section:
    head = [("checkpoint", ""), ("family", ""), ("weights", "number"), ("parameters", "number"), ("int8", "")]
    head += [("vocabulary", "number"), ("tokenizer", ""), ("folder", "text")]
    rows = [
        (
            row["name"],
            row["family"],
            size(row["weight_bytes"]),
            f"{row['parameters']:,}",
            row["int8"] or "no",
            f"{row['vocab_size']:,}",
            row["tokenizer"],
            row["path"],
        )
        for row in found["checkpoints"]
    ]
    return Section("checkpoints", "Checkpoints", "", [figures.memory_figure(found)], body=table(head, rows))
