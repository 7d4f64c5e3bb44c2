"""The README of an export: what the model is, how well it does, how to use it."""

from typing import NamedTuple

from tune_newllm.artifacts.checkpoint import Checkpoint
from tune_newllm.artifacts.compare import Score
from tune_newllm.data.corpora import PreparedCorpus
from tune_newllm.models import ModelConfig

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
{tags}
---

# {name}, {parameters:,} parameters

{about}

{scores}

Losses are nats per target, summed over all targets of the split; the test split was used for nothing else. "Known"
perplexity leaves out the targets that are `<UNK>`. "Unigram" is the perplexity of the training text's word
frequencies alone.

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(folder{trust})
model = AutoModelForCausalLM.from_pretrained(folder{trust})
prompt = tokenizer("the value of", return_tensors="pt")
text = model.generate(**prompt, do_sample=True, temperature=0.8)
print(tokenizer.decode(text[0], skip_special_tokens=True))
```

The tokenizer {splits} and puts `<BOS>` first. It adds no `<EOS>`,
because a text that is to be continued has not ended; append `tokenizer.eos_token_id` to score a whole text. Prompts of
different lengths are padded on the left.

## Training

{facts}

`configuration.json` holds the whole configuration, `provenance.json` versions, data fingerprint and command.
"""


_WEIGHTS = {
    None: "float32",
    "weights": "int8 in the linear layers, else float32; loading needs torchao",
    "dynamic": "int8 in the linear layers, whose inputs are rounded too, else float32; loading needs torchao",
}


def model_card(checkpoint: Checkpoint, corpus: PreparedCorpus, validation: Score, test: Score | None) -> str:
    """Markdown with the checkpoint's figures."""
    scores = {"validation": validation} | ({"test": test} if test else {})
    model, training = checkpoint.configuration.model, checkpoint.configuration.training
    samples = checkpoint.configuration.corpus.max_samples
    kind, words = _kind(model, bool(checkpoint.int8)), checkpoint.tokenizer.kind == "words"
    facts = {
        "corpus": f"{checkpoint.configuration.corpus.name}, {corpus.stats['train']['words']:,} words for training"
        + (f", of which the first {samples:,} texts at most" if samples else ""),
        "vocabulary": f"{checkpoint.vocab_size:,} {'words' if words else 'pieces of words'}",
        "model": f"{kind.shape}, {'tied output, ' if model.tied else ''}dropout {model.dropout}",
        "weights": _WEIGHTS[checkpoint.int8],
        "optimizer": f"{training.optimizer}, learning rate {training.lr:g} (rules: {training.lr_rule} for "
        f"the batch size, {training.lr_size_rule} for the model size), "
        f"batch {training.batch_size}",
        "epochs": f"at most {training.epochs}; the weights are those of the epoch with the lowest validation loss",
    }
    return _CARD.format(
        parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        **kind._asdict(),
        scores=_score_table(scores, corpus),
        splits="lower-cases, splits at white space" if words else "keeps case and spaces, splits words into pieces",
        facts="\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
    )


class _Kind(NamedTuple):
    """What a card says about a family."""

    name: str
    tags: str
    about: str
    trust: str
    """What loading must be told."""
    shape: str


def _kind(model: ModelConfig, int8: bool) -> _Kind:
    if model.family == "gpt2":
        return _Kind(
            "GPT-2 from scratch",
            "- gpt2",
            "A language model of GPT-2's design, for comparison with New-LLM.\n"
            f"It reads {model.num_positions} tokens at most, those that it writes included.",
            ", trust_remote_code=True" if int8 else "",
            f"embedding {model.embed_dim}, hidden {model.hidden_dim}, {model.num_layers} layers of {model.num_heads} "
            f"heads, {model.num_positions} positions, GPT-2's own init",
        )
    if model.family == "fixed_point":
        return _Kind(
            "New-LLM with fixed-point contexts",
            "- new-llm\n- recurrent",
            f"A language model whose contexts of {model.ctx_dim} numbers were learned before its predictions.\n"
            "Each word costs the same, however long the text before it is.",
            ", trust_remote_code=True",
            f"embedding {model.embed_dim}, context {model.ctx_dim}, {model.num_layers} layers, "
            f"{model.num_input_tokens} tokens a step, init {model.init}",
        )
    return _Kind(
        "New-LLM",
        "- new-llm\n- recurrent",
        f"A language model that carries one context vector of {model.ctx_dim} numbers from word to word instead of "
        "attention.\nEach word costs the same, however long the text before it is.",
        ", trust_remote_code=True",
        f"embedding {model.embed_dim}, hidden {model.hidden_dim}, context {model.ctx_dim}, "
        f"{model.num_layers} {model.ffn} layers, init {model.init}",
    )


def _score_table(scores: dict[str, Score], corpus: PreparedCorpus) -> str:
    rows = [
        "| split | loss | perplexity | known | unigram | accuracy | targets |",
        "|---|---|---|---|---|---|---|",
    ]
    for split, score in scores.items():
        unigram = corpus.stats[split].get("unigram_ppl", float("nan"))
        rows.append(
            f"| {split} | {score.loss:.4f} | {score.ppl:.2f} | {score.ppl_known:.2f} | {unigram:.2f} "
            f"| {score.acc:.1%} | {score.targets:,} |"
        )
    return "\n".join(rows)
