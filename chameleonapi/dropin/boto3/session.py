"""boto3.session, by the drop-in client."""

from chameleonapi_client import Session

__all__ = ["Session"]
