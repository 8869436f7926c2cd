"""Importing this module registers every method: OneAdapt in its forms, and the baselines."""

import importlib

for _module in ("controllers", "baselines", "blocks", "filters", "upscaling"):
    importlib.import_module(f"oneadapt.{_module}")
