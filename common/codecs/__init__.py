"""Real video codecs: H.264 (x264), H.265 (x265) and VP9 (libvpx) through PyAV, with true per-macroblock quality.

    encoded = encode(frames, codec="h264", qp=30, gop=10)        # frames: (N, H, W, 3) uint8 RGB
    encoded.num_bytes, encoded.bytes_per_frame                    # packets, no container
    frames = decode(encoded)

    encoded = encode_with_qp_map(frames, qp_map, gop=10)          # qp_map: (1 or N, ceil(H/16), ceil(W/16)) uint8
    read_qp_map(encoded)                                          # what the decoder found in the bitstream
    motion_vectors(encoded)

    encoder = Encoder(640, 360, qp=32)                            # frame by frame, no lookahead
    packet = encoder.encode(frame)[0]
    decoder = Decoder.for_encoder(encoder)
    frame = decoder.decode(packet)[0].image

Importing this package is cheap; PyAV and OpenCV are imported by the first call that needs them.
"""

from common.codecs.maps import MACROBLOCK, grid_shape, rectangles
from common.codecs.stream import EncodedVideo, Packet, nal_units, prepare_output
from common.codecs.video import (
    DecodedFrame,
    DecodedVideo,
    Decoder,
    Encoder,
    EncoderSettings,
    decode,
    decode_available,
    encode,
    encode_with_qp_map,
    motion_vectors,
    read_qp_map,
)

__all__ = [
    "MACROBLOCK",
    "DecodedFrame",
    "DecodedVideo",
    "Decoder",
    "EncodedVideo",
    "Encoder",
    "EncoderSettings",
    "Packet",
    "decode",
    "decode_available",
    "encode",
    "encode_with_qp_map",
    "grid_shape",
    "motion_vectors",
    "nal_units",
    "prepare_output",
    "read_qp_map",
    "rectangles",
]
