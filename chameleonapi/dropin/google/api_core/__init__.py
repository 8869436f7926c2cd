"""google.api_core, by the drop-in client: its exceptions only."""
