"""What `auto` stands for, chosen by how long training steps take: precision, threads and micro-batch."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

import torch

from tune_newllm.models import LanguageModel
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.device import Number, native_numbers, require_number, resolve_device, resolve_micro_batch
from tune_newllm.training.timing import PROBE, Bench, Case

CLEARLY_FASTER = 1.1
"""fp32 is kept unless another precision takes less than 1 / this of its time: speed must pay for lost digits."""
MORE_THREADS, LARGER_PASSES = 1.05, 1.03
"""How many times as fast something that takes more of the machine must at least be."""
MICRO_BATCHES = (64, 128, 256, 512)
"""Windows in one pass on a processor: fewer leave it waiting, more only take memory."""
Timer = Callable[[list[Case]], Mapping[Case, float]]
"""Seconds of one training step in each case, perhaps with fewer rows than asked for."""
_Value = TypeVar("_Value")


class Choice(NamedTuple, Generic[_Value]):
    """What was chosen and why, in one sentence."""

    value: _Value
    reason: str


def resolve(
    config: TrainingConfig, build: Callable[[], LanguageModel], vocab_size: int, window: int
) -> tuple[TrainingConfig, str]:
    """The same configuration with no `auto` left, and the reason for its precision.

    Args:
        config: as the user wrote it.
        build: makes a model of the configuration that is to be trained; called only if anything is measured.
        vocab_size: number of token ids.
        window: tokens per row.

    Raises:
        UsageError: the device asked for is not there, or cannot compute in the precision asked for.
    """
    device, threads = resolve_device(config.device), torch.get_num_threads()
    config = replace(config, device=device)
    bench = Bench(config, build, vocab_size, window)
    rows = min(config.batch_size, resolve_micro_batch(config.micro_batch, device))
    precision = choose_precision(config, rows, threads, lambda cases: bench.seconds(bench.shortened(cases)))
    micro_batch = choose_micro_batch(config, config.batch_size, Case(precision.value, threads, 0), bench.seconds)
    return replace(config, precision=precision.value, micro_batch=micro_batch.value), precision.reason


def choose_precision(config: TrainingConfig, rows: int, threads: int, timer: Timer) -> Choice[Number]:
    """As asked for, else fp32 or the half precision that the device computes natively, if that is clearly faster.

    bf16 is preferred to fp16: as fast, and without loss scaling.

    Args:
        config: its device is not `auto`.

    Raises:
        UsageError: the device cannot compute in the precision asked for.
    """
    if config.precision != "auto":
        require_number(config.precision, config.device)
        return Choice(config.precision, f"{config.precision} was asked for")
    candidates = native_numbers(config.device)[:2]
    if len(candidates) == 1:
        return Choice("fp32", f"fp32 is all that this {config.device} computes natively")
    seconds = timer([Case(number, threads, rows) for number in candidates])
    return faster({case.number: each for case, each in seconds.items()}, max(case.rows for case in seconds))


def faster(seconds: Mapping[Number, float], rows: int) -> Choice[Number]:
    """The precision to train in, from the seconds of a step with so many rows in fp32 and in another."""
    times = ", ".join(f"{number} {1000 * each:.1f} ms" for number, each in seconds.items())
    measured = f"(one training step with {rows} windows: {times})"
    fastest = min(seconds, key=lambda number: seconds[number])
    if fastest != "fp32" and seconds["fp32"] > CLEARLY_FASTER * seconds[fastest]:
        return Choice(fastest, f"{fastest} is clearly faster {measured}")
    return Choice("fp32", f"nothing is clearly faster than fp32 {measured}")


def choose_micro_batch(config: TrainingConfig, largest: int, case: Case, timer: Timer) -> Choice[int]:
    """As asked for; on a processor the fewest windows that train hardly slower than any others.

    Args:
        config: its device is not `auto`.
        largest: windows of the largest batch.
        case: precision and threads to measure with.
    """
    if config.micro_batch != "auto":
        return Choice(config.micro_batch, f"{config.micro_batch} was asked for")
    bound = resolve_micro_batch("auto", config.device)
    if config.device != "cpu":
        return Choice(
            bound, f"{bound:,} windows keep any device busy; where memory does not suffice a trial takes fewer"
        )
    # The first that holds a whole batch is the last of use.
    sizes = [size for size, smaller in zip(MICRO_BATCHES, (0, *MICRO_BATCHES), strict=False) if smaller < largest]
    if len(sizes) == 1:
        return Choice(sizes[0], f"a pass never holds more than {sizes[0]} windows here")
    asked = {min(size, largest): size for size in sizes}
    seconds = timer([case._replace(rows=rows) for rows in (PROBE, *asked)])
    rates = {asked[case.rows]: case.rows / each for case, each in seconds.items() if case.rows in asked}
    if len(rates) > 1:
        return smallest_fast(rates)
    return Choice(min(bound, sizes[-1]), "steps take too long here for trying out several")


def smallest_fast(rates: Mapping[int, float]) -> Choice[int]:
    """The micro-batch, from the windows per second with each that could be measured in time, ascending."""
    best = max(rates.values())
    chosen = next(size for size, rate in rates.items() if LARGER_PASSES * rate >= best)
    told = ", ".join(f"{rate:,.0f} with {size}" for size, rate in rates.items())
    return Choice(chosen, f"the fewest in a pass that are hardly slower than any (windows a second: {told})")


def thread_counts(processors: int, at_once: Callable[[int], int]) -> list[int]:
    """Threads per trial worth measuring, ascending: each keeps more processors busy than all before it.

    More threads for fewer trials on no more processors cannot be faster, as no step gains more than its threads.

    Args:
        processors: of one machine.
        at_once: trials that run side by side with so many threads each.
    """
    powers = [2**exponent for exponent in range(processors.bit_length())]
    found: list[int] = []
    busy = 0
    for threads in sorted({*powers, processors // at_once(1), processors}):
        if threads * at_once(threads) > busy:
            found.append(threads)
            busy = threads * at_once(threads)
    return found


def most_at_once(rates: Mapping[int, float], at_once: Callable[[int], int]) -> Choice[int]:
    """The threads per trial with which all trials together train fastest, fewer where there is little to gain.

    Args:
        rates: windows per second of one trial alone, by its threads, ascending.
        at_once: as in `thread_counts`.
    """
    together = {threads: rate * at_once(threads) for threads, rate in rates.items()}
    best = max(together.values())
    chosen = next(threads for threads, rate in together.items() if MORE_THREADS * rate >= best)
    told = "; ".join(
        f"{_counted(at_once(threads), 'trial')} with {_counted(threads, 'thread')} {rate:,.0f}"
        for threads, rate in together.items()
    )
    return Choice(chosen, f"fastest in all (windows a second: {told})")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number > 1)}"


def windows_per_second(seconds: Mapping[Case, float]) -> dict[int, float]:
    """Windows per second by threads; with several sizes of the batch, of as many windows with each."""
    found = {}
    for threads in dict.fromkeys(case.threads for case in seconds):
        each = [taken / case.rows for case, taken in seconds.items() if case.threads == threads]
        found[threads] = len(each) / sum(each)
    return found
