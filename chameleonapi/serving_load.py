"""A load test of the server over real sockets."""

import base64
import http.client
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chameleonapi.networks import Network
from chameleonapi.registry import ModelRegistry, Router
from chameleonapi.server import serving
from chameleonapi.training import Provider
from common.errors import ConfigError
from common.timing import Stopwatch, exclusive


@dataclass(frozen=True)
class Load:
    """What a load test saw.

    Attributes:
        latencies_s: of each answered request, from sending it to having read the answer.
        requests_per_s: answered ones over the whole time.
        memory_bytes: of all weights in the server's memory at the end.
        num_failed: requests that were not answered with 200 and labels.
    """

    latencies_s: tuple[float, ...]
    requests_per_s: float
    memory_bytes: int
    num_failed: int


def registry_with_apps(
    root: Path, generic: Network, num_apps: int, form: str, rng: np.random.Generator
) -> ModelRegistry:
    """A registry with that many applications.

    Their weights are the generic model's, slightly changed: the work of serving does not depend on what they are.

    Args:
        form: "separate": every weight is the application's own; "shared_trunk": bottleneck and head only; "generic": no
            application is registered, so the generic model answers for all.
    """
    if form not in ("separate", "shared_trunk", "generic"):
        raise ConfigError(f"form {form!r} is not known. Use separate, shared_trunk or generic.")
    registry = ModelRegistry(root)
    for number in range(0 if form == "generic" else num_apps):
        network = generic.copy().eval()
        with torch.no_grad():
            for name, tensor in network.named_parameters():
                if form == "separate" or not name.startswith("trunk."):
                    tensor.add_(torch.from_numpy(1e-3 * rng.standard_normal(tuple(tensor.shape))).float())
        registry.publish(f"app-{number}", network)
    return registry


def load_test(
    registry: ModelRegistry,
    provider: Provider,
    connections: int,
    requests: int,
    rng: np.random.Generator,
    num_apps: int,
) -> Load:
    """Ask from several connections at a time, each request for an application at random, after one request "
    "for each application."""
    examples = provider.task.examples("test", 77, 32)
    contents = [base64.b64encode(provider.task.content(examples.inputs, i)).decode() for i in range(len(examples))]
    features = [{"type": "LABEL_DETECTION"}]
    bodies = [json.dumps({"requests": [{"image": {"content": c}, "features": features}]}) for c in contents]
    asked = [
        [(f"app-{rng.integers(num_apps)}", int(rng.integers(len(bodies)))) for _ in range(requests)]
        for _ in range(connections)
    ]
    latencies: list[list[float]] = [[] for _ in range(connections)]
    failed = [0] * connections
    router = Router(registry, {provider.task.vocabulary: provider.generic}, max_loaded=max(1, num_apps))

    with serving(router) as server, exclusive():
        host, port = str(server.server_address[0]), int(server.server_address[1])

        def ask(connection: http.client.HTTPConnection, app: str, body: str) -> bool:
            connection.request("POST", "/v1/images:annotate", body, {"X-Chameleon-App": app})
            answer = connection.getresponse()
            content: Any = json.loads(answer.read())
            return answer.status == 200 and "labelAnnotations" in content["responses"][0]

        warm = http.client.HTTPConnection(host, port, timeout=60)
        for number in range(num_apps):
            ask(warm, f"app-{number}", bodies[0])
        warm.close()

        def client(which: int) -> None:
            connection = http.client.HTTPConnection(host, port, timeout=60)
            watch, is_answered = Stopwatch(), []
            for number, (app, body) in enumerate(asked[which]):
                watch("request", number)
                is_answered.append(ask(connection, app, bodies[body]))
            watch("end", 0)
            connection.close()
            failed[which] = is_answered.count(False)
            spans = zip(watch.spans, is_answered, strict=True)
            latencies[which] = [end_s - begin_s for (_, _, begin_s, end_s), ok in spans if ok]

        threads = [threading.Thread(target=client, args=(i,)) for i in range(connections)]
        whole = Stopwatch()
        whole("all", 0)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        whole("end", 0)
        memory = router.memory_bytes()
    found = tuple(x for own in latencies for x in own)
    return Load(found, len(found) / whole.by_phase()["all"], memory, sum(failed))
