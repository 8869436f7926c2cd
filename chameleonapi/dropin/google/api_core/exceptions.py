"""google.api_core.exceptions, by the drop-in client."""

from chameleonapi_client import GoogleAPICallError, InvalidArgument, NotFound, ServiceUnavailable

GoogleAPIError = GoogleAPICallError

__all__ = ["GoogleAPICallError", "GoogleAPIError", "InvalidArgument", "NotFound", "ServiceUnavailable"]
