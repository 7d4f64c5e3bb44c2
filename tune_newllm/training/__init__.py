"""Training one model: `fit` and what it needs. Knows nothing of sweeps."""
