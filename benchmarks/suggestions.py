"""How well TPE suggests learning rates when there are only a few trials, for several settings of the sampler.

`python benchmarks/suggestions.py [repetitions]` simulates sweeps over the learning rate of one batch size. The loss is
a parabola in the logarithm of the rate (0.07 per nat², noise 0.005), its minimum anywhere in the middle of the range;
four start-up points come from a Sobol sequence, and what is worse than the median of those before is stopped halfway.
Prints the share of TPE's suggestions within 1.2 nats of the minimum, and the best trial's loss above the minimum.
"""

import math
import sys
import warnings

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState
from scipy.stats import qmc

LOW, HIGH, STARTUP = 2e-4, 1e-1, 4
SPACE = {"lr": FloatDistribution(LOW, HIGH, log=True)}
SETTINGS = {
    "optuna's default (a tenth)": lambda seed: TPESampler(seed=seed, n_startup_trials=0),
    "a quarter are good (ours)": lambda seed: TPESampler(
        seed=seed, n_startup_trials=0, gamma=lambda n: math.ceil(n / 4)
    ),
    "a half are good": lambda seed: TPESampler(seed=seed, n_startup_trials=0, gamma=lambda n: math.ceil(n / 2)),
    "6 candidates, a tenth": lambda seed: TPESampler(seed=seed, n_startup_trials=0, n_ei_candidates=6),
    "random": lambda seed: RandomSampler(seed=seed),
}


def simulate(make_sampler, seed, trials):
    """(share of suggestions near the optimum, lowest noise-free loss above the optimum)."""
    rng = np.random.default_rng(seed)
    optimum = rng.uniform(math.log(1e-3), math.log(2e-2))
    units = qmc.Sobol(1, scramble=True, rng=seed).random(STARTUP)[:, 0]
    told, losses, rates = [], [], []
    for number in range(trials):
        if number < STARTUP:
            rate = math.log(LOW) + units[number] * math.log(HIGH / LOW)
        else:
            study = optuna.create_study(sampler=make_sampler(seed * 1000 + number))
            study.add_trials(told)
            rate = math.log(study.ask(SPACE).params["lr"])
        loss = 0.07 * (rate - optimum) ** 2 + rng.normal(0, 0.005)
        row = {"params": {"lr": math.exp(rate)}, "distributions": SPACE, "intermediate_values": {1: loss}}
        stopped = bool(losses) and loss > np.median(losses)
        row |= {"state": TrialState.PRUNED} if stopped else {"value": loss}
        told.append(optuna.create_trial(**row))
        losses.append(loss)
        rates.append(rate)
    distances = np.abs(np.array(rates) - optimum)
    return np.mean(distances[STARTUP:] < 1.2), 0.07 * distances.min() ** 2


def main():
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    print(f"{'sampler':28}{'trials':>8}{'near':>8}{'loss above optimum':>20}")
    for name, make_sampler in SETTINGS.items():
        for trials in (8, 20):
            found = np.array([simulate(make_sampler, seed, trials) for seed in range(repetitions)])
            near, regret = found.mean(axis=0)
            print(f"{name:28}{trials:>8}{near:>8.0%}{regret:>20.4f}")


if __name__ == "__main__":
    main()
