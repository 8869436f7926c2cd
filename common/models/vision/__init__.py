"""Detectors and segmentation networks behind one interface, differentiable with respect to their input.

    detector = load_detector("street")                     # bundled, trained on rendered streets as decoded by H.264
    detector.detect(frames)                                # list of Detections, one per frame
    boxes, scores = detector.candidates(images)            # (B, N, 4), (B, N, K), differentiable
    segmenter = load_segmenter("street")
    segmenter.logits(images)                               # (B, K, H, W), differentiable
    load_detector("yolox_nano", data_root)                 # real COCO detectors: ONNX files of a data root
    load_detector("hub_rtdetr")                            # transformers' detectors from the hub

Images are (B, 3, H, W) float RGB in [0, 1]; frames are (N, H, W, 3) uint8 RGB. Importing this package does not import torch.
"""

from common.models.vision.registry import DETECTORS, SEGMENTERS, load_detector, load_segmenter

__all__ = ["DETECTORS", "SEGMENTERS", "load_detector", "load_segmenter"]
