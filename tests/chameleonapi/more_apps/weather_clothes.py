from google.cloud import vision
hot = ['Shorts', 'T-shirt', 'Sandal']; cold = ['Coat', 'Scarf', 'Glove', 'Boot']
def f(c, temp):
    n = [l.description for l in vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=c)).label_annotations]
    if temp > 20:
        return any(x in hot for x in n)
    return any(x in cold for x in n)
import pyowm
t = pyowm.OWM('k').weather_manager().weather_at_place('Oslo').weather.temperature('celsius')['temp']
print('good' if f(open('x','rb').read(), t) else 'change clothes')

