"""What is looked at after phase one: whether contexts are rich, whether the blocks do anything, and what they remember.

Shape suffixes: B rows, T tokens of a row, M tokens, D context.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tune_newllm.models.fixed_point import FixedPointModel
from tune_newllm.models.protocol import effective_rank
from tune_newllm.training.batches import PAD, ContextRows
from tune_newllm.training.context_cache import fill

RANKED, COMPARED, PAIRS = 10_000, 5_000, 100
"""Contexts whose rank is taken, contexts compared with each other, and random contexts put through the blocks, at most
(original research, effective rank; identity check)."""
GOOD_RANK = 0.3
"""Share of D from which the original calls an effective rank good. It says little: untrained blocks reach 0.75."""
IDENTITY = 0.95
ATTRACTOR_DISTANCE, ATTRACTOR_COSINE, ZERO_NORM = 0.1, 0.99, 0.1
SETTLED, SPREAD = 0.001, 0.01
"""Slope and standard deviation of the changes from one reading to the next below which they count as none."""
FORGOTTEN = 0.01
"""Root mean square difference, of contexts with unit variance, below which a block has forgotten where it began."""
STARTS = 64
"""Rows read from two different contexts."""


def sample(rows: ContextRows, most: int, seed: int, device: str) -> Tensor:
    """Some of the contexts, at most so many, of the last layer: [M, D]."""
    row_M, step_M = np.nonzero(rows.windows[:, :-1] != PAD)
    if len(row_M) > most:
        chosen = np.random.default_rng([seed, 3]).choice(len(row_M), most, replace=False)
        row_M, step_M = row_M[chosen], step_M[chosen]
    places = torch.from_numpy(row_M), torch.from_numpy(step_M)
    return rows.contexts[tuple(each.to(rows.contexts.device) for each in places)].to(device)


def rank_share(contexts_MD: Tensor) -> float:
    """Effective rank / D."""
    return effective_rank(contexts_MD) / contexts_MD.shape[1]


def degeneracy(contexts_MD: Tensor) -> str | None:
    """Whether all contexts are about the same, or about 0 (original research, degeneracy flags)."""
    contexts_MD = contexts_MD[:COMPARED]
    count = len(contexts_MD)
    if count < 2:
        return None
    if contexts_MD.norm(dim=1).mean() < ZERO_NORM:
        return "zero"
    pairs = count * (count - 1)
    distance = torch.cdist(contexts_MD, contexts_MD).sum() / pairs
    directions_MD = F.normalize(contexts_MD, dim=1)
    cosine = (directions_MD.sum(0).square().sum() - count) / pairs
    return "one point" if distance < ATTRACTOR_DISTANCE and cosine > ATTRACTOR_COSINE else None


@torch.no_grad()
def identity(model: FixedPointModel, seed: int, device: str) -> float:
    """Mean cosine between random contexts and what the blocks make of them and of random inputs; above `IDENTITY` they
    only pass on what they are given."""
    generator = torch.Generator().manual_seed(seed)
    inputs = model.num_input_tokens * model.embedding.embedding_dim
    context_MD, inputs_MX = (
        torch.randn(PAIRS, size, generator=generator).to(device) for size in (model.ctx_dim, inputs)
    )
    return F.cosine_similarity(context_MD, model.step(context_MD, inputs_MX)).mean().item()


def changes(model: FixedPointModel, rows: ContextRows, passes: int, device: str) -> list[float]:
    """Mean squared change of the contexts from each reading of the rows to the next, which begins where it has ended.

    Args:
        rows: with room for the contexts of the last layer; those of the last reading stay in it.
    """
    is_token_BT = torch.from_numpy(rows.windows[:, :-1] != PAD)
    last_B = is_token_BT.sum(1) - 1
    found: list[float] = []
    fill(model, rows, device)
    for _ in range(passes - 1):
        before_BTD = rows.contexts.clone()
        ends_BD = before_BTD[torch.arange(len(rows)), last_B].to(device)
        fill(model, rows, device, ends_BD[-1:] if rows.carries else ends_BD)
        change_BT = (rows.contexts - before_BTD).square().mean(2)
        found.append(change_BT[is_token_BT.to(change_BT.device)].mean().item())
    return found


def verdict(found: list[float]) -> str:
    """`converged`, `converging`, `diverging` or `unstable`, by the slope and scatter of changes (original research)."""
    slope = float(np.polyfit(np.arange(len(found)), found, 1)[0]) if len(found) > 1 else 0.0
    if abs(slope) < SETTLED and float(np.std(found)) < SPREAD:
        return "converged"
    return "converging" if slope < -SETTLED else "diverging" if slope > SETTLED else "unstable"


@torch.no_grad()
def reach(model: FixedPointModel, rows: ContextRows, device: str) -> int | None:
    """Tokens after which it makes no difference from which of two contexts the reading began: further back than that
    a context tells nothing. None where a row is too short to say."""
    part = rows[: min(STARTS, len(rows))]
    ids_BT, before_KB = part.inputs(device)
    start = model.start(len(part), ids_BT.device)._replace(before_KB=before_KB)
    first_TBD, second_TBD = (
        model.read(ids_BT.t(), start._replace(context_BD=context_BD))[..., -model.ctx_dim :]
        for context_BD in (start.context_BD, _others(part, device))
    )
    difference_T = _rms_by_step(first_TBD - second_TBD, ids_BT)
    near_T = (difference_T < FORGOTTEN).nonzero()
    return int(near_T[0]) + 1 if len(near_T) else None


def _others(rows: ContextRows, device: str) -> Tensor:
    """A context from the middle of each row, [B, D]."""
    return rows.state(device, rows.steps).contexts_TBW[rows.steps // 2, :, :]


def _rms_by_step(difference_TBD: Tensor, ids_BT: Tensor) -> Tensor:
    """Root mean square over the rows that have a token at each step, [T]; NaN where none has."""
    is_token_TB = ids_BT.t() != PAD
    square_TB = difference_TBD.square().mean(2) * is_token_TB
    return (square_TB.sum(1) / is_token_TB.sum(1)).sqrt()
