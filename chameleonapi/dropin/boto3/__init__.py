"""boto3, by the drop-in client: see chameleonapi_client.py."""

from chameleonapi_client import Session
from chameleonapi_client import aws_client as client
from chameleonapi_client import aws_resource as resource

from boto3 import session

__all__ = ["Session", "client", "resource", "session"]
