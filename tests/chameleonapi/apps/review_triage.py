import csv
import boto3

comprehend = boto3.client(service_name='comprehend', region_name='us-west-2')


def route(review):
    res = comprehend.detect_sentiment(Text=review, LanguageCode='en')
    sentiment = res['Sentiment']
    if sentiment == 'NEGATIVE':
        return 'support'
    if sentiment == 'POSITIVE':
        return 'marketing'
    return 'archive'


def main():
    with open('reviews_in.csv') as f, open('routed.csv', 'w') as out:
        writer = csv.writer(out)
        for row in csv.reader(f):
            writer.writerow([row[0], route(row[1])])


if __name__ == '__main__':
    main()
