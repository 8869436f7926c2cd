from google.cloud import vision_v1 as vision
import logging
log = logging.getLogger(__name__)
THRESHOLD = 0.6
TRACKED = ("Person", "Bicycle", "Car")
class Crossing(object):
    def __init__(self): self._c = vision.ImageAnnotatorClient()
    def objects(self, jpg):
        r = self._c.object_localization(image=vision.Image(content=jpg))
        return [o for o in r.localized_object_annotations if o.score >= THRESHOLD]
    def may_go(self, jpg):
        for o in self.objects(jpg):
            log.debug("%s %f", o.name, o.score)
            if o.name not in TRACKED:
                continue
            return False
        return True
