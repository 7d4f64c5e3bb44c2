import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from tune_newllm.artifacts import export as export_module
from tune_newllm.artifacts.checkpoint import load_checkpoint
from tune_newllm.artifacts.compare import evaluate_checkpoint
from tune_newllm.artifacts.export import export
from tune_newllm.artifacts.generate import Sampling, generate
from tune_newllm.errors import TuneError, UsageError

FILES = {
    "README.md",
    "config.json",
    "configuration.json",
    "context_vector.py",
    "generation_config.json",
    "model.safetensors",
    "modeling_new_llm.py",
    "provenance.json",
    "products.py",
    "protocol.py",
    "recurrence.py",
    "summary.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def test_writes_everything_with_its_figures(exported, run, corpus):
    folder, result = exported
    assert {path.name for path in folder.iterdir()} == FILES
    validation, test = (evaluate_checkpoint(load_checkpoint(run), split, corpus) for split in ("validation", "test"))
    assert (result.val_loss, result.val_ppl) == (validation.loss, validation.ppl)
    assert (result.test_loss, result.test_ppl) == (test.loss, test.ppl)
    card = (folder / "README.md").read_text()
    for figure in (f"{validation.loss:.4f}", f"{validation.ppl:.2f}", f"{test.loss:.4f}", f"{result.parameters:,}"):
        assert figure in card
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance == {"trial": "t7", "corpus_fingerprint": corpus.fingerprint}
    ours, theirs = (load_file(path / "model.safetensors") for path in (run, folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


STRANGER = """
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("tune_newllm", "analysis"):
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Blocker())
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    folder, out, prompt = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = tokenizer(prompt, return_tensors="pt")
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=8)[0], skip_special_tokens=True)
    torch.save({"ids": ids["input_ids"], "logits": model(**ids).logits.detach(), "text": text}, out)
"""


def test_loads_where_this_package_is_not_installed(exported, checkpoint, tmp_path):
    prompt = checkpoint.tokenizer.decode([5, 7, 6])
    command = [sys.executable, "-I", "-c", textwrap.dedent(STRANGER), str(exported[0]), "out.pt", prompt]
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdin=subprocess.DEVNULL)
    theirs = torch.load(tmp_path / "out.pt")
    ours = checkpoint.tokenizer.encode_prompt(prompt)
    assert theirs["ids"].tolist() == [ours]
    torch.testing.assert_close(theirs["logits"], checkpoint.model(torch.tensor([ours]))[0].detach())
    assert theirs["text"] == generate(checkpoint.model, checkpoint.tokenizer, prompt, Sampling(8, temperature=0))


def test_exporting_is_silent(run, corpus, tmp_path, capfd):
    export(run, tmp_path / "new", corpus=corpus, provenance={})
    assert capfd.readouterr() == ("", "")


def test_an_export_can_be_exported(exported, corpus, tmp_path):
    result = export(exported[0], tmp_path / "again", corpus=corpus, provenance={})
    assert result.val_loss == exported[1].val_loss


def refuse(target, run, corpus, message):
    with pytest.raises(UsageError, match=message):
        export(run, target, corpus=corpus, provenance={})


def test_refuses_a_taken_place(run, corpus, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "precious").write_text("kept")
    refuse(taken, run, corpus, "not empty: give a new folder")
    refuse(taken / "precious", run, corpus, "not empty")
    refuse(taken / "precious" / "below", run, corpus, "cannot write to")
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "precious"]


def test_an_empty_folder_may_be_filled_also_from_a_run_whose_weights_are_lost(copy_of_run, corpus, tmp_path):
    (copy_of_run / "model.safetensors").unlink()
    (tmp_path / "new").mkdir()
    export(copy_of_run, tmp_path / "new", corpus=corpus, provenance={})
    assert {path.name for path in (tmp_path / "new").iterdir()} == FILES


def swap_gates(folder):
    """Code that loads and runs, but computes something else."""
    path = folder / "recurrence.py"
    path.write_text(path.read_text().replace("f.sigmoid(), g.sigmoid()", "g.sigmoid(), f.sigmoid()"))


def number_words_otherwise(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    words = {i: word for word, i in vocabulary.items()}
    vocabulary[words[5]], vocabulary[words[6]] = 6, 5
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("spoil", [swap_gates, number_words_otherwise])
def test_an_export_that_differs_is_not_kept(run, corpus, tmp_path, monkeypatch, spoil):
    write = export_module._write

    def write_and_spoil(folder, *rest):
        write(folder, *rest)
        spoil(folder)

    monkeypatch.setattr(export_module, "_write", write_and_spoil)
    with pytest.raises(TuneError, match="does not reproduce the checkpoint"):
        export(run, tmp_path / "new", corpus=corpus, provenance={})
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_named(run, corpus, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "file" / "modules"))
    with pytest.raises(TuneError, match=r"Not a directory.*set HF_HOME"):
        export(run, tmp_path / "new", corpus=corpus, provenance={})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
