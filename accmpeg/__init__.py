"""AccMPEG: per-macroblock encoding quality driven by accuracy gradients."""
