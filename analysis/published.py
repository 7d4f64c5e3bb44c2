"""What the original research published of its WikiText-2 runs, with what is wrong with the figures."""

from typing import NamedTuple


class PublishedRun(NamedTuple):
    """One run of November 2025: a vocabulary of 1000 words, windows of 64 tokens, Adam, dropout 0.1, clip schedule
    `original`, weights drawn from N(0, 0.02), no seed.

    Attributes:
        name: as the original research's tables are cited here.
        layers, ctx_dim: of the context-vector model; embedding 256, hidden size 512 in all.
        parameters: trainable scalars.
        lr: constant.
        epochs: trained.
        ppl: lowest validation perplexity, by the mean of batch means (`val_loss_legacy`).
        accuracy: share of the validation targets that were right; None where none was recorded.
        curve: validation perplexity after some of the epochs.
        train: training loss (nats per token, with dropout) after some of them.
        caution: what keeps the figures from being taken at their word.
    """

    name: str
    device: str
    precision: str
    layers: int
    ctx_dim: int
    parameters: int
    batch_size: int
    lr: float
    epochs: int
    ppl: float
    accuracy: float | None
    curve: dict[int, float]
    train: dict[int, float]
    caution: str


PUBLISHED = (
    PublishedRun(
        *("W1", "CPU", "fp32", 6, 256, 2_739_432, 32, 1e-4, 27, 23.338, None, {27: 23.338}, {}),
        "interrupted after 27 of 50 epochs; its accuracy of 31.0 % was never logged and would be about 37 %",
    ),
    PublishedRun(
        *("W2", "T4", "fp32", 12, 512, 4_840_936, 512, 1e-4, 50, 36.45, 0.314),
        {
            **{1: 71.3, 5: 75.0, 10: 70.0, 15: 67.3, 16: 66.7, 17: 60.2, 20: 54.3, 25: 43.1, 30: 41.0, 31: 40.6},
            **{35: 39.3, 40: 38.4, 45: 37.8, 50: 36.45},
        },
        {
            **{1: 5.506, 5: 4.217, 10: 4.203, 15: 4.198, 16: 4.195, 17: 4.123, 20: 4.003, 25: 3.768, 30: 3.710},
            **{35: 3.670, 40: 3.643, 45: 3.616, 50: 3.596},
        },
        "a learning rate a quarter of what the original's own square-root rule gives",
    ),
    PublishedRun(
        *("W3", "L4", "fp16", 6, 256, 2_739_432, 2048, 1e-4, 29, 46.7, None, {29: 46.7}, {}),
        "stopped after 29 epochs, still improving",
    ),
    PublishedRun(
        *("W4", "L4", "fp16", 6, 256, 2_739_432, 2048, 4e-4, 50, 30.78, 0.344),
        {
            **{1: 76.1, 5: 68.0, 6: 67.1, 10: 69.1, 15: 63.0, 20: 47.4, 21: 46.0, 25: 44.8, 30: 40.8, 35: 38.5},
            **{40: 34.7, 45: 32.3, 50: 30.8},
        },
        {
            **{1: 5.5457, 5: 4.2217, 10: 4.2080, 15: 4.1633, 20: 3.9234, 25: 3.8070, 30: 3.7268, 35: 3.6732},
            **{40: 3.5733, 45: 3.4984, 50: 3.4432},
        },
        "its seconds were probably measured while another run used the same GPU",
    ),
    PublishedRun(
        *("W6", "L4", "fp16", 6, 256, 2_739_432, 2048, 8e-4, 50, 26.03, 0.362),
        {
            **{1: 87.5, 5: 67.0, 10: 67.6, 15: 66.4, 16: 65.3, 17: 60.3, 20: 46.9, 25: 37.6, 30: 33.2, 31: 32.5},
            **{35: 30.6, 40: 28.9, 45: 27.4, 50: 26.03},
        },
        {
            **{1: 5.80, 5: 4.22, 10: 4.21, 15: 4.20, 16: 4.19, 17: 4.14, 20: 3.92, 25: 3.66, 30: 3.53, 31: 3.50},
            **{35: 3.44, 40: 3.37, 45: 3.31, 50: 3.26},
        },
        "the highest learning rate tried at its batch size, so the best one may lie beyond it",
    ),
)
"""All of them, in the order of their dates. Validation text in all: 5,272 windows, 285,045 targets, 9 % of the text
dropped, half of it counted twice."""
