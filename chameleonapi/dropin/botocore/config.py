"""botocore.config, by the drop-in client."""


class Config:
    """Takes any option and needs none."""

    def __init__(self, **options):
        self.options = options
