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
from tune_newllm.training.context_cache import fill, readings, rows_at_once

RANKED, COMPARED, PAIRS = 10_000, 5_000, 100
"""Contexts whose rank is taken, contexts compared with each other, and random contexts put through the blocks, at most
(original research, effective rank; identity check)."""
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
    last_B, tokens = is_token_BT.sum(1) - 1, int(is_token_BT.sum())
    first = len(rows) - 1 if rows.carries else 0
    found: list[float] = []
    fill(model, rows, device)
    for _ in range(passes - 1):
        ends_BD = rows.contexts[torch.arange(first, len(rows)), last_B[first:]].to(device)
        total = 0.0
        for part, contexts_BTD in readings(model, rows, device, ends_BD):
            change_BT = (contexts_BTD - rows.contexts[part].to(device)).square().mean(2)
            total += change_BT[is_token_BT[part].to(device)].sum().item()
            rows.contexts[part].copy_(contexts_BTD)
        found.append(total / tokens)
    return found


def verdict(found: list[float]) -> str:
    """`converged`, `converging`, `diverging` or `unstable`, by the slope and scatter of two changes at least (original
    research)."""
    slope = float(np.polyfit(np.arange(len(found)), found, 1)[0])
    if abs(slope) < SETTLED and float(np.std(found)) < SPREAD:
        return "converged"
    return "converging" if slope < -SETTLED else "diverging" if slope > SETTLED else "unstable"


@torch.no_grad()
def reach(model: FixedPointModel, rows: ContextRows, device: str) -> int | None:
    """Tokens after which two readings that began with different contexts differ by less than `FORGOTTEN`. None where
    a row is too short to say."""
    squares_T, counts_T = torch.zeros(2, rows.steps, device=device)
    size = rows_at_once(rows.steps, device)
    for first in range(0, min(STARTS, len(rows)), size):
        part = rows[first : min(first + size, STARTS)]
        ids_BT, before_KB = part.inputs(device)
        start = model.start(len(part), ids_BT.device)._replace(before_KB=before_KB)
        first_TBD, second_TBD = (
            model.read(ids_BT.t(), start._replace(context_BD=context_BD))[..., -model.ctx_dim :].clone()
            for context_BD in (start.context_BD, _others(part, device))
        )
        is_token_TB = ids_BT.t() != PAD
        squares_T += ((first_TBD - second_TBD).square().mean(2) * is_token_TB).sum(1)
        counts_T += is_token_TB.sum(1)
    # NaN, and so not near, where no row has a token.
    near_T = ((squares_T / counts_T).sqrt() < FORGOTTEN).nonzero()
    return int(near_T[0]) + 1 if len(near_T) else None


def _others(rows: ContextRows, device: str) -> Tensor:
    """A context from the middle of each row, [B, D]."""
    return rows.state(device, rows.steps // 2 + 1).contexts_TBW[-1]
