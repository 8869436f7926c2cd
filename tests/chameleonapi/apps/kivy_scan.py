from kivy.app import App
from kivy.uix.button import Button
from google.cloud import vision
class CamApp(App):
    def build(self):
        self.client = vision.ImageAnnotatorClient()
        b = Button(text='Scan')
        b.bind(on_press=self.scan)
        return b
    def scan(self, instance):
        image = vision.Image(content=open('shot.png','rb').read())
        labels = [l.description.lower() for l in self.client.label_detection(image=image).label_annotations]
        self.show(labels)
    def show(self, labels):
        if 'banana' in labels or 'apple' in labels:
            self.root.text = 'fruit!'
        elif 'candy' in labels:
            self.root.text = 'sweets!'
        else:
            self.root.text = '?'
if __name__ == '__main__':
    CamApp().run()
