import boto3
class Rules:
    def __init__(self):
        self.rules = []
    def when(self, *labels, min=50):
        def deco(fn):
            self.rules.append((set(labels), min, fn))
            return fn
        return deco
    def run(self, response):
        for labels, minimum, fn in self.rules:
            for l in response['Labels']:
                if l['Name'] in labels and l['Confidence'] >= minimum:
                    return fn(l)
        return None
rules = Rules()
@rules.when('Gun', 'Rifle', min=70)
def alarm(l): return 'alarm'
@rules.when('Person', min=90)
def greet(l): return 'hello'
def lambda_handler(event, context):
    client = boto3.client('rekognition')
    return rules.run(client.detect_labels(Image={'Bytes': event['body']}))
