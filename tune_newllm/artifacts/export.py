"""A checkpoint as a folder that Hugging Face transformers loads without this package."""

import contextlib
import copy
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from tune_newllm.artifacts.card import model_card
from tune_newllm.artifacts.checkpoint import Checkpoint, load_checkpoint, weights_hash
from tune_newllm.artifacts.compare import evaluate_checkpoint
from tune_newllm.artifacts.generate import NEVER_SAMPLED
from tune_newllm.artifacts.quantize import Int8, flatten, quantise, quantization_config, verdict
from tune_newllm.artifacts.reproduction import verify
from tune_newllm.artifacts.sizes import stored_bytes
from tune_newllm.data.corpora import PreparedCorpus
from tune_newllm.data.tokenizer import BOS, EOS, PAD, SPECIAL, UNK
from tune_newllm.errors import UsageError
from tune_newllm.models import config as model_config
from tune_newllm.models import context_scan, context_vector, fixed_point, products, protocol, recurrence
from tune_newllm.training.checkpoints import WEIGHTS
from tune_newllm.training.device import resolve_device
from tune_newllm.training.run import CONFIGURATION
from tune_newllm.training.weights import save_weights

_HF = Path(__file__).parent / "hf"
_NEW_LLM = [
    _HF / "modeling_new_llm.py",
    *(Path(str(module.__file__)) for module in (context_vector, products, protocol, recurrence)),
]
_FIXED_POINT = [
    _HF / "modeling_fixed_point.py",
    *(Path(str(module.__file__)) for module in (model_config, context_scan, fixed_point)),
    *_NEW_LLM,
]


class _Own(NamedTuple):
    """What transformers needs for a family of which it has no model."""

    code: list[Path]
    """Files, in the first of which its classes are."""
    name: str
    """What these are called by."""
    model_type: str
    shape: tuple[str, ...]
    """Fields of our configuration that they read; none where they read transformers' own."""


_OWN = {
    "context_vector": _Own(
        _NEW_LLM,
        "NewLLM",
        "new_llm",
        ("embed_dim", "hidden_dim", "ctx_dim", "num_layers", "dropout", "ffn", "tied"),
    ),
    "fixed_point": _Own(
        _FIXED_POINT,
        "FixedPoint",
        "new_llm_fixed_point",
        (
            *("embed_dim", "ctx_dim", "num_layers", "num_input_tokens", "token_input_all_layers", "blocks", "tied"),
            "train_embedding",
        ),
    ),
}
_GPT2_INT8 = _Own([_HF / "modeling_gpt2_int8.py"], "GPT2Int8", "gpt2_int8", ())
_IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}


@dataclass(frozen=True)
class Int8Change:
    """The model before it was quantised, and what the original research says of the change in perplexity."""

    kind: Int8
    fp32_bytes: int
    fp32_val_loss: float
    fp32_val_ppl: float
    verdict: str
    fp32_weights: str
    """`weights_hash` of the model before, by which `evaluate` knows it again."""


@dataclass(frozen=True)
class ExportResult:
    """What was written. Losses in nats per target; the test figures are None where the corpus has no test split."""

    folder: str
    trial_id: str | None
    """Of the sweep that the checkpoint comes from; None where it comes from none."""
    parameters: int
    val_loss: float
    val_ppl: float
    test_loss: float | None
    test_ppl: float | None
    weight_bytes: int
    """Of the weights that were written."""
    int8: Int8Change | None
    """What quantising has changed; None where nothing was quantised."""


def export(
    checkpoint: Path, to: Path, *, corpus: PreparedCorpus, provenance: dict[str, Any], int8: Int8 | None = None
) -> ExportResult:
    """Write a checkpoint for transformers, then load what was written and compare it with the original.

    The folder appears under its name only when it is complete and has passed.

    Args:
        checkpoint: folder of a trial, a run or another export.
        to: folder to make; it must not exist, or be empty.
        corpus: the one that the checkpoint was trained on; its validation and test splits are measured.
        provenance: JSON types, written beside the weights; `trial` names the trial.
        int8: quantise what is written, and measure both.

    Raises:
        UsageError: `to` is taken or cannot be written, or the model cannot be quantised.
        CheckpointError: the checkpoint is missing, damaged or does not belong to the corpus.
        TuneError: transformers gets other numbers from the written folder.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UsageError(f"{to} exists and is not empty: give a new folder")
    trained = load_checkpoint(checkpoint, resolve_device("auto"))
    loaded = _quantised(trained, int8) if int8 else trained
    validation = evaluate_checkpoint(loaded, "validation", corpus)
    test = None if corpus.test is None else evaluate_checkpoint(loaded, "test", corpus)
    card = model_card(loaded, corpus, validation, test)
    result = ExportResult(
        folder=str(to),
        trial_id=provenance.get("trial"),
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()),
        val_loss=validation.loss,
        val_ppl=validation.ppl,
        test_loss=test.loss if test else None,
        test_ppl=test.ppl if test else None,
        weight_bytes=stored_bytes(loaded.model),
        int8=_change(trained, corpus, int8, validation.ppl) if int8 else None,
    )
    with _draft(to) as draft:
        _write(draft, loaded, provenance | {"corpus_fingerprint": corpus.fingerprint}, card)
        _write_json(draft / "summary.json", asdict(result))
        verify(draft, loaded, corpus, validation.loss, code=_own(loaded) is not None)
    return result


def _quantised(checkpoint: Checkpoint, int8: Int8) -> Checkpoint:
    if checkpoint.int8:
        raise UsageError(f"{checkpoint.folder} is int8 already: give the checkpoint that it was made from")
    model = copy.deepcopy(checkpoint.model)
    quantise(model, int8)
    return replace(checkpoint, model=model, int8=int8)


def _change(trained: Checkpoint, corpus: PreparedCorpus, int8: Int8, ppl: float) -> Int8Change:
    before = evaluate_checkpoint(trained, "validation", corpus)
    return Int8Change(
        kind=int8,
        fp32_bytes=stored_bytes(trained.model),
        fp32_val_loss=before.loss,
        fp32_val_ppl=before.ppl,
        verdict=verdict(before.ppl, ppl),
        fp32_weights=weights_hash(trained),
    )


@contextlib.contextmanager
def _draft(to: Path) -> Iterator[Path]:
    """An empty folder that takes the name `to` if the block ends well, and is removed if not."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{to.name}-", dir=to.parent))
    except OSError as error:
        raise UsageError(f"cannot write to {to.parent} ({error.strerror}): choose another folder") from None
    try:
        # transformers caches the code of a folder under the folder's name, so every draft has the same one.
        draft = place / "new_llm"
        draft.mkdir()
        yield draft
        draft.rename(to)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _own(checkpoint: Checkpoint) -> _Own | None:
    """None for what transformers has a model of."""
    family = checkpoint.configuration.model.family
    return _GPT2_INT8 if family == "gpt2" and checkpoint.int8 else _OWN.get(family)


def _write(folder: Path, checkpoint: Checkpoint, provenance: dict[str, Any], card: str) -> None:
    own, model = _own(checkpoint), checkpoint.configuration.model
    for source in (*(own.code if own else ()), checkpoint.folder / CONFIGURATION):
        shutil.copyfile(source, folder / source.name)
    weights, metadata = flatten(checkpoint.model) if checkpoint.int8 else (checkpoint.model.state_dict(), {})
    save_weights(weights, folder / WEIGHTS, metadata)
    checkpoint.tokenizer.save(folder)
    _drop_eos(folder / "tokenizer.json")
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": SPECIAL[i] for name, i in (("pad", PAD), ("unk", UNK), ("bos", BOS), ("eos", EOS))},
        "padding_side": "left",
    }
    length = {"max_length": model.num_positions} if model.family == "gpt2" else {"max_new_tokens": 60}
    generation = {**_IDS, "suppress_tokens": list(NEVER_SAMPLED), **length, "use_cache": True}
    quantised = {"quantization_config": quantization_config(checkpoint.int8)} if checkpoint.int8 else {}
    _write_json(folder / "config.json", _model_config(checkpoint) | quantised)
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    _write_json(folder / "generation_config.json", generation)
    _write_json(folder / "provenance.json", provenance)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _model_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `config.json` says."""
    own, model = _own(checkpoint), asdict(checkpoint.configuration.model)
    sizes = {"vocab_size": checkpoint.vocab_size}
    if model["family"] == "gpt2":
        sizes = cast(Any, checkpoint.model).transformer.config.to_dict()
    if own is None:
        return sizes | {"architectures": ["GPT2LMHeadModel"], "dtype": "float32", **_IDS}
    place = f"{own.code[0].stem}.{own.name}"
    return sizes | {
        "architectures": [f"{own.name}ForCausalLM"],
        "auto_map": {"AutoConfig": f"{place}Config", "AutoModelForCausalLM": f"{place}ForCausalLM"},
        "model_type": own.model_type,
        "dtype": "float32",
        **{name: model[name] for name in own.shape},
        **_IDS,
    }


def _drop_eos(path: Path) -> None:
    """Let a tokenised text end openly: transformers tokenises prompts, and after EOS there is nothing to continue."""
    content = json.loads(path.read_text(encoding="utf-8"))
    template = content["post_processor"]
    for form in ("single", "pair"):
        template[form] = [part for part in template[form] if part.get("SpecialToken", {}).get("id") != SPECIAL[EOS]]
    del template["special_tokens"][SPECIAL[EOS]]
    _write_json(path, content)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
