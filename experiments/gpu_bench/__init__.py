"""The papers' sizes on one data-centre GPU, in parts of ten minutes: `python -m experiments.gpu_bench run PART ...`.

No weights can be fetched everywhere, but time does not depend on what the weights are: models of the papers' exact shapes with
random weights give honest times. Quality is not claimed from them.

    bounds          what the device can do: matrix products, copies, transfers, file reads
    cacheblend ...  a check against a reference, then the paper's own experiments with `scale=gpu`

Rows go to the results store as always, with the GPU's name, driver and versions in each run's record.
"""
