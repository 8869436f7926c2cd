"""What each part checks and runs."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from common.results import Row
from experiments.gpu_bench import checks, networks


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the bench.

    Attributes:
        name: how it is asked for.
        shows: one line.
        check: compares with a reference and raises ResultsError where it differs; gets the model's name and the device.
        model: the shape, a `model` config.
        tiny_model: the shape for trying the part out where there is no GPU.
        commands: overrides of `experiments.run`, one list per command, most important first; without paper, scale, model.
        rows: measures something itself, beside its bound: (model, device, is_tiny) to rows of an experiment of the part's name.
        tiny: overrides that make a command small, for trying out.
    """

    name: str
    shows: str
    check: Callable[[str, str], str]
    model: str
    commands: Sequence[Sequence[str]] = ()
    rows: Callable[[str, str, bool], Iterator[Row]] | None = None
    tiny_model: str = "random_tiny"
    tiny: Sequence[str] = ("scale=smoke",)


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part(
            "cacheblend",
            "TTFT against full prefill by recompute ratio and prompt length; where the time goes; KV on the GPU, in RAM, on disk",
            checks.blending_everything_is_a_prefill,
            "random_mistral_7b",
            [
                *(
                    [
                        "experiment=speed_vs_ratio",
                        f"workload_args.num_chunks={num_chunks}",
                        "+experiment_args.speed_vs_ratio.ratios=[0.05,0.15,0.3,0.5,1.0]",
                        "num_items=2",
                    ]
                    for num_chunks in (8, 4, 16, 32)
                ),
                ["experiment=ttft_breakdown", "num_items=2"],
                ["experiment=storage_device", "workload=random_tokens", "num_items=2"],
            ],
        ),
        Part(
            "cachegen",
            "rates of encoding and decoding a 7B-shaped cache; TTFT by bandwidth against text and 8 bit",
            checks.a_decoded_cache_is_what_was_quantised,
            "random_mistral_7b",
            [
                ["experiment=coder_speed", "num_items=1", "+experiment_args.coder_speed.num_tokens=4096"],
                ["experiment=ttft_vs_bandwidth", "num_items=1"],
            ],
        ),
        Part(
            "llmsteer",
            "steering against no steering, in prefill and decode; kernels by length; cost of selection",
            checks.steered_attention_is_the_oracle,
            "random_llama31_8b",
            [
                ["experiment=kernels"],
                ["experiment=online_delay", "num_items=1"],
                ["experiment=offline_cost"],
            ],
        ),
        Part(
            "ragserve",
            "the serving engine beside its bounds; the simulator's cost model fitted to it; a trace replayed on both",
            checks.the_engine_says_what_the_model_says,
            "random_mistral_7b",
            [["experiment=engine_calibration"], ["experiment=engine_replay"]],
            lambda model, device, is_tiny: networks.ragserve(model, device, is_tiny=is_tiny),
        ),
        Part(
            "grace",
            "the full-size codec at 720p: frames per second of encoding and decoding, beside the bound of its operations",
            checks.both_ends_decode_the_same_frame,
            "none",
            rows=lambda _model, device, is_tiny: networks.grace(device, is_tiny=is_tiny),
            tiny_model="none",
        ),
        Part(
            "vision",
            "AccModel and the detector at 720p: frames per second by batch, beside the bound of their operations",
            checks.batches_and_fusing_change_nothing,
            "none",
            rows=lambda _model, device, is_tiny: networks.vision(device, is_tiny=is_tiny),
            tiny_model="none",
        ),
    )
}
"""Parts that run the papers' experiments, in order of importance."""
