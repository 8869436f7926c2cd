"""What a run is set in: its clips, its server DNN, its clock."""

from time import process_time

from accmpeg.api import Clip, Site
from accmpeg.camera_models import CameraModels
from accmpeg.dnn import Dnn
from accmpeg.servers import load_dnn, model_name
from common.errors import ConfigError
from common.experiment import Run

# CPU seconds of this process: what a camera's only core would take, whatever else runs on this machine.
cpu_clock = process_time


def clips_of(run: Run) -> list[tuple[str, Clip]]:
    """The clips of the run's workload with their keys.

    Raises:
        ConfigError: the experiment needs a workload and none was given.
    """
    if run.workload is None:
        raise ConfigError(f"experiment {run.experiment!r} needs a workload; give workload=NAME.")
    rng = run.rng("workload")
    draw = getattr(run.workload, "items_from", None)
    clips = run.workload.items(rng, run.num_items) if draw is None else draw(run.data, rng, run.num_items)
    # Each seed draws clips of its own, so the key names it: clips of several seeds are several items.
    return [(f"s{run.seed}-{index:03d}-{clip.name}", clip) for index, clip in enumerate(clips)]


def dnn_for(run: Run, name: str | None = None) -> Dnn:
    """The run's server DNN, or another one by name; notes the weights among the run's inputs."""
    dnn, sha256 = load_dnn(model_name(run.model) if name is None else name, run.data.get("root"))
    run.note_input(f"dnn {dnn.name}", sha256)
    return dnn


def site_for(run: Run, clip: Clip, dnn: Dnn) -> Site:
    """Where policies are opened for a clip of a run."""
    return site_of(clip, dnn, run.data.get("root"), run.seed)


def site_of(clip: Clip, dnn: Dnn, data_root: str | None = None, seed: int = 0) -> Site:
    """Where policies are opened for a clip."""
    height, width = clip.frames.shape[1:3]
    models = CameraModels(dnn.name, lambda: camera_dnn(dnn, data_root))
    return Site(dnn, height, width, clip.fps, models, seed)


def camera_dnn(dnn: Dnn, data_root: str | None) -> Dnn:
    """The detector that fits on Vigil's camera: the server's own where it is small, FastestDet for larger ones."""
    from accmpeg.servers import CAMERA_DETECTORS

    name = CAMERA_DETECTORS.get(dnn.name, dnn.name)
    return dnn if name == dnn.name else load_dnn(name, data_root)[0]
