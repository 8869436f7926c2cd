"""OneAdapt: configuration knobs that follow the gradient of accuracy (SoCC 2023)."""
