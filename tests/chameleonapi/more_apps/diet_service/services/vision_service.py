from google.cloud import vision


class VisionService:
    def __init__(self, max_results, threshold):
        self._client = None
        self.max_results = max_results
        self.threshold = threshold

    @property
    def client(self):
        if self._client is None:
            self._client = vision.ImageAnnotatorClient()
        return self._client

    def labels(self, content):
        response = self.client.label_detection(image=vision.Image(content=content), max_results=self.max_results)
        return [a.description.lower() for a in response.label_annotations if a.score >= self.threshold]
