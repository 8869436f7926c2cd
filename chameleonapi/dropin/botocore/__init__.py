"""botocore, by the drop-in client: its exceptions and configuration only."""
