"""The server over real sockets: the providers' answers, wrong requests, switching under load."""

import base64
import concurrent.futures
import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from chameleonapi.applications import BUNDLED, DROPIN
from chameleonapi.endpoints import Answer, app_id_of, handle
from chameleonapi.networks import Architecture, Network
from chameleonapi.registry import ModelRegistry, Router
from chameleonapi.server import serving
from chameleonapi.tasks import topics
from chameleonapi.tasks.everyday import LABELS, EverydayTask
from common.errors import ConfigError, CorruptBitstream

TASK = EverydayTask()


def network(seed, bias=None):
    made = Network(Architecture("convolution", LABELS, 4, 8)).initialise(np.random.default_rng(seed)).eval()
    if bias is not None:
        with torch.no_grad():
            made.head.weight.zero_()
            made.head.bias.fill_(-5.0)
            made.head.bias[LABELS.index(bias)] = 3.0
    return made


@pytest.fixture(scope="module")
def images():
    examples = TASK.examples("test", 0, 3)
    return [TASK.content(examples.inputs, i) for i in range(3)]


@pytest.fixture
def registry(tmp_path):
    registry = ModelRegistry(tmp_path / "models")
    registry.publish("says-apple", network(1, "Apple"))
    registry.publish("says-chair", network(2, "Chair"), theta=0.3)
    return registry


@pytest.fixture
def server(registry):
    words = Network(Architecture("words", topics.LABELS, 3, 8, len(topics.dictionary()) + 2, "topics"))
    words.initialise(np.random.default_rng(0)).eval()
    with torch.no_grad():
        words.head.bias[topics.LABELS.index("/News")] = 5.0
    router = Router(registry, {"image": network(0, "Ball"), "topic": words})
    with serving(router, max_body_bytes=200_000) as server:
        yield server


def ask(server, path, payload, headers=None, method="POST"):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=20)
    try:
        body = payload if isinstance(payload, bytes) else json.dumps(payload)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


def annotate(content, *features, **limits):
    wanted = [{"type": f, **limits} for f in features or ("LABEL_DETECTION",)]
    return {"requests": [{"image": {"content": base64.b64encode(content).decode()}, "features": wanted}]}


def said(answer):
    return [label["description"] for label in answer["responses"][0]["labelAnnotations"]]


def test_each_application_gets_its_model(server, images):
    status, generic = ask(server, "/v1/images:annotate", annotate(images[0]))
    assert (status, said(generic)) == (200, ["Ball"])
    assert said(ask(server, "/v1/images:annotate", annotate(images[0]), {"X-Chameleon-App": "says-apple"})[1]) == [
        "Apple"
    ]
    assert said(ask(server, "/v1/images:annotate?key=says-chair", annotate(images[0]))[1]) == ["Chair"]
    for unknown in ("nobody", "../../etc/passwd", "a b", "x" * 500):
        assert ask(server, "/v1/images:annotate", annotate(images[0]), {"X-Chameleon-App": unknown}) == (200, generic)


def test_answers_have_the_providers_form(server, images):
    answer = ask(server, "/v1/images:annotate", annotate(images[0], "LABEL_DETECTION", "OBJECT_LOCALIZATION"))[1][
        "responses"
    ][0]
    (label,) = answer["labelAnnotations"]
    assert set(label) == {"mid", "description", "score", "topicality"}
    (found,) = answer["localizedObjectAnnotations"]
    assert found["name"] == "Ball"
    assert len(found["boundingPoly"]["normalizedVertices"]) == 4
    aws = {
        "X-Amz-Target": "RekognitionService.DetectLabels",
        "Authorization": "AWS4-HMAC-SHA256 Credential=says-apple/2026/x",
    }
    image = {"Image": {"Bytes": base64.b64encode(images[0]).decode()}}
    (label,) = ask(server, "/", image, aws)[1]["Labels"]
    assert label["Name"] == "Apple"
    assert label["Confidence"] == pytest.approx(100 / (1 + np.exp(-3)), abs=1e-4)
    assert ask(server, "/", image | {"MinConfidence": 99}, aws)[1]["Labels"] == []
    text = {"document": {"type": "PLAIN_TEXT", "content": "the election and the president"}}
    categories = ask(server, "/v1/documents:classifyText", text)[1]["categories"]
    assert categories[0]["name"] == "/News"
    aws["X-Amz-Target"] = "Comprehend_20171127.ClassifyDocument"
    assert ask(server, "/", {"Text": "the election"}, aws)[1]["Labels"][0]["Name"] == "/News"


@pytest.mark.parametrize(
    ("path", "payload", "headers", "status", "words"),
    [
        ("/v1/images:annotate", b"{not json", {}, 400, "not JSON"),
        ("/v1/images:annotate", b"[" * 50_000, {}, 400, "not JSON"),
        ("/v1/images:annotate", [], {}, 400, "object"),
        ("/v1/images:annotate", {}, {}, 400, "requests"),
        ("/v1/images:annotate", {"requests": [{}] * 17}, {}, 400, "at most 16"),
        ("/v1/documents:classifyText", {"document": {"content": "  "}}, {}, 400, "not empty"),
        ("/v1/documents:analyzeSyntax", {}, {}, 404, "not served"),
        ("/nothing", {}, {}, 404, "no endpoint"),
        ("/", {}, {"X-Amz-Target": "RekognitionService.CompareFaces"}, 400, "not served"),
        ("/", {}, {"X-Amz-Target": "RekognitionService.DetectLabels"}, 400, "Image.Bytes"),
        ("/", {"Image": {"Bytes": "%%"}}, {"X-Amz-Target": "RekognitionService.DetectLabels"}, 400, "base64"),
        ("/", {"Image": {"Bytes": "AAAA"}}, {"X-Amz-Target": "RekognitionService.DetectLabels"}, 400, "image format"),
        ("/", [], {"X-Amz-Target": "RekognitionService.DetectLabels"}, 400, "SerializationException"),
        ("/", {"Text": 3}, {"X-Amz-Target": "Comprehend_20171127.ClassifyDocument"}, 400, "Text"),
    ],
)
def test_wrong_requests_get_an_error_and_the_server_lives(server, images, path, payload, headers, status, words):
    got, answer = ask(server, path, payload, headers)
    assert got == status
    assert words in json.dumps(answer)
    assert said(ask(server, "/v1/images:annotate", annotate(images[0]))[1]) == ["Ball"]


def test_a_bad_image_spoils_only_its_own_response(server, images):
    cut = images[0][: len(images[0]) // 2]
    requests = [annotate(c)["requests"][0] for c in (images[0], b"GIF89a nonsense", cut)]
    requests.append({"image": {"content": "!!"}, "features": [{"type": "LABEL_DETECTION"}]})
    requests.append({"image": {"source": {"imageUri": "http://x"}}, "features": [{"type": "LABEL_DETECTION"}]})
    requests.append(annotate(images[1], "FACE_DETECTION")["requests"][0])
    requests.append(annotate(images[1], "LABEL_DETECTION", maxResults=-1)["requests"][0])
    requests.append({"image": 3})
    status, answer = ask(server, "/v1/images:annotate", {"requests": requests})
    assert status == 200
    good, *bad = answer["responses"]
    assert "labelAnnotations" in good
    for response, words in zip(
        bad,
        ("Bad image data", "Bad image data", "base64", "fetches nothing", "FACE_DETECTION", "maxResults", "image"),
        strict=True,
    ):
        assert words in response["error"]["message"]


def test_huge_bodies_and_broken_connections(server, images):
    host, port = server.server_address[:2]
    with socket.create_connection((host, port), timeout=20) as raw:
        raw.sendall(b"POST /v1/images:annotate HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        assert b" 413 " in raw.recv(4096)
    # A client that sends all of it before it listens gets the answer too.
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("POST", "/v1/images:annotate", b"x" * 3_000_000)
    assert connection.getresponse().status == 413
    connection.close()
    for head in (b"POST / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n"):
        with socket.create_connection((host, port), timeout=20) as raw:
            raw.sendall(head)
            assert b" 411 " in raw.recv(4096)
    with socket.create_connection((host, port), timeout=20) as raw:
        raw.sendall(b"POST /v1/images:annotate HTTP/1.1\r\nContent-Length: 500\r\n\r\n{")  # and goes away
    with socket.create_connection((host, port), timeout=20) as raw:
        raw.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        raw.recv(4096)
    assert ask(server, "/v1/images:annotate", annotate(images[0]), method="PUT")[0] == 405
    assert said(ask(server, "/v1/images:annotate", annotate(images[0]))[1]) == ["Ball"]


# What HTTP itself refuses: bytes sent, status expected.
MALFORMED = [
    (b"GARBAGE\r\n\r\n", 400),
    (b"POST /v1/images:annotate HTTP/9.9.9\r\n\r\n", 400),
    (b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(150)) + b"\r\n", 431),
    (b"POST http://[ HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 400),
    (b"POST /v1/images:annotate HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 411),
    (b"POST /v1/images:annotate HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n{}", 411),
    (b"POST /v1/images:annotate HTTP/1.1\r\nContent-Length: 10\r\n\r\n{}", 400),
    (b"GET /nowhere HTTP/1.1\r\nContent-Length: 21\r\n\r\nGET /healthz HTTP/1.1", 404),
]


def test_what_http_itself_refuses_has_the_providers_form(server, images):
    for request_bytes, status in MALFORMED:
        with socket.create_connection(server.server_address[:2], timeout=20) as connection:
            connection.sendall(request_bytes)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split()[1] == str(status).encode(), request_bytes[:60]
        assert json.loads(body)["error"]["code"] == status
    assert ask(server, "/v1/images:annotate?key=says-apple", annotate(images[0]))[0] == 200


def test_a_minimum_confidence_beyond_any_float(server, images):
    payload = {"Image": {"Bytes": base64.b64encode(images[0]).decode()}, "MinConfidence": 10**400}
    status, answer = ask(server, "/", payload, {"X-Amz-Target": "RekognitionService.DetectLabels"})
    assert (status, answer["__type"]) == (400, "InvalidParameterException")


def test_switching_under_load_loses_no_request(server, registry, images):
    stop, seen, failed = threading.Event(), set(), []

    def client():
        while not stop.is_set():
            status, answer = ask(server, "/v1/images:annotate", annotate(images[0]), {"X-Chameleon-App": "says-apple"})
            if status != 200:
                failed.append(answer)
                return
            seen.add(tuple(said(answer)))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(client) for _ in range(2)]
        for _ in range(3):
            registry.publish("says-apple", network(3, "Tent"))
            registry.rollback("says-apple")
        registry.activate("says-apple", 4)
        for _ in range(200):
            if said(ask(server, "/v1/images:annotate", annotate(images[0]), {"X-Chameleon-App": "says-apple"})[1]) == [
                "Tent"
            ]:
                break
        stop.set()
        for future in clients:
            future.result()
    assert not failed
    assert seen <= {("Apple",), ("Tent",)}
    assert said(ask(server, "/v1/images:annotate", annotate(images[0]), {"X-Chameleon-App": "says-apple"})[1]) == [
        "Tent"
    ]


def test_a_batch_is_answered_by_one_version(registry, images):
    router = Router(registry, {"image": network(0, "Ball")})

    class Switching:
        """Another version is activated after each image."""

        def __init__(self, backend):
            self.backend = backend

        def for_one_request(self):
            return Switching(self.backend.for_one_request())

        def classify(self, *args):
            answer = self.backend.classify(*args)
            registry.activate("says-apple", 3 - registry.current("says-apple").version)
            return answer

    registry.publish("says-apple", network(3, "Tent"))
    payload = annotate(images[0])
    body = json.dumps({"requests": payload["requests"] * 3}).encode()
    seen = []
    for _ in range(2):
        answer = handle("POST", "/v1/images:annotate", {"X-Chameleon-App": "says-apple"}, body, Switching(router))
        said_of = [[x["description"] for x in one["labelAnnotations"]] for one in json.loads(answer.body)["responses"]]
        assert said_of[0] == said_of[1] == said_of[2]
        seen.append(said_of[0])
    assert sorted(seen) == [["Apple"], ["Tent"]]


def test_versions_and_rollback(registry):
    assert registry.app_ids() == ["says-apple", "says-chair"]
    second = registry.publish("says-apple", network(5), facts={"seed": 5})
    assert (second.version, registry.current("says-apple").version) == (2, 2)
    assert registry.rollback("says-apple").version == 1
    with pytest.raises(ConfigError, match="no version before"):
        registry.rollback("says-apple")
    with pytest.raises(ConfigError, match="no version 9"):
        registry.activate("says-apple", 9)
    with pytest.raises(ConfigError, match="not allowed"):
        registry.publish("../evil", network(5))
    with pytest.raises(ConfigError, match="theta"):
        registry.publish("x", network(5), theta=1.0)
    assert registry.publish("says-apple", network(6), activate=False).version == 3
    assert registry.current("says-apple").version == 1


def test_a_damaged_model_is_never_served(server, registry, images):
    version = registry.current("says-chair")
    path = registry.root / "objects" / f"{version.model}.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptBitstream, match="damaged"):
        registry.network(version)
    status, answer = ask(server, "/v1/images:annotate", annotate(images[0]), {"X-Chameleon-App": "says-chair"})
    assert status == 500
    assert "damaged" in answer["error"]["message"]
    assert said(ask(server, "/v1/images:annotate", annotate(images[0]))[1]) == ["Ball"]


def test_models_with_the_generic_trunk_share_it(tmp_path, images):
    generic = network(0)
    registry = ModelRegistry(tmp_path)
    for number in range(3):
        own = generic.copy()
        with torch.no_grad():
            own.head.bias += number
        registry.publish(f"app-{number}", own)
    router = Router(registry, {"image": generic})
    alone = router.memory_bytes()
    for number in range(3):
        router.classify(f"app-{number}", "image", images[0])
    head = 4 * sum(t.numel() for n, t in generic.state_dict().items() if not n.startswith("trunk"))
    assert router.memory_bytes() == alone + 3 * head


def test_the_least_recently_used_model_goes(tmp_path, images):
    registry = ModelRegistry(tmp_path)
    for number in range(3):
        registry.publish(f"app-{number}", network(number))
    router = Router(registry, {"image": network(9)}, max_loaded=2)
    for number in (0, 1, 0, 2):
        router.classify(f"app-{number}", "image", images[0])
    assert set(router._loaded) == {registry.current("app-0").model, registry.current("app-2").model}


def test_output_limits():
    scores = np.array([0.9, 0.2, 0.7, 0.7, 0.5], np.float32)
    answer = Answer(("a", "b", "c", "d", "e"), scores, 0.5, 3)
    assert [label for label, _ in answer.output()] == ["a", "c", "d"]  # 0.5 is not above 0.5; ties by index
    assert [label for label, _ in answer.output(max_results=2)] == ["a", "c"]
    assert answer.output(min_score=0.8) == [("a", 0.9)]


def test_how_an_application_is_named():
    assert app_id_of("/v1/images:annotate?key=abc", {}) == "abc"
    assert app_id_of("/?key=abc", {"x-chameleon-app": "def"}) == "def"
    assert app_id_of("/", {"authorization": "AWS4-HMAC-SHA256 Credential=me/20260101/eu/rekognition"}) == "me"
    assert app_id_of("/", {"x-goog-api-key": "g"}) == "g"
    assert app_id_of("/", {}) == ""


@pytest.fixture
def client():
    spec = importlib.util.spec_from_file_location("dropin_client_alone", DROPIN / "chameleonapi_client.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_call_shapes_of_the_google_client(client):
    sent = []

    def transport(method, path, headers, body):
        sent.append(json.loads(body)["requests"][0])
        return 200, b'{"responses": [{"labelAnnotations": [{"description": "Cat", "score": 0.9}]}]}'

    client.transport = transport
    vision = client.ImageAnnotatorClient()
    image = client.Image()
    image.source.image_uri = "gs://bucket/cat.png"
    answer = vision.label_detection(image=image)
    assert sent.pop()["image"] == {"source": {"imageUri": "gs://bucket/cat.png"}}
    assert not answer.error.message
    assert not answer.HasField("error")
    assert client.Message.to_dict(answer._pb) == {"label_annotations": [{"description": "Cat", "score": 0.9}]}
    features = [{"type_": client.Feature.Type.LABEL_DETECTION, "max_results": 3}]
    vision.annotate_image({"image": {"content": b"abc"}, "features": features})
    assert sent.pop() == {"image": {"content": "YWJj"}, "features": [{"type": "LABEL_DETECTION", "maxResults": 3}]}


def test_what_the_google_client_lacks_is_an_error(client):
    client.transport = lambda *request: (404, b'{"error": {"message": "not served"}}')
    google = client.ImageAnnotatorClient()
    with pytest.raises(TypeError):
        google.label_detection(request={"image": {"content": b"x"}})  # as the real client: the image is an argument
    with pytest.raises(client.NotFound, match="not served"):
        google.async_batch_annotate_images(requests=[])
    with pytest.raises(client.NotFound, match="not served"):
        google.product_search(client.Image(content=b"x"))


def test_other_services_of_aws_fail_when_they_are_used(client):
    table = client.Session().resource("dynamodb")
    with pytest.raises(client.EndpointConnectionError, match="Rekognition and Comprehend only"):
        table.Table("photos")
    client.transport = lambda *_: (400, b'{"__type": "InvalidImageFormatException", "message": "no image"}')
    rekognition = client.aws_client("rekognition")
    with pytest.raises(rekognition.exceptions.InvalidImageFormatException, match="no image") as caught:
        rekognition.detect_labels(Image={"Bytes": b"abc"})
    assert isinstance(caught.value, client.ClientError)
    assert not isinstance(caught.value, rekognition.exceptions.ThrottlingException)


def test_an_unmodified_application_in_a_process_of_its_own(server, images, tmp_path):
    file = tmp_path / "photo.png"
    file.write_bytes(images[0])
    environment = {"PYTHONPATH": str(DROPIN), "CHAMELEONAPI_URL": server.url, "PATH": os.environ["PATH"]}

    def run(script, app, where=BUNDLED):
        command = [sys.executable, "-W", "error", str(Path(where) / script), str(file)]
        done = subprocess.run(
            command,
            env=environment | {"CHAMELEONAPI_APP": app},
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
        )
        return done.stdout.strip()

    assert run("recycling_station/station.py", "says-apple") == "compost"
    assert run("recycling_station/station.py", "says-chair") == "donate"
    assert run("door_robot.py", "says-chair") == '{"door": "shut"}'
    probe = tmp_path / "errors.py"
    probe.write_text(
        "import boto3\nfrom botocore.exceptions import ClientError\nfrom google.cloud import vision\n"
        "try:\n    boto3.client('rekognition').detect_labels(Image={'Bytes': b'nonsense'})\n"
        "except ClientError as error:\n    print(error.response['Error']['Code'])\n"
        "answer = vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=b'nonsense'))\n"
        "print(bool(answer.error.message), len(answer.label_annotations))\n"
    )
    assert run("errors.py", "says-chair", tmp_path).split("\n") == ["InvalidImageFormatException", "True 0"]
