"""Settings for known GPUs: the largest batch that fits, the precision that their matrix units take, the rate for both.

The table can be read without torch.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from tune_newllm.errors import InfeasibleError, UsageError
from tune_newllm.training.config import Configuration, LRRule, TrainingConfig
from tune_newllm.training.rules import BATCH_RULES

if TYPE_CHECKING:
    from tune_newllm.training.memory import StepMemory


@dataclass(frozen=True)
class Preset:
    """What is known of a GPU, and the most that the original research gave it."""

    memory: int
    """Bytes."""
    batch_size: int
    """Most windows in a batch, a power of two."""
    precision: str
    """bf16 where it is computed natively (NVIDIA's Ampere and later), else fp16."""


_GB = 1_000_000_000
PRESETS: Mapping[str, Preset] = {
    # Original research, GPU table: T4 15 GB 512; classes: NewLLMGPUConfig 512.
    "t4": Preset(15 * _GB, 512, "fp16"),
    # GPU table: V100 16 GB 512.
    "v100": Preset(16 * _GB, 512, "fp16"),
    # GPU table: RTX 3060 12 GB 256 to 384, of which 256 is a power of two.
    "rtx3060": Preset(12 * _GB, 256, "bf16"),
    # Runs W3 to W6: 22.2 GB; classes: NewLLML4Config 2048.
    "l4": Preset(int(22.2 * _GB), 2048, "bf16"),
    # GPU table: A100 40 GB 1024 to 2048; classes: NewLLMA100Config 4096, which is the most here.
    "a100": Preset(40 * _GB, 4096, "bf16"),
    # Not in the original. NVIDIA's data sheet: 141 GB; the largest batch of the original's table of rates.
    "h200": Preset(141 * _GB, 8192, "bf16"),
}
ORIGINAL_LR = 1e-4
"""Rate at batch 32 of models that begin with the original's weights (original research, learning-rate rules)."""
KEYS = ("training.batch_size", "training.precision", "training.lr", "training.lr_rule")
"""What a preset sets."""
RULE: LRRule = "sqrt"
"""What the original's classes for L4 and A100 follow: 1e-4 at batch 32 is 8e-4 at 2048 and 1.13e-3 at 4096."""


class Chosen(NamedTuple):
    """What a preset comes to for one configuration."""

    preset: str
    memory: int
    """Bytes that a training may use."""
    measured: bool
    """Whether that is what is free on a GPU here; else it follows from the table."""
    most: int
    """Windows in a batch that the preset would allow."""
    step: "StepMemory"
    training: TrainingConfig

    def settings(self) -> dict[str, Any]:
        """What is to be set, by key of the sweep file."""
        return {key: getattr(self.training, key.rpartition(".")[2]) for key in KEYS}


def choose(
    name: str, configuration: Configuration, vocab_size: int, asked: Collection[str], memory: int | None = None
) -> Chosen:
    """The preset's batch, precision and rate for a configuration, from two measured training steps.

    The batch is the largest power of two that fits into memory as a whole, at most the preset's. With `lr_rule: none`
    the rate is taken from the configuration's batch to batch 32, from where it follows `RULE`; another rule stays, with
    its rate.

    Args:
        configuration: what is to be trained, see `from_base_point`.
        vocab_size: number of token ids.
        asked: keys of the sweep file that are to stay as they are.
        memory: bytes that are free on the GPU; None where there is none here: then the table's, less what a training
            leaves free on every device. Steps are then measured on the processor.

    Raises:
        UsageError: the configuration's `lr_rule` is impossible with such a batch.
        InfeasibleError: not even one window fits.
    """
    from tune_newllm.training.device import RESERVE, process_bytes
    from tune_newllm.training.memory import measure_step

    preset, training = PRESETS[name], configuration.training
    budget = int((1 - RESERVE) * preset.memory) - process_bytes("cuda") if memory is None else memory
    most = training.batch_size if "training.batch_size" in asked else preset.batch_size
    changed: dict[str, Any] = {} if "training.precision" in asked else {"precision": preset.precision}
    if training.lr_rule == "none" and not {"training.lr", "training.lr_rule"} & set(asked):
        changed |= {"lr_rule": RULE, "lr": training.lr / BATCH_RULES[RULE](1.0, training.batch_size)}
    try:
        training = replace(training, batch_size=most, **changed)
    except ValueError as error:
        raise UsageError(f"--preset {name}: {error}") from None
    alone = replace(training, micro_batch=most, device="cpu" if memory is None else training.device)
    if alone.precision == "auto":
        # Whichever is chosen needs no more.
        alone = replace(alone, precision="fp32")
    step = measure_step(replace(configuration, training=alone), vocab_size)
    fits = step.largest(budget, most)
    if not fits:
        raise InfeasibleError(
            f"--preset {name}: one window needs {step.need(1):,} bytes and {budget:,} may be used: take a smaller model"
        )
    if "training.batch_size" not in asked:
        training = replace(training, batch_size=fits)
    return Chosen(name, budget, memory is not None, most, step, training)


def from_base_point(configuration: Configuration) -> Configuration:
    """A configuration whose file gives no rate: the original's weights have `ORIGINAL_LR` at batch 32."""
    if configuration.model.init != "original":
        return configuration
    rule = RULE if configuration.training.lr_rule == "none" else configuration.training.lr_rule
    return replace(configuration, training=replace(configuration.training, lr=ORIGINAL_LR, lr_rule=rule))
