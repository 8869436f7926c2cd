"""The wrapper of transformers' models, on small ones with random weights."""

import pytest
import torch

from common.models.vision import hub

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def yolos():
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=[64, 96],
        patch_size=16,
        num_detection_tokens=7,
        num_labels=5,
    )
    return hub.frozen(transformers.YolosForObjectDetection(config))


def test_a_detector_with_queries(yolos):
    detector = hub.HubDetector(yolos, "hub_yolos", 0.1, None, normalise=True, has_no_object=True)
    images = torch.rand(2, 3, 64, 96, requires_grad=True)
    boxes, scores = detector.candidates(images)
    assert boxes.shape == (2, 7, 4)
    assert scores.shape == (2, 7, 5)
    assert (scores.sum(-1) < 1).all()  # the rest is "nothing here"
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    # Relative centres and sizes in pixels of a 96 x 64 picture: halves of the corners add up to the centre.
    raw = yolos(pixel_values=hub._prepared(images, None, True)).pred_boxes
    torch.testing.assert_close((boxes[..., :2] + boxes[..., 2:]) / 2, raw[..., :2] * torch.tensor([96.0, 64.0]))
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    assert (gradient != 0).any()
    frames = (images.detach().permute(0, 2, 3, 1) * 255).to(torch.uint8).numpy()
    assert len(detector.detect(frames)) == 2


def test_sigmoid_scores_and_scaling(yolos):
    detector = hub.HubDetector(yolos, "d", 0.1, (64, 96), normalise=False, has_no_object=False)
    boxes, scores = detector.candidates(torch.rand(1, 3, 32, 200))
    assert scores.shape == (1, 7, 6)
    assert boxes.max() <= 200 * 1.5


def test_a_segmentation_network():
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_labels=3,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    )
    segmenter = hub.HubSegmenter(hub.frozen(transformers.SegformerForSemanticSegmentation(config)), "s")
    images = torch.rand(2, 3, 64, 80, requires_grad=True)
    logits = segmenter.logits(images)
    assert logits.shape == (2, 3, 64, 80)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert (gradient != 0).any()
    assert segmenter.background is None
    assert len(segmenter.class_names) == 3
