"""Where every workload's items come from: bundled generators, a local data root, or the Hugging Face hub."""
