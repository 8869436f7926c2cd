import tomllib, boto3, pathlib
R = tomllib.loads((pathlib.Path(__file__).parent / 'rules.toml').read_text())
def check(b):
    names = {l['Name'] for l in boto3.client('rekognition').detect_labels(Image={'Bytes': b}, MinConfidence=70)['Labels']}
    return [k for k, v in R.items() if names.intersection(v['labels'])]
print(check(open('x','rb').read()))
