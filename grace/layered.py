"""Scalable video with protected base layer, idealised as in the paper: layers cost nothing beyond the bytes of one stream.

Three ordinary streams of one codec stand for three layers: what a receiver of the first k layers shows is the picture of
stream k, coded with the bytes of k layers. Layer k travels as packets of the size of the difference; half of the base layer's
bytes are parity. Layers count in order: the third is worthless without the second. The pictures are shared between the two ends
in memory, the packets carry filler, so what this scheme shows is *simulated*: no layered codec would do as well.
"""

import numpy as np

from common.codecs import Decoder, Encoder, Packet
from common.errors import CorruptBitstream
from grace.api import WIRE_HEADER_BYTES, FrameStatus, Image, Rendered, Report, StreamInfo, unwrapped
from grace.classic import FIRST_FRAME_QP, HEAD_BYTES, QuantiserModel, read_share, split

NUM_LAYERS = 3
_SHARES = (0.4, 0.7, 1.0)
"""Bytes of the first k layers as a share of all video bytes (inferred)."""
_BASE_PARITY = 0.5
_LAYER_STEP = 21845
_REPORTED_FRAMES = 16


class LayerPictures:
    """What each number of layers looks like, by frame: filled by the sender, read by receivers."""

    def __init__(self) -> None:
        self.images: dict[tuple[int, int], Image] = {}


class LayeredSender:
    """See `grace.api.Sender`."""

    def __init__(self, info: StreamInfo, codec: str, pictures: LayerPictures) -> None:
        self._info, self._pictures = info, pictures
        self._encoders = [
            Encoder(info.width, info.height, codec=codec, qp=FIRST_FRAME_QP, fps=info.fps) for _ in range(NUM_LAYERS)
        ]
        self._decoders = [Decoder(codec, info.width, info.height) for _ in range(NUM_LAYERS)]
        self._models = [QuantiserModel() for _ in range(NUM_LAYERS)]
        self._frames = 0

    def start(self, frame: Image) -> bytes:
        """See `grace.api.Sender.start`."""
        data = [encoder.encode(frame, qp=FIRST_FRAME_QP)[0].data for encoder in self._encoders]
        for layer, first in enumerate(data):
            self._pictures.images[0, layer] = self._decoders[layer].decode(Packet(first, 0, True))[0].image
        return data[-1]

    def encode(self, number: int, frame: Image, target_bytes: float) -> list[bytes]:
        """See `grace.api.Sender.encode`: packets of all layers, the base layer's parity among them."""
        # One packet a layer at least, two for the protected base.
        packets_total = max(self._info.packets_for(target_bytes), NUM_LAYERS + 1)
        video = max(96.0, target_bytes - packets_total * (WIRE_HEADER_BYTES + HEAD_BYTES))
        # The base is sent twice: its bytes and as many of parity.
        video /= 1 + _SHARES[0] * _BASE_PARITY / (1 - _BASE_PARITY)
        self._frames += 1
        sizes = []
        for layer in range(NUM_LAYERS):
            budget = video * _SHARES[layer]
            qp = self._models[layer].choose(budget)
            data = self._encoders[layer].encode(frame, qp=qp)[0].data
            self._models[layer].update(qp, len(data), budget)
            picture = self._decoders[layer].decode(Packet(data, self._frames, False))[0].image
            self._pictures.images[number, layer] = picture
            sizes.append(len(data))
        packets, below = [], 0
        payload = self._info.payload_bytes - HEAD_BYTES
        for layer, size in enumerate(sizes):
            extra = max(8, size - below)
            below = max(below, size)
            num_data = max(2 if layer == 0 else 1, -(-extra // payload))
            filler = np.full(extra, layer, np.uint8).tobytes()
            packets += split(filler, _tag(number, layer), num_data, num_data if layer == 0 else 0)
        return packets

    def on_report(self, report: Report) -> list[bytes]:
        """See `grace.api.Sender.on_report`."""
        return []


def _tag(number: int, layer: int) -> int:
    """Frame number and layer in the 16 bits of a share's frame field."""
    return (number + layer * _LAYER_STEP) & 0xFFFF


class LayeredReceiver:
    """See `grace.api.Receiver`."""

    def __init__(self, info: StreamInfo, codec: str, pictures: LayerPictures) -> None:
        self._info, self._codec, self._pictures = info, codec, pictures
        self._last = 0
        self._shares: dict[int, list[set[int]]] = {}
        self._needs: dict[int, list[tuple[int, int]]] = {}
        self._done: dict[int, FrameStatus] = {}
        self.num_rejected = 0

    def fork(self) -> "LayeredReceiver":
        """See `grace.api.Receiver.fork`."""
        other = LayeredReceiver(self._info, self._codec, self._pictures)
        other._last, other._done = self._last, dict(self._done)
        other._shares = {number: [set(part) for part in found] for number, found in self._shares.items()}
        other._needs = {number: list(found) for number, found in self._needs.items()}
        return other

    def start(self, data: bytes) -> Image:
        """See `grace.api.Receiver.start`."""
        return Decoder(self._codec, self._info.width, self._info.height).decode(Packet(data, 0, True))[0].image

    def on_packet(self, data: bytes) -> list[Rendered]:
        """See `grace.api.Receiver.on_packet`."""
        try:
            head, _ = read_share(data)
        except CorruptBitstream:
            self.num_rejected += 1
            return []
        # The layer whose number lies nearest to what is expected.
        options = [
            (unwrapped((head.frame - layer * _LAYER_STEP) & 0xFFFF, self._last), layer) for layer in range(NUM_LAYERS)
        ]
        number, layer = min(options, key=lambda option: abs(option[0] - self._last))
        if number > self._last:
            self._shares.setdefault(number, [set() for _ in range(NUM_LAYERS)])[layer].add(head.index)
            needs = self._needs.setdefault(number, [(0, 0)] * NUM_LAYERS)
            needs[layer] = head.num_data, head.num_data + head.num_parity
        return self._advance(None)

    def _layers(self, number: int) -> int:
        """How many layers, from the base, are complete."""
        shares, needs = self._shares.get(number), self._needs.get(number)
        layers = 0
        while shares and needs and layers < NUM_LAYERS and 0 < needs[layers][0] <= len(shares[layers]):
            layers += 1
        return layers

    def _advance(self, until: int | None) -> list[Rendered]:
        shown: list[Rendered] = []
        while True:
            number = self._last + 1
            layers = self._layers(number)
            is_overtaken = max(self._shares, default=number) > number
            if not (layers == NUM_LAYERS or is_overtaken or (until is not None and number <= until)):
                return shown
            shares = self._shares.pop(number, None)
            needs = self._needs.pop(number, [(0, 0)] * NUM_LAYERS)
            num = sum(total for _, total in needs)
            count = sum(map(len, shares)) if shares else 0
            self._done[number] = FrameStatus(number, num, (1 << count) - 1, is_done=True)
            self._done.pop(number - 8 * _REPORTED_FRAMES, None)
            self._last = number
            if layers:
                shown.append(Rendered(number, self._pictures.images[number, layers - 1]))

    def flush(self, number: int) -> list[Rendered]:
        """See `grace.api.Receiver.flush`."""
        return self._advance(number)

    def report(self) -> Report:
        """See `grace.api.Receiver.report`."""
        first = max(1, self._last - _REPORTED_FRAMES + 1)
        return Report(tuple(self._done[n] for n in range(first, self._last + 1) if n in self._done))
