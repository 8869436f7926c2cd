"""Real text: one module per kind of task, each registering its datasets in `common.data.sources.DATASETS`."""
