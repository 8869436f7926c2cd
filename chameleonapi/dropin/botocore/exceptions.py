"""botocore.exceptions, by the drop-in client."""

from chameleonapi_client import ClientError, EndpointConnectionError

BotoCoreError = EndpointConnectionError
NoCredentialsError = EndpointConnectionError

__all__ = ["BotoCoreError", "ClientError", "EndpointConnectionError", "NoCredentialsError"]
