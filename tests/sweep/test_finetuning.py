"""A sweep that begins with a checkpoint, on dialogues in local files: dialogue_finetune.yaml in small."""

import json
import random
import shutil
from pathlib import Path

import pytest

from tune_newllm.data import toy
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.sweep import engine
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.history import History
from tune_newllm.sweep.loading import load_spec
from tune_newllm.training.config import Configuration, TrainingConfig
from tune_newllm.training.run import Run
from tune_newllm.training.start import Start

FILE = Path(__file__).parents[2] / "search_spaces" / "dialogue_finetune.yaml"


def write_dialogues(folder):
    """Sentences of the toy language as turns, with a word that it has not."""
    sentences = toy.read()["validation"]
    source = random.Random(0)
    for split, count in (("train", 60), ("validation", 20)):
        rows = [{"dialog": [f"{turn} hm" for turn in source.sample(sentences, 3)]} for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture
def base(tmp_path):
    """A checkpoint of the file's model that knows the toy language."""
    training = TrainingConfig(epochs=1, batch_size=64, lr=1e-2, precision="fp32", device="cpu", micro_batch=64)
    configuration = Configuration(CorpusConfig(name="toy", window=16), load_spec(FILE).model, training)
    list(Run(tmp_path / "base", configuration, prepare(configuration.corpus)).epochs())
    return tmp_path / "base"


def search(spec, start, path):
    corpus = prepare(spec.widest_corpus, tokenizer=start.tokenizer, new_words=spec.training.new_words)
    return engine.search(spec, corpus, path, ["x"], lambda record: None, start)


def test_a_sweep_begins_with_a_checkpoint_and_resumes_without_it(ray_address, base, tmp_path, monkeypatch):
    write_dialogues(tmp_path)
    asked = [f"training.start={base}", "training.epochs=2", "training.new_words=3", "training.precision=fp32",
             "points=[{training.lr: 1e-5, training.lr_schedule.name: constant}]", "run_cap=2", "early_terminate=null",
             "resources={cpus_per_trial: 1, gpus_per_trial: 0, max_concurrent: 1}"]  # fmt: skip
    asked += [f"corpus.{split}={tmp_path / split}.jsonl" for split in ("train", "validation")]
    spec, start = load_spec(FILE, asked), Start.read(base)
    undisturbed = SweepFolder.open(search(spec, start, tmp_path / "one").folder)
    kept = undisturbed.spec()
    assert (kept.training.start, kept.corpus.tokenizer) == ("start", "words")

    trials = list(History(undisturbed.read()).trials.values())
    folder = undisturbed.trial(trials[0].id)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert list(vocabulary)[12:] == ["hm", "<|speaker1|>", "<|speaker2|>"]
    # The first point's learning rate leaves the loss where the checkpoint has it.
    corpus = prepare(spec.corpus, tokenizer=start.tokenizer, new_words=3)
    began = Run(tmp_path / "began", kept.configuration(trials[0].parameters), corpus,
                start.begin(kept.base, 15)).evaluate()  # fmt: skip
    assert trials[0].epochs[1].val_loss == pytest.approx(began.loss, abs=0.01)

    # With no prepared corpus anywhere, moved, and with the checkpoint gone.
    monkeypatch.setattr(engine, "LARGEST_COPIED_CORPUS", 0)
    limited = load_spec(FILE, [*asked, "budget.epochs=1"])
    stopped = search(limited, start, tmp_path / "two")
    assert not stopped.finished
    stopped.folder.rename(tmp_path / "moved")
    for lost in (base, corpus.folder):
        shutil.rmtree(lost)
    resumed = engine.resume(tmp_path / "moved", ["x"], lambda record: None, ["budget=null"])
    assert resumed.finished
    again = History(SweepFolder.open(resumed.folder).read()).trials.values()
    assert [{e: r.val_loss for e, r in trial.epochs.items()} for trial in again] == [
        {e: r.val_loss for e, r in trial.epochs.items()} for trial in trials
    ]


@pytest.mark.parametrize("family", ["context_vector", "gpt2"])
@pytest.mark.parametrize("stem", ["dialogue_finetune", "dailydialog_finetune"])
def test_the_checkpoint_that_a_file_opens_with_is_of_its_model(stem, family):
    path = FILE.with_stem(stem)
    words = [line.split() for line in path.read_text().splitlines() if " tune_newllm train " in line]
    command = next(each for each in words if ("model.family=gpt2" in each) == (family == "gpt2"))
    given = [f"model.family={family}"]
    model = load_spec(FILE.parent / Path(command[5]).name, given).unsearched.model
    Start(Path(command[-1]), model, None, {}).require(load_spec(path, given).unsearched.model)
