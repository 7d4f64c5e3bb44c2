"""Corpora of the Hugging Face Hub, read by `datasets`: from its cache where they are there, else downloaded once.

The cache is asked first, so that a corpus that is there needs no network and stays the revision that it was. `datasets`
finds out by retries of twenty seconds and more that there is no network; here one quick question comes before it.
"""

import contextlib
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tune_newllm.data.choices import among
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.progress import track
from tune_newllm.data.reach import first_line, silence
from tune_newllm.data.turns import text_of
from tune_newllm.errors import CorpusError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder

PREFIX = "hf:"
CORPORA = {
    "wikitext-2": f"{PREFIX}Salesforce/wikitext:wikitext-2-raw-v1",
    "wikitext-103": f"{PREFIX}Salesforce/wikitext:wikitext-103-raw-v1",
    "dailydialog": f"{PREFIX}OpenRL/daily_dialog",
    "ultrachat": f"{PREFIX}HuggingFaceH4/ultrachat_200k",
}
"""Names of our own -> what they stand for."""
_FIELDS = {"dailydialog": "dialog", "ultrachat": "messages"}
DIALOGUES = tuple(_FIELDS)
"""Those whose texts are lists of turns."""
_SPLITS = {"ultrachat": {"train": "train_sft", "validation": "test_sft[:100]", "test": "test_sft[100:200]"}}
"""Field and splits of those names that have not the usual ones. What is held out of `ultrachat` are always the same
conversations, about 120,000 of GPT-2's tokens in each split, however many are trained on."""

_UNREACHED = {"ConnectionError", "TimeoutError", "TransportError", "LocalEntryNotFoundError"}
"""Names of the classes of errors, those of several libraries, that come of a lost connection."""


class _Wanted(NamedTuple):
    name: str
    repository: str
    configuration: str | None
    field: str
    splits: dict[str, str]
    """Split of ours -> the name of the dataset's, `test` only where it is asked for or known."""


def digest(config: CorpusConfig, progress: bool) -> str:
    """What the texts depend on: the dataset's revision, splits and field. Downloads the dataset if need be.

    Raises:
        CorpusError: as `read`.
    """
    wanted = _wanted(config)
    if not any(_cache().glob(f"{wanted.repository.split('/')[0]}___*")):
        _refuse_unreachable(wanted)  # before `datasets` is imported, which takes longer than the answer
    with _quiet(progress):
        builder = _builder(wanted)
        splits = {split: name for split, (name, _) in _splits(wanted, builder).items()}
    revision = [wanted.repository, builder.config.name, builder.hash]
    return json.dumps([revision, splits, wanted.field, config.turns])


def read(config: CorpusConfig, progress: bool) -> dict[str, list[str]]:
    """The texts of each split, of train no more than `config.max_samples`; blank ones are dropped.

    Raises:
        CorpusError: the dataset is neither in the cache nor to be had from the hub, or has no such configuration, split
            or field.
    """
    wanted = _wanted(config)
    texts = {}
    with _quiet(progress):
        for split, (name, rows) in _splits(wanted, _builder(wanted)).items():
            batches = (batch[wanted.field] for batch in rows.select_columns([wanted.field]).iter(1000))
            column = track(chain.from_iterable(batches), f"reading {split}", progress)
            kept = (stripped for value in column if (stripped := text_of(value, config.turns).strip()))
            try:
                texts[split] = list(islice(kept, config.max_samples if split == "train" else None))
            except ValueError as error:
                raise CorpusError(f"corpus.field: {wanted.field} of {name} of {wanted.name} needs {error}") from error
            if not texts[split]:
                raise CorpusError(f"corpus.{split}: {name} of {wanted.name} holds no text: name another split")
    return texts


def _wanted(config: CorpusConfig) -> _Wanted:
    name = config.name
    repository, _, configuration = CORPORA.get(name, name).removeprefix(PREFIX).partition(":")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
        raise CorpusError(
            f"corpus.name: a dataset of the hub is {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME:CONFIG, got {name!r}: "
            + among(repository, list(CORPORA))
        )
    field = _FIELDS.get(name, config.field) if config.field == "text" else config.field
    splits = {"train": "train", "validation": "validation"} | _SPLITS.get(name, {})
    splits |= {split: given for split in ("train", "validation", "test") if (given := getattr(config, split))}
    return _Wanted(name, repository, configuration or None, field, splits)


def _builder(wanted: _Wanted) -> "DatasetBuilder":
    """The dataset on this disk, after which nothing needs the network."""
    from datasets import load_dataset_builder
    from datasets.packaged_modules.cache.cache import Cache

    # Without a configuration only one called default is taken from the cache: others are not all there is to choose.
    cached = wanted.configuration or "default"
    try:
        return Cache(repo_id=wanted.repository, dataset_name=wanted.repository.split("/")[1], config_name=cached,
                     version="auto", hash="auto")  # fmt: skip
    except (ValueError, OSError) as error:  # an OSError where a killed process left half a dataset
        _, _, others = str(error).partition("\n")  # which configurations are there, if any
        _refuse_unreachable(wanted, others)
    try:
        # With the prefix a folder of the same name is not mistaken for the dataset.
        builder = load_dataset_builder(f"hf://datasets/{wanted.repository}", wanted.configuration)
        builder.download_and_prepare()
    except Exception as error:  # the library raises errors of a dozen kinds
        raise _refusal(wanted, error) from error
    return builder


def _cache() -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_DATASETS_CACHE") or f"{HF_HOME}/datasets").expanduser()


def _refuse_unreachable(wanted: _Wanted, others: str = "") -> None:
    from huggingface_hub import is_offline_mode

    offline = is_offline_mode() or os.environ.get("HF_DATASETS_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    # What is asked for is what `datasets` asks for first.
    if why := "offline mode is set" if offline else silence(f"{_page(wanted)}/resolve/main/README.md"):
        raise _out_of_reach(wanted, why, others)


def _out_of_reach(wanted: _Wanted, why: str, others: str = "") -> CorpusError:
    from huggingface_hub.constants import ENDPOINT

    return CorpusError(
        f"corpus.name: {wanted.name} is not in the cache {_cache()}{others and f' ({others})'} and {ENDPOINT} is out "
        f"of reach ({why}): run once with a network (HF_HOME says where it is kept), or fetch the files of "
        f"{wanted.repository} elsewhere and give them to the corpus text with field: {wanted.field}; "
        "python-docs needs no network"
    )


def _refusal(wanted: _Wanted, error: Exception) -> CorpusError:
    text, page = str(error), _page(wanted)
    if "LocalEntryNotFoundError" in text or _connection_lost(error):
        return _out_of_reach(wanted, first_line(error))
    if "gated dataset" in text:
        why = f"it is gated: accept its terms at {page}, then log in by `hf auth login` or set HF_TOKEN"
    elif "doesn't exist on the Hub" in text:
        why = f"there is none that you may read: check {page}; for a private one log in by `hf auth login`"
    elif "scripts are no longer supported" in text:
        why = f"it is made by a script, which `datasets` no longer runs: give its files to the corpus text ({page})"
    elif isinstance(error, ValueError) and (known := _configurations(wanted)):
        example = f"several configurations, name one as in {PREFIX}{wanted.repository}:{known[0]}"
        configured = f"no configuration {wanted.configuration}" if wanted.configuration else example
        why = f"it has {configured}: {among(wanted.configuration or '', known)}"
    else:
        why = f"{first_line(error)}: see {page}, or give its files to the corpus text"
    return CorpusError(f"corpus.name: cannot load {wanted.name}, {why}")


def _connection_lost(error: BaseException | None) -> bool:
    """Whether a lost connection is the error or its cause."""
    if error is None:
        return False
    return bool(_UNREACHED & {kind.__name__ for kind in type(error).__mro__}) or _connection_lost(error.__cause__)


def _page(wanted: _Wanted) -> str:
    from huggingface_hub.constants import ENDPOINT

    return f"{ENDPOINT}/datasets/{wanted.repository}"


def _configurations(wanted: _Wanted) -> list[str]:
    """The dataset's configurations where it has not the one that is wanted, else none."""
    from datasets import get_dataset_config_names

    with contextlib.suppress(Exception):
        known = [str(name) for name in get_dataset_config_names(f"hf://datasets/{wanted.repository}")]
        return [] if wanted.configuration in known else known
    return []


def _splits(wanted: _Wanted, builder: "DatasetBuilder") -> dict[str, tuple[str, "Dataset"]]:
    """Split of ours -> the name of the dataset's and its rows, checked to have the field."""
    known = list(builder.info.splits or {})
    names = wanted.splits | ({"test": "test"} if "test" in known and "test" not in wanted.splits else {})
    splits = {}
    for split, name in names.items():
        try:
            rows = builder.as_dataset(name)
        except (ValueError, AssertionError) as error:
            why = f"{name!r} is none of the splits of {wanted.name}, {among(name, known)}"
            if re.split(r"\W", name)[0] in known:
                why = f"{name!r} is no slice of {wanted.name} ({first_line(error)})"
            cut = 'train: "train[:95%]" and validation: "train[95%:]"'
            raise CorpusError(f"corpus.{split}: {why}; cut one with slices such as {cut}") from error
        _check_field(wanted, rows)
        splits[split] = (name, rows)
    return splits


def _check_field(wanted: _Wanted, rows: "Dataset") -> None:
    field, features = wanted.field, rows.features
    texts = [name for name, feature in features.items() if _is_text(feature)]
    if field not in texts:
        kind = getattr(features.get(field), "dtype", None) or "a list or an object"
        got = f"which holds {kind}" if field in features else "which it has not"
        choice = among(field, texts) if texts else "it has none"
        raise CorpusError(
            f"corpus.field must name a column of strings, of lists of strings or of messages in {wanted.name}, "
            f"got {field}, {got}: {choice}"
        )


def _is_text(feature: Any) -> bool:
    """Whether a column of this kind holds texts or turns (`tune_newllm.data.turns`)."""
    inner = getattr(feature, "feature", feature)
    message = isinstance(inner, dict) and {"role", "content"} <= inner.keys()
    return message or getattr(inner, "dtype", None) in ("string", "large_string")


@contextlib.contextmanager
def _quiet(progress: bool) -> Iterator[None]:
    """Keep the libraries' logs off stderr, and their bars too but for a person who wants to see progress."""
    import datasets
    import huggingface_hub.utils as hub

    logs = (datasets.logging, hub.logging)
    levels = [log.get_verbosity() for log in logs]
    shown = progress and sys.stderr.isatty()
    barred = [] if shown else [bars for bars in (datasets, hub) if not bars.are_progress_bars_disabled()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for log in logs:
                log.set_verbosity(log.CRITICAL)
            for bars in barred:
                bars.disable_progress_bars()
            yield
        finally:
            for log, level in zip(logs, levels, strict=True):
                log.set_verbosity(level)
            for bars in barred:
                bars.enable_progress_bars()
