"""The providers' interfaces, without a socket: a request's bytes in, a response's bytes out.

    POST /v1/images:annotate            Google Vision: LABEL_DETECTION, OBJECT_LOCALIZATION
    POST /v1/documents:classifyText     Google Natural Language
    POST /  X-Amz-Target: RekognitionService.DetectLabels
    POST /  X-Amz-Target: Comprehend_20171127.ClassifyDocument

The application is named by the header X-Chameleon-App, by `?key=` (Google's API key), or by the access key in an AWS signature.
What the answer looks like does not depend on it.
"""

import base64
import binascii
import json
import math
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError, ReproError

MAX_IMAGES_PER_REQUEST = 16  # Google's limit
GOOGLE_DEFAULT_RESULTS = 10

CustomizedFeatures = ("LABEL_DETECTION", "OBJECT_LOCALIZATION")


@dataclass(frozen=True)
class Answer:
    """What a model says about one input.

    Attributes:
        labels: the vocabulary.
        scores_C: one score per label, in [0, 1].
        theta: labels with a score above it are output.
        top_k: labels that are output at most.
    """

    labels: tuple[str, ...]
    scores_C: npt.NDArray[np.float32]
    theta: float
    top_k: int

    def output(self, max_results: int | None = None, min_score: float = 0.0) -> list[tuple[str, float]]:
        """The labels that are output, best first; ties go to the lower index. A request can only narrow the limits."""
        theta, limit = max(self.theta, min_score), self.top_k if max_results is None else min(self.top_k, max_results)
        order = np.argsort(-self.scores_C, kind="stable")[:limit]
        # The shortest decimal that is this float32: JSON then carries exactly the score that was compared.
        return [(self.labels[i], float(str(self.scores_C[i]))) for i in order if self.scores_C[i] > theta]


class Backend(Protocol):
    """What answers: the server's router, or scores known beforehand."""

    def classify(self, app_id: str, vocabulary: str, content: bytes) -> Answer:
        """The answer of the application's model (the generic one for an unknown id) on an image or a text.

        Raises:
            UnreadableContent: the content is no image, or no text.
            NotServed: there is no model for this vocabulary.
        """
        ...

    def for_one_request(self) -> "Backend":
        """The same models for as long as one request takes, whatever is switched meanwhile."""
        ...


class NotServed(ReproError):
    """The server has no model for this kind of content."""


@dataclass(frozen=True)
class Response:
    """What goes back."""

    status: int
    body: bytes
    content_type: str = "application/json"


class BadRequest(Exception):
    """A request that is answered with an error; `kind` is Google's status or Amazon's type."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message


def app_id_of(path: str, headers: Mapping[str, str]) -> str:
    """The application that a request names, or "" if it names none. Header names in lower case."""
    if headers.get("x-chameleon-app"):
        return headers["x-chameleon-app"]
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
    if "key" in query:
        return query["key"][0]
    if "x-goog-api-key" in headers:
        return headers["x-goog-api-key"]
    credential = headers.get("authorization", "").partition("Credential=")[2]
    return credential.partition("/")[0]


def handle(method: str, path: str, headers: Mapping[str, str], body: bytes, backend: Backend) -> Response:
    """Answer one request. Never raises for anything that a client can send."""
    headers = {name.lower(): value for name, value in headers.items()}
    target = headers.get("x-amz-target", "")
    is_aws = bool(target)
    try:
        try:
            route = urllib.parse.urlsplit(path).path
            app_id = app_id_of(path, headers)
        except ValueError as error:
            raise BadRequest(400, "INVALID_ARGUMENT", f"{path!r} is no path: {error}.") from error
        endpoint: Callable[[str, Mapping[str, Any], Backend], dict[str, Any]]
        if is_aws:
            endpoint = _aws(target)
        elif route.startswith(("/v1/", "/v1p1beta1/", "/v1p4beta1/", "/v2/")) and ":" in route:
            endpoint = _google(route.split("/", 2)[2])
        else:
            raise BadRequest(
                404,
                "NOT_FOUND",
                f"{route!r} is no endpoint; use /v1/images:annotate, /v1/documents:classifyText or AWS targets.",
            )
        if method != "POST":
            raise BadRequest(405, "METHOD_NOT_ALLOWED", f"{method} is not allowed here; use POST.")
        return _json(200, endpoint(app_id, _read_json(body), backend))
    except BadRequest as error:
        return refusal(error.status, error.kind, error.message, is_aws)
    except NotServed as error:
        return refusal(
            400 if is_aws else 501, "InvalidParameterException" if is_aws else "UNIMPLEMENTED", str(error), is_aws
        )


# What Amazon calls the errors that are not an operation's own.
_AWS_KINDS = {
    "INVALID_ARGUMENT": "SerializationException",
    "REQUEST_TOO_LARGE": "RequestEntityTooLargeException",
    "LENGTH_REQUIRED": "MissingContentLength",
    "INTERNAL": "InternalServerError",
}


def refusal(status: int, kind: str, message: str, is_aws: bool = False) -> Response:
    """An error as the provider writes it."""
    if is_aws:
        kind = _AWS_KINDS.get(kind, kind)
        return Response(status, json.dumps({"__type": kind, "message": message}).encode(), "application/x-amz-json-1.1")
    return _json(status, {"error": {"code": status, "message": message, "status": kind}})


def _json(status: int, value: dict[str, Any]) -> Response:
    return Response(status, json.dumps(value).encode())


def _read_json(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise BadRequest(400, "INVALID_ARGUMENT", f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequest(400, "INVALID_ARGUMENT", f"the body is a JSON {type(value).__name__}; send an object.")
    return value


def _from_base64(text: Any, what: str, kind: str = "INVALID_ARGUMENT") -> bytes:
    try:
        if not isinstance(text, str):
            raise ValueError(f"it is of type {type(text).__name__}")
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(400, kind, f"{what} is not base64: {error}.") from error


def _limit(value: Any, name: str, default: int | None, kind: str = "INVALID_ARGUMENT") -> int | None:
    if value is None or (value == 0 and default is not None):
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadRequest(400, kind, f"{name}={value!r} is not a limit; send a whole number >= 0.")
    return value


# --------------------------------------------------------------------------------------------------------------- Google


def _google(verb: str) -> Callable[[str, Mapping[str, Any], Backend], dict[str, Any]]:
    if verb == "images:annotate":
        return _annotate_images
    if verb == "documents:classifyText":
        return _classify_text
    raise BadRequest(404, "NOT_FOUND", f"{verb!r} is not served here; images:annotate and documents:classifyText are.")


def _annotate_images(app_id: str, payload: Mapping[str, Any], backend: Backend) -> dict[str, Any]:
    requests = payload.get("requests")
    if not isinstance(requests, list) or not requests:
        raise BadRequest(400, "INVALID_ARGUMENT", "`requests` must be a list with at least one image.")
    if len(requests) > MAX_IMAGES_PER_REQUEST:
        raise BadRequest(
            400, "INVALID_ARGUMENT", f"{len(requests)} images; send at most {MAX_IMAGES_PER_REQUEST} in a request."
        )
    backend = backend.for_one_request()  # all images of a request by one version
    return {"responses": [_annotate_one(app_id, request, backend) for request in requests]}


def _annotate_one(app_id: str, request: Any, backend: Backend) -> dict[str, Any]:
    """One image; what is wrong with it goes into its own response, as Google's does, and leaves the others alone."""
    from chameleonapi.tasks.task import UnreadableContent

    try:
        if not isinstance(request, dict) or not isinstance(request.get("image"), dict):
            raise BadRequest(400, "INVALID_ARGUMENT", "each request needs an `image` object.")
        features = request.get("features")
        if not isinstance(features, list) or not features or not all(isinstance(f, dict) for f in features):
            raise BadRequest(400, "INVALID_ARGUMENT", "each request needs a list of `features`, objects with a `type`.")
        if not request["image"].get("content"):
            raise BadRequest(
                400, "INVALID_ARGUMENT", "the image has no `content`; this server fetches nothing from elsewhere."
            )
        content = _from_base64(request["image"]["content"], "image.content")
        out: dict[str, Any] = {}
        answer: Answer | None = None
        for feature in features:
            kind = feature.get("type")
            if kind not in CustomizedFeatures:
                raise BadRequest(
                    400, "INVALID_ARGUMENT", f"feature {kind!r} is not served; use {' or '.join(CustomizedFeatures)}."
                )
            limit = _limit(
                feature.get("maxResults"),
                "maxResults",
                GOOGLE_DEFAULT_RESULTS if kind != "OBJECT_LOCALIZATION" else None,
            )
            if "maxResults" not in feature:
                limit = None  # the provider's K holds
            answer = answer or backend.classify(app_id, "image", content)
            found = answer.output(limit)
            if kind == "LABEL_DETECTION":
                out["labelAnnotations"] = [
                    {"mid": f"/m/{_mid(label)}", "description": label, "score": score, "topicality": score}
                    for label, score in found
                ]
            else:
                # The model does not say where: the box is the whole image.
                corners = [{"x": x, "y": y} for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
                out["localizedObjectAnnotations"] = [
                    {
                        "mid": f"/m/{_mid(label)}",
                        "name": label,
                        "score": score,
                        "boundingPoly": {"normalizedVertices": corners},
                    }
                    for label, score in found
                ]
        return out
    except BadRequest as error:
        return {"error": {"code": 3, "message": error.message, "status": error.kind}}
    except UnreadableContent as error:
        return {"error": {"code": 3, "message": f"Bad image data. {error}", "status": "INVALID_ARGUMENT"}}


def _mid(label: str) -> str:
    import zlib

    return f"{zlib.crc32(label.encode()):08x}"


def _classify_text(app_id: str, payload: Mapping[str, Any], backend: Backend) -> dict[str, Any]:
    document = payload.get("document")
    text = document.get("content") if isinstance(document, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise BadRequest(400, "INVALID_ARGUMENT", "`document.content` must be a text that is not empty.")
    found = backend.classify(app_id, "topic", text.encode("utf-8", "replace")).output()
    return {"categories": [{"name": label, "confidence": score} for label, score in found]}


# ----------------------------------------------------------------------------------------------------------------- AWS


def _aws(target: str) -> Callable[[str, Mapping[str, Any], Backend], dict[str, Any]]:
    known = {
        "RekognitionService.DetectLabels": _detect_labels,
        "Comprehend_20171127.ClassifyDocument": _classify_document,
    }
    if target not in known:
        raise BadRequest(400, "UnknownOperationException", f"{target!r} is not served; {' and '.join(known)} are.")
    return known[target]


def _detect_labels(app_id: str, payload: Mapping[str, Any], backend: Backend) -> dict[str, Any]:
    from chameleonapi.tasks.task import UnreadableContent

    image = payload.get("Image")
    if not isinstance(image, dict) or not image.get("Bytes"):
        raise BadRequest(400, "InvalidParameterException", "`Image.Bytes` is needed; this server reads no S3.")
    content = _from_base64(image["Bytes"], "Image.Bytes", "InvalidParameterException")
    limit = _limit(payload.get("MaxLabels"), "MaxLabels", None, "InvalidParameterException")
    least = payload.get("MinConfidence", 0)
    if (
        isinstance(least, bool)
        or not isinstance(least, int | float)
        or math.isnan(least if isinstance(least, float) else 0.0)
        or not 0 <= least <= 100
    ):
        raise BadRequest(400, "InvalidParameterException", f"MinConfidence={least!r} is not within 0 and 100.")
    try:
        found = backend.classify(app_id, "image", content).output(limit, least / 100)
    except UnreadableContent as error:
        raise BadRequest(400, "InvalidImageFormatException", f"Request has invalid image format. {error}") from error
    return {
        "Labels": [
            {"Name": label, "Confidence": 100 * score, "Instances": [], "Parents": [], "Aliases": [], "Categories": []}
            for label, score in found
        ],
        "LabelModelVersion": "3.0",
    }


def _classify_document(app_id: str, payload: Mapping[str, Any], backend: Backend) -> dict[str, Any]:
    text = payload.get("Text")
    if not isinstance(text, str) or not text.strip():
        raise BadRequest(400, "InvalidRequestException", "`Text` must be a text that is not empty.")
    found = backend.classify(app_id, "topic", text.encode("utf-8", "replace")).output()
    return {"Labels": [{"Name": label, "Score": score} for label, score in found]}


def check_limits(theta: float, top_k: int) -> None:
    """Raises ConfigError unless 0 <= theta < 1 and top_k >= 1."""
    if not 0 <= theta < 1 or top_k < 1:
        raise ConfigError(
            f"theta={theta} and top_k={top_k} are not limits of an API. Use 0 <= theta < 1 and top_k >= 1."
        )
