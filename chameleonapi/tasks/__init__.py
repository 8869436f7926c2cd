"""The data that providers and applications are trained and judged on; see `chameleonapi.tasks.task`."""
