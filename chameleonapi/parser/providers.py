"""What the cloud providers' calls are named and what their answers look like.

Google Vision and Natural Language (current clients, the 0.2x clients of 2017, the discovery client and plain REST), AWS
Rekognition and Comprehend. Everything here is a fact about the public interfaces.
"""

from dataclasses import dataclass
from typing import Any

from chameleonapi.parser.values import (
    ApiDict,
    ApiList,
    EnumMember,
    InstanceList,
    Opaque,
    Record,
    TaintedFloat,
    TaintedStr,
    UnprobedList,
)


@dataclass(frozen=True)
class Site:
    """One place in the source that calls an ML API."""

    path: str
    line: int
    column: int
    method: str
    provider: str  # "google.vision", "google.language", "aws.rekognition", "aws.comprehend"


@dataclass(frozen=True)
class Field:
    """One field of an answer on which decisions can be taken.

    Args:
        api: provider and method that yield it.
        name: path of the field as the documentation writes it.
        kind: "labels" (a scored list), "single" (one label of an enumeration), "numbers".
        scale: largest score (1 for Google, 100 for Rekognition).
        vocabulary: name of the vocabulary that the labels come from; empty for free text.
        variables: for numbers, (name, lowest, highest) of each.
    """

    api: str
    name: str
    kind: str
    scale: float = 1.0
    vocabulary: str = ""
    variables: tuple[tuple[str, float, float], ...] = ()


_SENTIMENT = (("score", -1.0, 1.0), ("magnitude", 0.0, 10.0))
SENTIMENT_SCORES = ("Positive", "Negative", "Neutral", "Mixed")
_AWS_SENTIMENT = tuple((name, 0.0, 1.0) for name in SENTIMENT_SCORES)
SENTIMENTS = ("POSITIVE", "NEGATIVE", "NEUTRAL", "MIXED")
EMOTIONS = ("HAPPY", "SAD", "ANGRY", "CONFUSED", "DISGUSTED", "SURPRISED", "CALM", "UNKNOWN", "FEAR")
GOOGLE_ENTITY_TYPES = (
    "UNKNOWN", "PERSON", "LOCATION", "ORGANIZATION", "EVENT", "WORK_OF_ART", "CONSUMER_GOOD", "OTHER",
    "PHONE_NUMBER", "ADDRESS", "DATE", "NUMBER", "PRICE",
)  # fmt: skip
AWS_ENTITY_TYPES = (
    "PERSON", "LOCATION", "ORGANIZATION", "COMMERCIAL_ITEM", "EVENT", "DATE", "QUANTITY", "TITLE", "OTHER",
)  # fmt: skip

FIELDS = {
    "label_annotations": Field("google.vision.label_detection", "label_annotations.description", "labels", 1, "image"),
    "localized_object_annotations": Field(
        "google.vision.object_localization", "localized_object_annotations.name", "labels", 1, "object"
    ),
    "categories": Field("google.language.classify_text", "categories.name", "labels", 1, "topic"),
    "moderation_categories": Field("google.language.moderate_text", "moderation_categories.name", "labels", 1, "text_moderation"),
    "document_sentiment": Field(
        "google.language.analyze_sentiment", "document_sentiment", "numbers", variables=_SENTIMENT
    ),
    "entities.type": Field("google.language.analyze_entities", "entities.type", "labels", 1, "google_entity"),
    "entities.name": Field("google.language.analyze_entities", "entities.name", "labels", 1, ""),
    "entities.sentiment": Field(
        "google.language.analyze_entity_sentiment", "entities.sentiment", "numbers", variables=_SENTIMENT
    ),
    "Labels": Field("aws.rekognition.detect_labels", "Labels.Name", "labels", 100, "image"),
    "Labels.Parents": Field("aws.rekognition.detect_labels", "Labels.Parents.Name", "labels", 100, "image"),
    "ModerationLabels": Field(
        "aws.rekognition.detect_moderation_labels", "ModerationLabels.Name", "labels", 100, "moderation"
    ),
    "ModerationLabels.ParentName": Field(
        "aws.rekognition.detect_moderation_labels", "ModerationLabels.ParentName", "labels", 100, "moderation"
    ),
    "FaceDetails.Emotions": Field("aws.rekognition.detect_faces", "FaceDetails.Emotions.Type", "labels", 100, "emotion"),
    "Sentiment": Field("aws.comprehend.detect_sentiment", "Sentiment", "single", 1, "sentiment"),
    "SentimentScore": Field("aws.comprehend.detect_sentiment", "SentimentScore", "numbers", variables=_AWS_SENTIMENT),
    "Entities.Type": Field("aws.comprehend.detect_entities", "Entities.Type", "labels", 1, "aws_entity"),
    "Entities.Text": Field("aws.comprehend.detect_entities", "Entities.Text", "labels", 1, ""),
    "KeyPhrases.Text": Field("aws.comprehend.detect_key_phrases", "KeyPhrases.Text", "labels", 1, ""),
}  # fmt: skip

# method -> (provider, True if its answer is customized). Methods of known but uncustomized features answer opaquely.
VISION_METHODS = {
    "label_detection", "object_localization", "annotate_image", "batch_annotate_images", "face_detection",
    "text_detection", "document_text_detection", "logo_detection", "landmark_detection", "web_detection",
    "safe_search_detection", "image_properties", "crop_hints", "product_search", "async_batch_annotate_images",
}  # fmt: skip
LANGUAGE_METHODS = {
    "analyze_sentiment", "classify_text", "analyze_entities", "analyze_entity_sentiment", "moderate_text",
    "annotate_text", "analyze_syntax",
}  # fmt: skip
REKOGNITION_METHODS = {
    "detect_labels", "detect_moderation_labels", "detect_faces", "detect_text", "recognize_celebrities",
    "compare_faces", "search_faces_by_image", "detect_custom_labels", "detect_protective_equipment",
}  # fmt: skip
COMPREHEND_METHODS = {
    "detect_sentiment", "detect_entities", "detect_key_phrases", "batch_detect_sentiment", "detect_dominant_language",
    "detect_syntax", "detect_pii_entities", "detect_targeted_sentiment", "detect_toxic_content", "batch_detect_entities",
    "classify_document", "contains_pii_entities",
}  # fmt: skip
OLD_VISION_METHODS = {"detect_labels": "label_annotations", "detect_objects": "localized_object_annotations"}
OLD_LANGUAGE_METHODS = {
    "analyze_sentiment",
    "analyze_entities",
    "classify_text",
    "annotate_text",
    "analyze_entity_sentiment",
}
REST_LANGUAGE_METHODS = {
    "analyzeSentiment": "analyze_sentiment", "analyzeEntities": "analyze_entities", "classifyText": "classify_text",
    "analyzeEntitySentiment": "analyze_entity_sentiment", "annotateText": "annotate_text",
}  # fmt: skip
CUSTOMIZED = {
    "label_detection", "object_localization", "annotate_image", "batch_annotate_images", "analyze_sentiment",
    "classify_text", "analyze_entities", "analyze_entity_sentiment", "moderate_text", "annotate_text", "detect_labels",
    "detect_moderation_labels", "detect_faces", "detect_sentiment", "detect_entities", "detect_key_phrases",
    "batch_detect_sentiment", "batch_detect_entities", "annotate", *REST_LANGUAGE_METHODS, "images:annotate",
}  # fmt: skip
ALL_METHODS = (
    VISION_METHODS
    | LANGUAGE_METHODS
    | REKOGNITION_METHODS
    | COMPREHEND_METHODS
    | set(REST_LANGUAGE_METHODS)
    | {"annotate"}
)
# Names that no other library is likely to use: a receiver of unknown origin is accepted for these.
DISTINCTIVE = (
    (VISION_METHODS - {"image_properties", "crop_hints", "product_search"})
    | (LANGUAGE_METHODS - {"analyze_sentiment", "moderate_text"})
    | {"detect_moderation_labels", "detect_labels", "analyze_sentiment", "detect_sentiment", "detect_key_phrases",
       "detect_faces", "detect_entities"}
)  # fmt: skip
PROVIDER_OF = {
    **dict.fromkeys(COMPREHEND_METHODS, "aws.comprehend"),
    **dict.fromkeys(REKOGNITION_METHODS, "aws.rekognition"),
    **dict.fromkeys(LANGUAGE_METHODS, "google.language"),
    **dict.fromkeys(VISION_METHODS, "google.vision"),
}
PROVIDER_IMPORTS = {
    "google.vision": "google",
    "google.language": "google",
    "aws.rekognition": "aws",
    "aws.comprehend": "aws",
}


def service_of_constructor(origin: str, args: list[Any], kwargs: dict[str, Any]) -> str | None:
    """The service that a client built by calling `origin` talks to, or None if it is not one of the providers' clients."""
    last = origin.rsplit(".", 1)[-1]
    if last in ("ImageAnnotatorClient", "ImageAnnotatorAsyncClient"):
        return "google.vision"
    if last in ("LanguageServiceClient", "LanguageServiceAsyncClient"):
        return "google.language"
    if last == "Client" and "google.cloud" in origin:
        if "vision" in origin:
            return "google.old_vision"
        return "google.old_language" if "language" in origin else "google.other"
    first = args[0] if args else kwargs.get("service_name", kwargs.get("serviceName"))
    if last in ("client", "create_client", "resource") and (
        "boto" in origin or "ession" in origin or "aws" in origin.lower()
    ):
        if isinstance(first, str):
            return f"aws.{first}"
        return None
    if (
        last == "build"
        and isinstance(first, str)
        and ("googleapiclient" in origin or "apiclient" in origin or "discovery" in origin)
    ):
        return f"rest.{first}"
    return None


class Answer:
    """What the API answers in one evaluation: for one site and field, the probed output; elsewhere a neutral one.

    Args:
        labels: scored labels, best first, for fields of kind "labels" and "single".
        numbers: values of the variables, for fields of kind "numbers".
        num_others: further faces beside the probed one, with an emotion that nothing tests.
    """

    __slots__ = ("labels", "num_others", "numbers")

    def __init__(
        self,
        labels: list[tuple[str, float]] | None = None,
        numbers: dict[str, float] | None = None,
        num_others: int = 0,
    ) -> None:
        self.labels = labels or []
        self.numbers = numbers or {}
        self.num_others = num_others


def _score(value: float) -> TaintedFloat:
    return TaintedFloat(value)


def google_labels(field_name: str, answer: Answer) -> ApiList:
    """Entity annotations of Google Vision, or categories of Natural Language, as client objects."""
    out = ApiList()
    for text, score in answer.labels:
        if field_name == "label_annotations":
            fields = {
                "mid": TaintedStr("/m/0"), "description": TaintedStr(text), "score": _score(score),
                "topicality": _score(score), "confidence": _score(score), "locale": "", "bounding_poly": Opaque("bounding_poly"),
                "properties": ApiList(), "locations": ApiList(),
            }  # fmt: skip
        elif field_name == "localized_object_annotations":
            fields = {
                "mid": TaintedStr("/m/0"), "name": TaintedStr(text), "score": _score(score),
                "bounding_poly": Opaque("bounding_poly"), "language_code": "",
            }  # fmt: skip
        else:
            fields = {"name": TaintedStr(text), "confidence": _score(score), "severity": _score(score)}
        out.append(Record("Category" if "categories" in field_name else "EntityAnnotation", fields))
    return out


def google_entities(answer: Answer, numbers: dict[str, float], by: str) -> ApiList:
    """Entities of Natural Language; `by` says whether the probed text is their type or their name."""
    out = ApiList()
    for text, score in answer.labels:
        kind: Any
        if by == "entities.type":
            number = GOOGLE_ENTITY_TYPES.index(text) if text in GOOGLE_ENTITY_TYPES else 99
            kind = EnumMember(TaintedStr(text), number, "Type")
        else:
            kind = EnumMember(TaintedStr("OTHER"), 7, "Type")
        sentiment = Record("Sentiment", {k: TaintedFloat(numbers.get(k, 0.0)) for k in ("score", "magnitude")})
        fields = {
            "name": TaintedStr(text) if by == "entities.name" else TaintedStr("something"), "type": kind, "type_": kind,
            "entity_type": kind, "salience": _score(score), "metadata": {}, "mentions": ApiList(), "sentiment": sentiment,
            "wikipedia_url": None,
        }  # fmt: skip
        out.append(Record("Entity", fields))
    return out


def aws_labels(field_name: str, answer: Answer) -> ApiList:
    """Labels of Rekognition or moderation labels, as dictionaries. A label that is answered n times has n instances."""
    out = ApiList()
    known: dict[str, ApiDict] = {}
    for text, score in answer.labels:
        if text in known and field_name == "Labels":
            known[text]["Instances"].append(known[text]["Instances"][0])
            continue
        entry = ApiDict()
        parent = field_name.endswith("Parents") or field_name.endswith("ParentName")
        entry["Name"] = TaintedStr("Qxzvk") if parent else TaintedStr(text)
        entry["Confidence"] = _score(score)
        if field_name.startswith("ModerationLabels"):
            entry["ParentName"] = TaintedStr(text) if parent else TaintedStr("")
            entry["TaxonomyLevel"] = 1
        else:
            box = ApiDict(Width=Opaque("Width"), Height=Opaque("Height"), Left=Opaque("Left"), Top=Opaque("Top"))
            entry["Instances"] = InstanceList([ApiDict(BoundingBox=box, Confidence=_score(score))])
            entry["Parents"] = ApiList([ApiDict(Name=TaintedStr(text))] if parent else [])
            entry["Aliases"] = UnprobedList(f"{field_name.split('.')[0]}.Aliases")
            entry["Categories"] = UnprobedList(f"{field_name.split('.')[0]}.Categories")
        known[text] = entry
        out.append(entry)
    return out


def rest_labels(field_name: str, answer: Answer) -> ApiList:
    """The same answers as JSON of the REST interface."""
    key = {"label_annotations": "description", "localized_object_annotations": "name"}.get(field_name, "name")
    score_key = "confidence" if field_name == "categories" else "score"
    out = ApiList()
    for text, score in answer.labels:
        entry = ApiDict()
        entry["mid"] = TaintedStr("/m/0")
        entry[key] = TaintedStr(text)
        entry[score_key] = _score(score)
        if field_name == "label_annotations":
            entry["topicality"] = _score(score)
        out.append(entry)
    return out
