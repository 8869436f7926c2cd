# lamp that shows the mood of my tweets
import tweepy, time
from google.cloud import language
from google.cloud.language import enums, types
from yeelight import Bulb

bulb = Bulb("192.168.0.19")
client = language.LanguageServiceClient()

def mood(text):
    document = types.Document(content=text, type=enums.Document.Type.PLAIN_TEXT)
    sentiment = client.analyze_sentiment(document=document).document_sentiment
    print('Score: {}, Magnitude: {}'.format(sentiment.score, sentiment.magnitude))
    if sentiment.score > 0.25:
        return 'happy'
    elif sentiment.score < -0.25:
        return 'sad'
    else:
        return 'neutral'

def show(m):
    colors = {'happy': (255, 200, 0), 'sad': (0, 0, 255), 'neutral': (255, 255, 255)}
    bulb.set_rgb(*colors[m])

auth = tweepy.OAuthHandler('x', 'y')
api = tweepy.API(auth)
while True:
    tweets = api.user_timeline(count=1)
    show(mood(tweets[0].text))
    time.sleep(60)
