import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch

from tune_newllm.artifacts.checkpoint import load_checkpoint
from tune_newllm.artifacts.compare import evaluate_checkpoint
from tune_newllm.artifacts.export import export
from tune_newllm.artifacts.generate import Sampling, generate
from tune_newllm.artifacts.quantize import flatten, quantise, verdict
from tune_newllm.artifacts.sizes import stored_bytes
from tune_newllm.errors import CheckpointError, UsageError
from tune_newllm.models import ModelConfig, build
from tune_newllm.training.start import Start

KINDS = ("weights", "dynamic")


@pytest.fixture(scope="session")
def both(place, run, corpus):
    """Int8 exports of the run, one of each kind: their folders and what `export` returned."""
    folders = {kind: place / f"int8-{kind}" for kind in KINDS}
    return {kind: (to, export(run, to, corpus=corpus, provenance={}, int8=kind)) for kind, to in folders.items()}


@pytest.fixture(params=KINDS)
def quantised(request, both):
    """One of them."""
    return both[request.param]


@pytest.mark.parametrize(
    ("layers", "ctx", "plain", "original", "heads"),
    [(6, 256, 10_957_728, 3_523_648, 4), (12, 512, 19_363_744, 5_638_304, 4)],
)
def test_sizes_are_those_of_the_original_research(layers, ctx, plain, original, heads):
    model = build(ModelConfig(num_layers=layers, ctx_dim=ctx), 1000, seed=0)
    assert stored_bytes(model) == plain
    quantise(model, "weights")
    # There a scale and a zero point took 16 bytes of each of L + 4 matrices; here 5 bytes of each of L + 2, as three of
    # the four heads are one matrix.
    expected = original - 16 * (layers + heads) + 5 * (layers + 2)
    assert stored_bytes(model) == expected
    assert sum(tensor.numel() * tensor.element_size() for tensor in flatten(model)[0].values()) == expected


def test_a_weight_is_a_whole_number_of_steps_of_its_matrix():
    model = build(ModelConfig(embed_dim=8, hidden_dim=16, ctx_dim=8, num_layers=2), 30, seed=0)
    before = model.gates.weight.detach().clone()
    quantise(model, "weights")
    after = model.gates.weight.dequantize()
    step = before.abs().max() / 127.5
    torch.testing.assert_close((before / step).round().clamp(-128, 127) * step, after, atol=1e-6, rtol=0)
    assert model.embedding.weight.dtype == torch.float32


@pytest.mark.parametrize("shape", [{}, {"ffn": "residual"}, {"tied": True}])
def test_reading_by_layers_is_the_scan(shape, monkeypatch):
    sizes = {"embed_dim": 8, "hidden_dim": 16, "ctx_dim": 8, "num_layers": 3}
    model = build(ModelConfig(**sizes, **shape), 30, seed=0).eval()
    tokens = torch.randint(30, (3, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, state = model(tokens)
        monkeypatch.setattr("tune_newllm.models.context_vector.is_quantised", lambda _: True)
        first, between = model(tokens[:, :4])
        second, end = model(tokens[:, 4:], between)
    torch.testing.assert_close(torch.cat([first, second], dim=1), logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(end, state, atol=1e-5, rtol=1e-4)


def test_only_dynamic_rounds_what_the_layers_read():
    read_BH = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    half_step_B1 = read_BH.abs().amax(dim=1, keepdim=True) / 127.5 / 2
    errors = {}
    for kind in KINDS:
        model = build(ModelConfig(embed_dim=8, hidden_dim=16, ctx_dim=8, num_layers=1), 30, seed=0).eval()
        quantise(model, kind)
        weight_GH = model.gates.weight.dequantize()
        errors[kind] = (model.gates(read_BH) - read_BH @ weight_GH.t()).abs()
    assert errors["weights"].max() < 1e-5
    assert errors["dynamic"].max() > 1e-3
    # Each number that is read moves by half a step at most.
    assert (errors["dynamic"] <= half_step_B1 * weight_GH.abs().sum(dim=1) + 1e-5).all()


def test_an_int8_export_is_measured_beside_what_it_was_made_from(quantised, run, corpus):
    folder, result = quantised
    trained, small = load_checkpoint(run), load_checkpoint(folder)
    assert (trained.int8, small.int8) == (None, result.int8.kind)
    before, after = (evaluate_checkpoint(each, "validation", corpus) for each in (trained, small))
    assert (result.int8.fp32_val_loss, result.val_loss) == (before.loss, after.loss)
    assert before.loss != after.loss == pytest.approx(before.loss, abs=0.02)
    assert result.int8.verdict == verdict(before.ppl, after.ppl) == "ok"
    assert (result.int8.fp32_bytes, result.weight_bytes) == (stored_bytes(trained.model), stored_bytes(small.model))
    # The file is the weights and some kilobytes of names.
    assert 0 < (folder / "model.safetensors").stat().st_size - result.weight_bytes < 6000
    assert "torchao" in (folder / "README.md").read_text()
    assert json.loads((folder / "summary.json").read_text())["int8"]["kind"] == result.int8.kind
    assert generate(small.model, small.tokenizer, "", Sampling(5))


STRANGER = """
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("tune_newllm", "analysis"):
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Blocker())
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    found = []
    for folder in sys.argv[2:]:
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
        kinds = [type(weight).__name__ for weight in model.parameters()]
        found.append((model(torch.tensor([[2, 5, 7, 6]])).logits.detach(), kinds.count("Int8Tensor")))
    torch.save(found, sys.argv[1])
"""


def test_transformers_loads_them_in_a_process_without_this_package(both, tmp_path):
    folders = [folder for folder, _ in both.values()]
    command = [sys.executable, "-I", "-c", textwrap.dedent(STRANGER), "out.pt", *map(str, folders)]
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    for folder, (theirs, quantised) in zip(folders, torch.load(tmp_path / "out.pt"), strict=True):
        with torch.no_grad():
            ours, _ = load_checkpoint(folder).model(torch.tensor([[2, 5, 7, 6]]))
        torch.testing.assert_close(theirs, ours)
        assert quantised == 4


def test_exporting_int8_is_silent(run, corpus, tmp_path, capfd):
    export(run, tmp_path / "new", corpus=corpus, provenance={}, int8="weights")
    assert capfd.readouterr() == ("", "")


def test_an_int8_export_can_be_exported_but_neither_quantised_again_nor_trained(quantised, corpus, tmp_path):
    folder, result = quantised
    again = export(folder, tmp_path / "again", corpus=corpus, provenance={})
    assert (again.val_loss, again.weight_bytes, again.int8) == (result.val_loss, result.weight_bytes, None)
    assert load_checkpoint(tmp_path / "again").int8 == result.int8.kind
    with pytest.raises(UsageError, match="int8 already"):
        export(folder, tmp_path / "twice", corpus=corpus, provenance={}, int8="weights")
    with pytest.raises(CheckpointError, match="quantising comes after training"):
        Start.read(folder)


@pytest.mark.slow
def test_torchao_is_loaded_without_its_warnings():
    code = """
        from tune_newllm.models.torchao import load_torchao
        load_torchao()
        import sys
        assert "torchao.quantization" in sys.modules
        import torchao.prototype.safetensors.safetensors_support, torchao.core.config
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("", "")


def test_says_what_to_install_where_torchao_is_missing(run, corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UsageError, match=r"pip install 'tune-newllm\[int8\]'"):
        export(run, tmp_path / "new", corpus=corpus, provenance={}, int8="weights")


def test_refuses_weights_of_another_model(quantised, tmp_path):
    copy = shutil.copytree(quantised[0], tmp_path / "copy")
    content = json.loads((copy / "configuration.json").read_text())
    content["model"]["num_layers"] = 3
    (copy / "configuration.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="do not fit the configuration"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    ("after", "said"), [(102.9, "ok"), (97.1, "ok"), (103.1, "moderate"), (104.9, "moderate"), (105.1, "bad")]
)
def test_verdict_of_the_original_research(after, said):
    assert verdict(100, after) == said
