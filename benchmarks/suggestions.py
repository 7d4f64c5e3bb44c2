"""How well TPE suggests when there are only a few trials: learning rates, and parameters that exist by condition.

`python benchmarks/suggestions.py [repetitions]` simulates sweeps over the learning rate of one batch size. The loss is
a parabola in the logarithm of the rate (0.07 per nat², noise 0.005), its minimum anywhere in the middle of the range;
four start-up points come from a Sobol sequence, and what is worse than the median of those before is stopped halfway.
Prints the share of TPE's suggestions within 1.2 nats of the minimum, and the best trial's loss above the minimum.

Then it simulates sweeps over learning rate, batch size and clip schedule, whose norm or percentile exists for one
schedule only, and prints the best loss above the minimum: for parameters modelled group by group (ours), by Optuna's
own decomposition (`group`), one by one, and drawn at random.
"""

import math
import sys
import warnings

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
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
CONDITIONAL = {
    "lr": SPACE["lr"],
    "batch": IntDistribution(0, 4),
    "schedule": CategoricalDistribution(["none", "constant", "percentile"]),
    "norm": FloatDistribution(0.05, 5, log=True),
    "percentile": IntDistribution(0, 9),
}
GROUPS = [["lr", "batch", "schedule"], ["norm"], ["percentile"]]


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


def exists(name, values):
    return {"norm": "constant", "percentile": "percentile"}.get(name) in (None, values.get("schedule"))


def ask(sampler, told):
    study = optuna.create_study(sampler=sampler)
    study.add_trials(told)
    return study.ask()


def tpe(seed, **how):
    return TPESampler(seed=seed, n_startup_trials=0, gamma=lambda n: min(math.ceil(n / 4), 25), **how)


def in_one_go(make_sampler):
    def suggest(told, seed):
        trial, values = ask(make_sampler(seed), told), {}
        for name, distribution in CONDITIONAL.items():
            if exists(name, values):
                values[name] = trial._suggest(name, distribution)
        return values

    return suggest


def group_by_group(told, seed):
    values = {}
    for group in (group for group in GROUPS if exists(group[0], values)):
        alike = [trial for trial in told if set(group) <= trial.params.keys()]
        sampler = tpe(seed) if len(alike) >= STARTUP else RandomSampler(seed=seed)
        narrow = [row({name: trial.params[name] for name in group}, trial) for trial in alike]
        trial = ask(sampler, narrow)
        values |= {name: trial._suggest(name, CONDITIONAL[name]) for name in group}
    return values


def row(values, trial):
    """A trial with these parameters, told as the given one was."""
    told = {"state": trial.state} if trial.state == TrialState.PRUNED else {"value": trial.value}
    distributions = {name: CONDITIONAL[name] for name in values}
    steps = trial.intermediate_values
    return optuna.create_trial(params=values, distributions=distributions, intermediate_values=steps, **told)


METHODS = {
    "group by group (ours)": group_by_group,
    "optuna's group": in_one_go(lambda seed: tpe(seed, group=True)),
    "one by one": in_one_go(lambda seed: tpe(seed, multivariate=False)),
    "random": in_one_go(lambda seed: RandomSampler(seed=seed)),
}


def simulate_conditional(suggest, seed, trials, startup=10):
    """Lowest noise-free loss above the optimum. The optimal rate moves with the batch size; each schedule has an offset
    of its own, and its norm or percentile an optimum."""
    rng = np.random.default_rng(seed)
    rate, norm, percentile = rng.uniform(math.log(1e-3), math.log(2e-2)), rng.uniform(-1.6, 0.7), rng.integers(10)
    offsets = dict(zip(CONDITIONAL["schedule"].choices, rng.permutation([0.0, 0.03, 0.06]), strict=True))
    told, losses, best = [], [], math.inf
    for number in range(trials):
        chosen = suggest if number >= startup else METHODS["random"]
        values = chosen(told, seed * 1000 + number)
        loss = 0.07 * (math.log(values["lr"]) - rate - 0.35 * (values["batch"] - 2)) ** 2 + offsets[values["schedule"]]
        loss += 0.01 * (values["batch"] - 1) ** 2
        loss += 0.05 * (math.log(values["norm"]) - norm) ** 2 if "norm" in values else 0.0
        loss += 0.004 * (values["percentile"] - percentile) ** 2 if "percentile" in values else 0.0
        best, seen = min(best, loss), loss + rng.normal(0, 0.005)
        state = TrialState.PRUNED if losses and seen > np.median(losses) else TrialState.COMPLETE
        ended = optuna.trial.create_trial(value=seen, intermediate_values={1: seen})
        ended.state = state
        told.append(row(values, ended))
        losses.append(seen)
    return best


def main():
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for kind in (FutureWarning, optuna.exceptions.ExperimentalWarning):
        warnings.simplefilter("ignore", kind)
    print(f"{'sampler':28}{'trials':>8}{'near':>8}{'loss above optimum':>20}")
    for name, make_sampler in SETTINGS.items():
        for trials in (8, 20):
            found = np.array([simulate(make_sampler, seed, trials) for seed in range(repetitions)])
            near, regret = found.mean(axis=0)
            print(f"{name:28}{trials:>8}{near:>8.0%}{regret:>20.4f}")
    print(f"\n{'conditional space':28}{'trials':>8}{'loss above optimum':>28}")
    for name, suggest in METHODS.items():
        for trials in (25, 50):
            found = [simulate_conditional(suggest, seed, trials) for seed in range(repetitions)]
            print(f"{name:28}{trials:>8}{np.mean(found):>28.4f}")


if __name__ == "__main__":
    main()
