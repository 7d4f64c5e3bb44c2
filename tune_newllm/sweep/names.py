"""Other names under which people know the paths of the configuration."""

NAMES = {
    "lr": "training.lr",
    "learning_rate": "training.lr",
    "learn_rate": "training.lr",
    "batch_size": "training.batch_size",
    "batch": "training.batch_size",
    "epochs": "training.epochs",
    "num_epochs": "training.epochs",
    "max_epochs": "training.epochs",
    "optimizer": "training.optimizer",
    "beta1": "training.beta1",
    "momentum": "training.beta1",
    "beta2": "training.beta2",
    "eps": "training.eps",
    "weight_decay": "training.weight_decay",
    "decay": "training.weight_decay",
    "wd": "training.weight_decay",
    "grad_clip": "training.clip.norm",
    "max_grad_norm": "training.clip.norm",
    "lr_scheduler": "training.lr_schedule.name",
    "patience": "training.early_stopping.patience",
    "seed": "training.seed",
    "random_seed": "training.seed",
    "dropout": "model.dropout",
    "dropout_rate": "model.dropout",
    "hidden_dim": "model.hidden_dim",
    "hidden_size": "model.hidden_dim",
    "embed_dim": "model.embed_dim",
    "embedding_dim": "model.embed_dim",
    "ctx_dim": "model.ctx_dim",
    "context_dim": "model.ctx_dim",
    "num_layers": "model.num_layers",
    "n_layers": "model.num_layers",
    "layers": "model.num_layers",
    "vocab_size": "corpus.vocab_size",
    "max_samples": "corpus.max_samples",
}
"""Bare names -> the paths they stand for: what has one meaning wherever models are trained."""


def path_of(name: str) -> str | None:
    """The path that a name stands for by its last part: W&B's nested groups are no sections of ours."""
    return NAMES.get(name.rpartition(".")[2])
