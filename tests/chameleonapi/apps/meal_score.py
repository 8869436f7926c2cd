# cheat meal detector with a counter per group: refuses to be simple
from collections import Counter
import boto3
GROUPS = {'Pizza': 'bad', 'Hamburger': 'bad', 'French fries': 'bad', 'Salad': 'good', 'Fruit': 'good', 'Broccoli': 'good', 'Fish': 'good'}

def judge(image):
    labels = boto3.client('rekognition').detect_labels(Image={'Bytes': image})['Labels']
    votes = Counter(GROUPS[l['Name']] for l in labels if l['Name'] in GROUPS)
    if not votes:
        return 'not food'
    return votes.most_common(1)[0][0]
