import boto3
import csv
import sys

session = boto3.Session(profile_name='default')
rek = session.client('rekognition')
s3 = session.client('s3')


def image_keys(bucket):
    paginator = s3.get_paginator('list_objects_v2')
    for page in paginator.paginate(Bucket=bucket):
        for obj in page.get('Contents', []):
            if obj['Key'].endswith('.jpg'):
                yield obj['Key']


def has_weapon(labels):
    return next((True for l in labels if l['Name'] in ('Gun', 'Weapon', 'Rifle', 'Knife') and l['Confidence'] > 90), False)


def run(bucket, out):
    writer = csv.writer(open(out, 'w', newline=''))
    writer.writerow(['key', 'flag'])
    for key in image_keys(bucket):
        labels = rek.detect_labels(Image={'S3Object': {'Bucket': bucket, 'Name': key}}, MaxLabels=50)['Labels']
        flag = 'ALERT' if has_weapon(labels) else 'ok'
        writer.writerow([key, flag])


if __name__ == '__main__':
    run(sys.argv[1], sys.argv[2])
