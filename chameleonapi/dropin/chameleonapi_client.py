"""Stands in for `google.cloud.vision`, `google.cloud.language` and `boto3`: their users talk to a local server.

    PYTHONPATH=<this folder> CHAMELEONAPI_URL=http://127.0.0.1:8600 CHAMELEONAPI_APP=my_app python my_application.py

Standard library only; this folder can be copied anywhere. `CHAMELEONAPI_APP` names the application, whose own model then answers;
without it (or with a name that the server does not know) the generic model does.

This is the one place that reads the environment: the application that imports it must not change.
"""

import base64
import enum
import json
import os
import re
import urllib.error
import urllib.request

TIMEOUT_S = 60.0


def http_transport(method, path, headers, body):
    """Send a request to the server. Returns (status, body)."""
    url = os.environ.get("CHAMELEONAPI_URL", "http://127.0.0.1:8600").rstrip("/")
    app = os.environ.get("CHAMELEONAPI_APP", "")
    if app:
        headers = {**headers, "X-Chameleon-App": app}
    request = urllib.request.Request(url + path, body, headers, method=method)
    try:
        # A provider is reached directly: a proxy of the environment has no business between an application and localhost.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


transport = http_transport


def post(path, payload, headers=None):
    """Send JSON; returns (status, JSON)."""
    body = json.dumps(payload, default=_jsonable).encode()
    status, answer = transport("POST", path, {"Content-Type": "application/json", **(headers or {})}, body)
    try:
        return status, json.loads(answer)
    except ValueError:
        return status, {"error": {"message": f"the server answered with {len(answer)} bytes that are not JSON"}}


def _jsonable(value):
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Message):
        return Message.to_dict(value, preserving_proto_field_name=False)
    raise TypeError(f"{type(value).__name__} cannot be sent")


# ------------------------------------------------------------------------------------------------------ Google's messages


def _camel(name):
    first, *rest = name.rstrip("_").split("_")
    return first + "".join(part.title() for part in rest)


def _snake(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


# What a field that the answer leaves out is, as protocol buffers have it.
_LISTS = {
    "label_annotations", "localized_object_annotations", "face_annotations", "text_annotations", "logo_annotations",
    "landmark_annotations", "categories", "responses", "entities", "sentences", "normalized_vertices", "vertices", "features",
    "requests", "locations", "properties", "mentions", "tokens", "moderation_categories",
}  # fmt: skip
_NUMBERS = {"score", "topicality", "confidence", "magnitude", "code", "salience", "severity", "x", "y"}
_TEXTS = {"description", "name", "mid", "locale", "language_code", "message", "language", "content", "gcs_content_uri"}


class Message:
    """A message of Google's interfaces: fields as attributes, missing ones with their defaults."""

    def __init__(self, mapping=None, **fields):
        given = mapping._fields if isinstance(mapping, Message) else dict(mapping or {})
        own = {**given, **fields}
        object.__setattr__(self, "_fields", {_snake(k).rstrip("_"): _message(v) for k, v in own.items()})

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "_pb":
            return self
        key = name.rstrip("_")
        fields = self._fields
        if key not in fields:
            if key in _LISTS:
                fields[key] = []
            elif key in _NUMBERS:
                return 0.0
            elif key in _TEXTS:
                return ""
            else:
                fields[key] = Message()  # `image.source.image_uri = ...` fills it
        return fields[key]

    def __setattr__(self, name, value):
        self._fields[name.rstrip("_")] = _message(value)

    def __eq__(self, other):
        return isinstance(other, Message) and Message.to_dict(self) == Message.to_dict(other)

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self):
        return any(map(_is_set, self._fields.values()))

    def __contains__(self, name):
        return _is_set(self._fields.get(name.rstrip("_")))

    def __repr__(self):
        return f"{type(self).__name__}({Message.to_dict(self)!r})"

    def HasField(self, name):
        """Whether the answer holds the field."""
        return _is_set(self._fields.get(name))

    @staticmethod
    def to_dict(message, preserving_proto_field_name=True, **_options):
        """The message as plain values."""

        def plain(value):
            if isinstance(value, Message):
                rename = (lambda n: n) if preserving_proto_field_name else _camel
                return {rename(k): plain(v) for k, v in value._fields.items() if _is_set(v)}
            if isinstance(value, list):
                return [plain(v) for v in value]
            return value

        return plain(message)

    @staticmethod
    def to_json(message, **_options):
        """The message as JSON text."""
        return json.dumps(Message.to_dict(message, preserving_proto_field_name=False), default=_jsonable)


def _is_set(value):
    """False for a message that reading a missing field made, and for a list that is empty."""
    return bool(value) if isinstance(value, (Message, list)) else value is not None


def _message(value):
    if isinstance(value, Message):
        return value
    if isinstance(value, dict):
        return Message(value)
    if isinstance(value, (list, tuple)):
        return [_message(v) for v in value]
    return value


class GoogleAPICallError(Exception):
    """The server refused a request (google.api_core.exceptions)."""

    code = None

    def __init__(self, message, code=None):
        super().__init__(message)
        self.message = message
        self.code = code or self.code

    def __str__(self):
        return f"{self.code} {self.message}"


class InvalidArgument(GoogleAPICallError):
    """400."""

    code = 400


class NotFound(GoogleAPICallError):
    """404."""

    code = 404


class ServiceUnavailable(GoogleAPICallError):
    """503."""

    code = 503


def google_call(path, payload):
    """POST to a Google endpoint; raises what google.api_core raises."""
    try:
        status, answer = post(path, payload)
    except OSError as error:
        raise ServiceUnavailable(f"no server answers: {error}") from error
    if status != 200:
        message = (answer.get("error") or {}).get("message", "") if isinstance(answer, dict) else str(answer)
        kinds = {400: InvalidArgument, 413: InvalidArgument, 404: NotFound, 503: ServiceUnavailable}
        raise kinds.get(status, GoogleAPICallError)(message, status)
    return answer


def _enum(name, values):
    return enum.IntEnum(name, {value: number for number, value in enumerate(values)})


class Image(Message):
    """An image to look at."""


class ImageSource(Message):
    """Where an image is (this server takes content only)."""


class Feature(Message):
    """What to look for."""

    Type = _enum(
        "Type",
        ("TYPE_UNSPECIFIED", "FACE_DETECTION", "LANDMARK_DETECTION", "LOGO_DETECTION", "LABEL_DETECTION", "TEXT_DETECTION",
         "SAFE_SEARCH_DETECTION", "IMAGE_PROPERTIES", "_8", "CROP_HINTS", "WEB_DETECTION", "DOCUMENT_TEXT_DETECTION",
         "PRODUCT_SEARCH", "_13", "_14", "_15", "_16", "_17", "_18", "OBJECT_LOCALIZATION"),
    )  # fmt: skip


class AnnotateImageRequest(Message):
    """An image with features."""


class ImageContext(Message):
    """Hints; ignored."""


Likelihood = _enum("Likelihood", ("UNKNOWN", "VERY_UNLIKELY", "UNLIKELY", "POSSIBLE", "LIKELY", "VERY_LIKELY"))


def _feature(value):
    kind = value.type if isinstance(value, Message) else value.get("type_", value.get("type", 0))
    limit = value.max_results if isinstance(value, Message) else value.get("max_results", value.get("maxResults", 0))
    name = kind if isinstance(kind, str) else Feature.Type(kind).name
    out = {"type": name}
    if isinstance(limit, int) and limit:
        out["maxResults"] = limit
    return out


def _image(value):
    value = value if isinstance(value, Message) else Message(value or {})
    content = value.content
    if isinstance(content, str):
        return {"content": content} if content else {"source": {"imageUri": value.source.image_uri or "?"}}
    return {"content": base64.b64encode(content).decode()}


def _annotate_request(request):
    value = request if isinstance(request, Message) else Message(request)
    return {"image": _image(value.image), "features": [_feature(f) for f in value.features]}


class ImageAnnotatorClient:
    """Google Cloud Vision's client."""

    def __init__(self, *_args, **_options):
        pass

    @classmethod
    def from_service_account_json(cls, *_args, **_options):
        """Credentials are not needed here."""
        return cls()

    from_service_account_file = from_service_account_json
    from_service_account_info = from_service_account_json

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def batch_annotate_images(self, requests=None, request=None, **_options):
        """Several images with features each."""
        if request is not None:
            requests = request["requests"] if isinstance(request, dict) else request.requests
        elif isinstance(requests, dict):
            requests = requests["requests"]
        return Message(google_call("/v1/images:annotate", {"requests": [_annotate_request(r) for r in requests]}))

    def annotate_image(self, request, **_options):
        """One image with features."""
        return self.batch_annotate_images([request]).responses[0]

    def _one(self, image, feature, max_results):
        limit = {"maxResults": max_results} if max_results else {}
        payload = {"requests": [{"image": _image(image), "features": [{"type": feature, **limit}]}]}
        return Message(google_call("/v1/images:annotate", payload)["responses"][0])


def _detector(feature):
    def detect(self, image, max_results=None, **_options):
        return self._one(image, feature, max_results)

    detect.__doc__ = f"{feature} on one image."
    return detect


for _method, _name in {
    "label_detection": "LABEL_DETECTION", "object_localization": "OBJECT_LOCALIZATION", "face_detection": "FACE_DETECTION",
    "text_detection": "TEXT_DETECTION", "document_text_detection": "DOCUMENT_TEXT_DETECTION",
    "logo_detection": "LOGO_DETECTION", "landmark_detection": "LANDMARK_DETECTION", "web_detection": "WEB_DETECTION",
    "safe_search_detection": "SAFE_SEARCH_DETECTION", "image_properties": "IMAGE_PROPERTIES", "crop_hints": "CROP_HINTS",
    "product_search": "PRODUCT_SEARCH",
}.items():  # fmt: skip
    setattr(ImageAnnotatorClient, _method, _detector(_name))


def _not_served(verb):
    def call(self, *_args, **_options):
        return google_call(f"/v1/{verb}", {})

    call.__doc__ = f"{verb}: the server's error."
    return call


for _method, _verb in {
    "async_batch_annotate_images": "images:asyncBatchAnnotate", "batch_annotate_files": "files:annotate",
    "async_batch_annotate_files": "files:asyncBatchAnnotate",
}.items():  # fmt: skip
    setattr(ImageAnnotatorClient, _method, _not_served(_verb))


class Document(Message):
    """A text to look at."""

    Type = _enum("Type", ("TYPE_UNSPECIFIED", "PLAIN_TEXT", "HTML"))


EncodingType = _enum("EncodingType", ("NONE", "UTF8", "UTF16", "UTF32"))


class LanguageServiceClient:
    """Google Cloud Natural Language's client."""

    def __init__(self, *_args, **_options):
        pass

    @classmethod
    def from_service_account_json(cls, *_args, **_options):
        """Credentials are not needed here."""
        return cls()

    from_service_account_file = from_service_account_json

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def _language_method(verb):
    def call(self, request=None, document=None, **_options):
        if document is None and request is not None:
            document = request["document"] if isinstance(request, dict) else request.document
        value = document if isinstance(document, Message) else Message(document or {})
        payload = {"document": {"type": "PLAIN_TEXT", "content": value.content}}
        return Message(google_call(f"/v1/documents:{verb}", payload))

    call.__doc__ = f"documents:{verb}."
    return call


for _method, _verb in {
    "classify_text": "classifyText", "analyze_sentiment": "analyzeSentiment", "analyze_entities": "analyzeEntities",
    "analyze_entity_sentiment": "analyzeEntitySentiment", "moderate_text": "moderateText", "annotate_text": "annotateText",
}.items():  # fmt: skip
    setattr(LanguageServiceClient, _method, _language_method(_verb))


# ----------------------------------------------------------------------------------------------------------------- AWS


class ClientError(Exception):
    """The server refused a request (botocore.exceptions)."""

    def __init__(self, error_response, operation_name):
        found = error_response.get("Error", {})
        super().__init__(
            f"An error occurred ({found.get('Code', 'Unknown')}) when calling the {operation_name} operation: "
            f"{found.get('Message', 'Unknown')}"
        )
        self.response = error_response
        self.operation_name = operation_name


class EndpointConnectionError(Exception):
    """No server answers."""


_TARGETS = {"rekognition": "RekognitionService", "comprehend": "Comprehend_20171127"}


_errors: "dict[str, type]" = {"ClientError": ClientError}


def _error_named(code):
    """The class of errors with this code: a ClientError of its own, as in boto3."""
    if code not in _errors:
        _errors[code] = type(code, (ClientError,), {})
    return _errors[code]


class AwsClient:
    """A boto3 client of Rekognition or Comprehend: every method becomes the operation of that name."""

    class _Exceptions:
        """Errors by name, as `client.exceptions.InvalidImageFormatException`."""

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            return _error_named(name)

    exceptions = _Exceptions()

    def __init__(self, service):
        self._service = service

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        operation = "".join(part.title() for part in name.split("_"))

        def call(**fields):
            target = f"{_TARGETS.get(self._service, self._service)}.{operation}"
            headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
            try:
                status, answer = post("/", fields, headers)
            except OSError as error:
                raise EndpointConnectionError(f"Could not connect to the endpoint URL: {error}") from error
            if status != 200:
                code = str(answer.get("__type", "Unknown")).rpartition("#")[2]
                message = answer.get("message", answer.get("Message", ""))
                raise _error_named(code)(
                    {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}},
                    operation,
                )
            answer.setdefault("ResponseMetadata", {"HTTPStatusCode": status, "HTTPHeaders": {}, "RetryAttempts": 0})
            return answer

        return call


class AwsResource:
    """Stands in for `boto3.resource`, so that an application that makes one is not stopped before it needs it."""

    def __init__(self, service):
        self._service = service

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        raise EndpointConnectionError(
            f"{self._service}.{name}: the drop-in client has Rekognition and Comprehend only. Use boto3 itself, with "
            "AWS_ENDPOINT_URL_REKOGNITION set to the server's address."
        )


def aws_resource(service_name, *_args, **_options):
    """`boto3.resource`."""
    return AwsResource(service_name)


def aws_client(service_name, *_args, **_options):
    """`boto3.client`."""
    return AwsClient(service_name)


class Session:
    """`boto3.Session`."""

    def __init__(self, *_args, region_name=None, **_options):
        self.region_name = region_name

    def client(self, service_name, *_args, **_options):
        """A client of the service."""
        return AwsClient(service_name)

    def resource(self, service_name, *_args, **_options):
        """A resource of the service, which nothing here serves."""
        return AwsResource(service_name)
