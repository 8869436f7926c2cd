"""Run experiments from Hydra configs: `python -m experiments.run +paper=cacheblend`. No algorithm, no plotting."""
