"""Dialogues as texts: a row's list of turns becomes one text.

`plain` joins the turns as the original research did: strings by one space, white space around them left out; messages
by a line break. Blank turns are left out.

`marked` begins every turn with a mark of its speaker: `<|user|>`, `<|assistant|>` and so on by the message's role;
`<|speaker1|>` and `<|speaker2|>` in turn where the turns are strings, blank ones counted. A mark is one word in lower
case with white space on both sides, so that the word tokenizer keeps it as a word of its own, and as every text has it,
a frequent one, which no vocabulary leaves out; the bars keep it apart from the tags of ordinary text. Tokenizers of
pieces spell it in the same few pieces each time.
"""

from typing import Any

from tune_newllm.data.config import Turns


def text_of(value: Any, turns: Turns) -> str:
    """The text of a row's field, the empty one where it is null.

    Args:
        value: a string, a list of strings or a list of messages, mappings with `role` and `content`.
        turns: how a list is joined.

    Raises:
        ValueError: the value is something else, or a string that has no turns to be marked. Says what was got.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        if turns == "marked":
            raise ValueError(f"a list of turns for turns: marked, got {value!r:.40}")
        return value
    if isinstance(value, list) and all(isinstance(turn, str) for turn in value):
        spoken = [(f"speaker{index % 2 + 1}", turn.strip()) for index, turn in enumerate(value)]
        return _joined(spoken, turns, " ")
    if isinstance(value, list) and all(map(_is_message, value)):
        return _joined([(turn["role"], turn["content"] or "") for turn in value], turns, "\n")
    raise ValueError(f"a string, a list of strings or a list of messages with role and content, got {value!r:.40}")


def _is_message(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str | None)


def _joined(spoken: list[tuple[str, str]], turns: Turns, by: str) -> str:
    kept = [(speaker, turn) for speaker, turn in spoken if turn.strip()]
    if turns == "plain":
        return by.join(turn for _, turn in kept)
    return by.join(f"<|{'-'.join(speaker.lower().split())}|> {turn}" for speaker, turn in kept)
