import kivy
from kivy.app import App
from kivy.uix.boxlayout import BoxLayout
from kivy.clock import Clock
from google.cloud import vision
import cv2


class Detector:
    targets = {'Person', 'Man', 'Woman'}

    def __init__(self):
        self.client = vision.ImageAnnotatorClient()
        self.last = None

    def objects(self, frame):
        ok, buf = cv2.imencode('.jpg', frame)
        image = vision.Image(content=buf.tobytes())
        return self.client.object_localization(image=image).localized_object_annotations

    def somebody(self, frame):
        found = False
        for obj in self.objects(frame):
            if obj.name in self.targets and obj.score > 0.6:
                found = True
                break
        return found


class Panel(BoxLayout):
    def __init__(self, **kwargs):
        super(Panel, self).__init__(**kwargs)
        self.capture = cv2.VideoCapture(0)
        self.detector = Detector()
        Clock.schedule_interval(self.update, 1.0)

    def update(self, dt):
        ret, frame = self.capture.read()
        if not ret:
            return
        if self.detector.somebody(frame):
            self.ids.status.text = 'Somebody at the door'
            self.ids.bell.play()
        else:
            self.ids.status.text = 'Nobody'


class DoorApp(App):
    def build(self):
        return Panel()


if __name__ == '__main__':
    DoorApp().run()
