"""Whether an export is what was exported: transformers loads it, and both are compared."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tune_newllm.artifacts.checkpoint import Checkpoint
from tune_newllm.data.corpora import PreparedCorpus
from tune_newllm.errors import TuneError
from tune_newllm.models.torchao import load_torchao
from tune_newllm.training.batches import to_tensors
from tune_newllm.training.metrics import evaluate

_TOLERANCE = 1e-4
"""Largest difference allowed between a logit (or the validation loss) before and after the export."""


class _OnlyLogits(nn.Module):
    """An exported model behind our own protocol, so that it is measured by the same code."""

    def __init__(self, exported: nn.Module) -> None:
        super().__init__()
        self.exported = exported

    def forward(self, tokens_BT: Tensor) -> tuple[Tensor, None]:
        # It would warn of padding without a mask; none is needed for padding to the right.
        with _quiet_transformers():
            return self.exported(tokens_BT).logits, None


def verify(folder: Path, checkpoint: Checkpoint, corpus: PreparedCorpus, val_loss: float, code: bool) -> None:
    """Have transformers read an export, to the same token ids, logits and validation loss.

    Args:
        folder: of the export.
        checkpoint: what was exported.
        corpus: whose validation split gives `val_loss`.
        val_loss: of the checkpoint.
        code: whether the folder brings code of its own, which transformers must be allowed to run.

    Raises:
        TuneError: it reads something else, or cannot read it.
    """
    device = str(next(checkpoint.model.parameters()).device)
    exported, tokenizer = _load_with_transformers(folder, code)
    model = _OnlyLogits(exported.to(device)).eval()
    tokens_BT, _ = to_tensors(corpus.validation[:8], device)
    with torch.no_grad():
        logits_difference = (checkpoint.model(tokens_BT)[0] - model(tokens_BT)[0]).abs().max().item()
    if corpus.carries:
        # Of a model behind transformers' interface every row is read from the start of a text.
        val_loss = evaluate(checkpoint.model, corpus.validation, device=device).loss
    loss_difference = abs(evaluate(model, corpus.validation, device=device).loss - val_loss)
    text = checkpoint.tokenizer.decode(corpus.validation[0].tolist(), skip_special=True)
    same_ids = tokenizer(text)["input_ids"] == checkpoint.tokenizer.encode_prompt(text)
    if not (logits_difference <= _TOLERANCE and loss_difference <= _TOLERANCE and same_ids):
        raise TuneError(
            f"the export does not reproduce the checkpoint: logits differ by up to {logits_difference:.2g}, validation "
            f"loss by {loss_difference:.2g} (allowed: {_TOLERANCE}), token ids {'agree' if same_ids else 'differ'}; "
            "nothing was written"
        )


def _load_with_transformers(folder: Path, code: bool) -> tuple[nn.Module, Any]:
    load_torchao()
    with _quiet_transformers():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        options = {"trust_remote_code": code, "local_files_only": True}
        try:
            model = AutoModelForCausalLM.from_pretrained(folder, **options)
            return model, AutoTokenizer.from_pretrained(folder, **options)
        except OSError as error:
            raise TuneError(
                f"transformers cannot load the export ({error}): if its cache cannot be written, set HF_HOME; "
                "nothing was written"
            ) from error


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
