from google.cloud import language_v1
e = language_v1.LanguageServiceClient().analyze_entities(request={'document': {'content': 'x', 'type_': 'PLAIN_TEXT'}}).entities
t = 0
for x in e:
    if language_v1.Entity.Type(x.type_).name == 'PERSON':
        t += x.salience
print('about people' if t > 0.5 else 'about things')
