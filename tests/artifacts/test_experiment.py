"""Experiments under a name: the original's files, readable as any checkpoint, and none lost by a kill."""

import itertools
import json
import math
from dataclasses import replace

import pytest

from tune_newllm.artifacts.checkpoint import load_checkpoint
from tune_newllm.artifacts.experiment import Experiment
from tune_newllm.artifacts.names import name_of, require_name
from tune_newllm.data.config import CorpusConfig
from tune_newllm.errors import UsageError
from tune_newllm.models import ModelConfig
from tune_newllm.training import checkpoints
from tune_newllm.training.config import Configuration, EarlyStoppingConfig, TrainingConfig
from tune_newllm.training.run import Run
from tune_newllm.training.weights import read_tensors

NAME = "new_llm_toy"
FOLDERS = {f"best_{NAME}", f"{NAME}_final", f"{NAME}_epoch_5", f"{NAME}_epoch_7"}
ORIGINAL_KEYS = {
    *("model_name", "current_epoch", "total_epochs", "train_losses", "val_losses", "train_ppls", "val_ppls"),
    *("best_val_loss", "best_val_ppl", "stopped_early", "config"),
}


def opened(folder, corpus, **training):
    own = {"epochs": 7, "batch_size": 64, "lr": 0.3, "precision": "fp32", "device": "cpu", "micro_batch": 64}
    configuration = Configuration(
        CorpusConfig(name="toy", window=16, vocab_size=60),
        ModelConfig(embed_dim=8, hidden_dim=8, ctx_dim=8, num_layers=1),
        TrainingConfig(**own | {"early_stopping": None} | training),
    )
    return Run(folder, configuration, replace(corpus, train=corpus.train[:128], validation=corpus.validation[:16]))


def trained(run, until=None):
    """As `train --name` does it; left without any tidying up after `until` epochs."""
    experiment = Experiment(NAME, run)
    results = run.epochs()
    for result in results:
        experiment.take_in(result)
        if result.epoch == until:
            return results
    return None


def weights(folder):
    tensors, metadata = read_tensors(folder / "model.safetensors")
    return metadata["epoch"], {name: each.tolist() for name, each in tensors.items()}


def found(folder):
    """All that the experiment keeps, but for the times."""
    progress = json.loads((folder / f"{NAME}_progress.json").read_text())
    del progress["seconds"]
    return progress, {path.name: weights(path) for path in folder.iterdir() if path.is_dir()}


def test_the_files_of_the_original_under_its_names(tmp_path, corpus):
    run = opened(tmp_path, corpus)
    trained(run)
    progress, kept = found(tmp_path)
    assert set(kept) == FOLDERS
    best = min(run.history, key=lambda result: result.val_loss)
    assert 1 < best.epoch < 7, "else best, final and the run's own could not be told apart"
    assert kept[f"best_{NAME}"] == weights(tmp_path)
    assert [kept[name][0] for name in sorted(FOLDERS)] == [str(best.epoch), "5", "7", "7"]
    assert kept[f"{NAME}_final"] == kept[f"{NAME}_epoch_7"]
    for name in FOLDERS:
        assert load_checkpoint(tmp_path / name).configuration == run.configuration
    assert set(progress) > ORIGINAL_KEYS
    assert (progress["model_name"], progress["current_epoch"], progress["total_epochs"]) == (NAME, 7, 7)
    assert progress["val_losses"] == [result.val_loss for result in run.history]
    assert progress["train_ppls"] == pytest.approx([math.exp(result.train_loss) for result in run.history])
    assert progress["val_accs"] == [result.val_acc for result in run.history]
    assert (progress["best_epoch"], progress["best_val_loss"]) == (best.epoch, best.val_loss)
    assert progress["config"] | {
        "vocab_size": len(corpus.tokenizer), "embed_dim": 8, "hidden_dim": 8, "num_layers": 1, "ctx_dim": 8,
        "batch_size": 64, "learning_rate": 0.3, "precision": "fp32",
    } == progress["config"]  # fmt: skip
    assert not progress["stopped_early"]


def test_what_patience_ends_says_so(tmp_path, corpus):
    stopping = EarlyStoppingConfig(patience=1, min_delta=9.0)
    trained(opened(tmp_path, corpus, early_stopping=stopping))
    progress, kept = found(tmp_path)
    assert (progress["stopped_early"], progress["current_epoch"], progress["total_epochs"]) == (True, 2, 7)
    assert set(kept) == {f"best_{NAME}", f"{NAME}_final", f"{NAME}_epoch_2"}


TINYGPT2 = {"family": "gpt2", "hidden_dim": 1024, "tied": True}
CVFP = {"family": "fixed_point", "embed_dim": 768, "ctx_dim": 768}


class Killed(BaseException):
    """The end of a process."""


def test_a_kill_at_any_write_loses_no_checkpoint(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    trained(opened(tmp_path / "undisturbed", corpus))
    undisturbed = found(tmp_path / "undisturbed")
    # In steps of three, so that every kind of write is met.
    for point in itertools.count(step=3):
        run, counter = opened(tmp_path / str(point), corpus), itertools.count()
        submit = run._checkpoints._thread.submit

        def fatal(work, point=point, counter=counter, submit=submit):
            if next(counter) >= point:
                raise Killed
            return submit(work)

        monkeypatch.setattr(run._checkpoints._thread, "submit", fatal)
        try:
            trained(run)
            break
        except Killed:
            # What the process had handed over may have been written; nothing comes after it.
            run._checkpoints._thread.shutdown()
            run._checkpoints.epoch = run.configuration.training.epochs
            trained(opened(run.folder, corpus))
            assert found(run.folder) == undisturbed, point
    assert point > 10


def test_a_longer_run_keeps_the_last_weights_of_the_shorter(tmp_path, corpus):
    trained(opened(tmp_path, corpus, epochs=6))
    last = weights(tmp_path / f"{NAME}_final")
    trained(opened(tmp_path, corpus, epochs=8, schedule_epochs=6))
    assert weights(tmp_path / f"{NAME}_epoch_6") == last
    assert weights(tmp_path / f"{NAME}_final")[0] == "8"


@pytest.mark.parametrize(
    ("corpus", "model", "training", "name"),
    [
        ("wikitext-2", {}, {}, "new_llm_wikitext"),
        ("wikitext-2", {"ctx_dim": 512, "num_layers": 12}, {}, "new_llm_wikitext_ctx512_layers12"),
        ("wikitext-2", {"num_layers": 12}, {}, "new_llm_wikitext_ctx256_layers12"),
        ("wikitext-2", {"hidden_dim": 1024}, {"precision": "fp32"}, "new_llm_wikitext_hidden1024"),
        ("wikitext-2", {}, {"precision": "fp16"}, "new_llm_wikitext_fp16"),
        ("wikitext-2", {"embed_dim": 64}, {}, "new_llm_wikitext_embed64"),
        ("wikitext-2", {"tied": True, "ffn": "residual"}, {}, "new_llm_wikitext_residual_tied"),
        ("wikitext-2", TINYGPT2, {}, "tinygpt2_wikitext"),
        ("wikitext-2", {"family": "gpt2"}, {}, "tinygpt2_wikitext_hidden512_untied"),
        ("wikitext-2", TINYGPT2 | {"num_heads": 8, "num_positions": 128}, {}, "tinygpt2_wikitext_heads8_positions128"),
        ("dailydialog", {}, {}, "new_llm_dialog"),
        ("dailydialog", TINYGPT2 | {"num_layers": 3}, {}, "tinygpt2_dialog_layers3"),
        ("hf:roneneldan/TinyStories", CVFP, {}, "cvfp_tinystories"),
        ("ultrachat", CVFP | {"num_input_tokens": 2, "blocks": 4}, {}, "cvfp_ultrachat_tokens2_blocks4"),
        ("ultrachat", CVFP | {"token_input_all_layers": False}, {}, "cvfp_ultrachat_first_layer_only"),
    ],
)
def test_names_of_the_original_and_of_others(corpus, model, training, name):
    made = name_of(Configuration(CorpusConfig(name=corpus), ModelConfig(**model), TrainingConfig(**training)))
    assert made == name
    assert require_name(made) == name


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "a b", "x" * 101])
def test_a_name_that_is_no_file_name_is_refused(name):
    with pytest.raises(UsageError, match="letters, digits"):
        require_name(name)
