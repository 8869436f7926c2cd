"""What is the sky doing?  Tests its own list, in its own order of importance."""
import io
from google.cloud import vision


class SkyWatcher:
    ORDER = [
        ("storm", ("Lightning", "Tornado", "Storm")),
        ("rain", ("Rain",)),
        ("fog", ("Fog", "Mist")),
        ("sun", ("Sun", "Sunrise", "Sunset")),
    ]

    def __init__(self, client=None):
        self.client = client or vision.ImageAnnotatorClient()

    def labels(self, path):
        with io.open(path, "rb") as fh:
            image = vision.Image(content=fh.read())
        return [a.description for a in self.client.label_detection(image=image).label_annotations]

    def verdict(self, path):
        labels = self.labels(path)
        for name, words in self.ORDER:
            if any(word in labels for word in words):
                return name
        return "unknown"


if __name__ == "__main__":
    watcher = SkyWatcher()
    print(watcher.verdict("/home/pi/sky.jpg"))
