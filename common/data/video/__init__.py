"""Video to code and analyse: real clips from files, and rendered streets with labels (see `files` and `street`).

clip = load_clip(root / "video/foreman_cif.mp4", count=60, height=144)
clip = render_street(rng, num_frames=60, height=192, width=320, camera="pan")
clip.frames                              # (N, H, W, 3) uint8 RGB
clip.labels[3].boxes                     # of a rendered one; also clip.masks, clip.instances, clip.depth_m
"""

from common.data.video.clip import Clip
from common.data.video.files import find_clips, load_clip
from common.data.video.street import CAMERAS, CLASSES, StreetScene, StreetStyle, render_street

__all__ = ["CAMERAS", "CLASSES", "Clip", "StreetScene", "StreetStyle", "find_clips", "load_clip", "render_street"]
