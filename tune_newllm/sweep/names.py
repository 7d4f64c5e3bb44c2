"""Other names under which people know the paths of the configuration."""

from tune_newllm.sweep.tree import paths

ALIASES = {
    "learning_rate": "training.lr",
    "batch": "training.batch_size",
    "num_epochs": "training.epochs",
    "max_epochs": "training.epochs",
    "wd": "training.weight_decay",
    "momentum": "training.beta1",
    "grad_clip": "training.clip.norm",
    "max_grad_norm": "training.clip.norm",
    "lr_scheduler": "training.lr_schedule.name",
    "random_seed": "training.seed",
    "dropout_rate": "model.dropout",
    "hidden_size": "model.hidden_dim",
    "embedding_dim": "model.embed_dim",
    "layers": "model.num_layers",
    "n_layers": "model.num_layers",
    "context_dim": "model.ctx_dim",
    "vocab_size": "corpus.vocab_size",
    "max_samples": "corpus.max_samples",
}


def path_of(name: str) -> str | None:
    """The one path that a bare name stands for: by the table, or as the last part of exactly one path of the model or
    the training. A dotted name is a path, or stands for what its last part does."""
    if name in paths():
        return name
    last = name.rpartition(".")[2]
    ending = [path for path in paths() if path.rpartition(".")[2] == last and not path.startswith("corpus.")]
    return ALIASES.get(last) or (ending[0] if len(ending) == 1 else None)
