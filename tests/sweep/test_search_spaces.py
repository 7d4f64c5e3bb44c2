"""Every sweep file that comes along, run in small: a toy corpus, narrow models, two epochs, a few trials."""

from pathlib import Path

import pytest

from tune_newllm.data.corpora import prepare
from tune_newllm.sweep import engine
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.history import History
from tune_newllm.sweep.loading import load_spec

FILES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
SMALL = {
    "model.embed_dim": 8,
    "model.hidden_dim": 16,
    "model.ctx_dim": 8,
    "model.num_layers": 2,
    "model.embedding": "random",
    "training.epochs": 2,
    "training.batch_size": 64,
    "training.device": "cpu",
    "training.precision": "fp32",
    "early_terminate.min_iter": 1,
    "resources.gpus_per_trial": 0,
    "run_cap": 4,
}
ALWAYS = {"architectures"}
"""All families. Grids, streams, amounts of data and conditions have tests elsewhere."""
RUN = [pytest.param(path, marks=[] if path.stem in ALWAYS else [pytest.mark.slow], id=path.stem) for path in FILES]


def toy(corpus):
    """The toy corpus, cut into words or pieces and into windows as another is; GPT-2's pieces would need a network."""
    words = "tokenizer: words, vocab_size: 100" if corpus.tokenizer == "words" else "tokenizer: bpe, vocab_size: 300"
    return f"{{name: toy, {words}, window: 16, windowing: {corpus.windowing}}}"


@pytest.mark.parametrize("path", RUN)
def test_a_sweep_file_runs_to_its_end(path, ray_address, tmp_path):
    whole = load_spec(path)
    asked = [f"{key}={value}" for key, value in SMALL.items() if key not in whole.searched]
    asked.append(f"corpus={toy(whole.corpus)}")
    if whole.early_terminate is None:
        asked = [text for text in asked if not text.startswith("early_terminate")]
    if "training.precision" in whole.searched:
        asked.append("parameters.training.precision.values=[fp32, bf16]")  # a processor offers no fp16
    if whole.training.start is not None:
        asked += ["training.start=null", "training.new_words=0"]  # there is no checkpoint; see test_finetuning.py
    spec = load_spec(path, asked)
    assert set(spec.searched) == set(whole.searched)
    outcome = engine.search(spec, prepare(spec.widest_corpus), tmp_path / "sweep", ["x"], lambda record: None)
    trials = History(SweepFolder.open(outcome.folder).read()).trials.values()
    assert outcome.finished
    assert len(trials) == 4 * spec.seeds
    assert {trial.state for trial in trials} <= {"completed", "stopped", "diverged"}
    assert "completed" in {trial.state for trial in trials}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_sweep_file_opens_with_its_question_its_cost_and_how_to_read_the_answer(path):
    comment = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert "?" in comment[0]
    assert any(line.startswith("# Read:") for line in comment)
    assert any(cost in " ".join(comment) for cost in ("minutes", "seconds", "for a GPU", "for GPUs"))
    assert load_spec(path).description
