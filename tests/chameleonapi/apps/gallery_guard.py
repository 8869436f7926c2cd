# any moderation label at all rejects the upload
import boto3

class Guard:
    def __init__(self, client=None, min_confidence=None):
        self.client = client or boto3.client('rekognition')
        self.min_confidence = min_confidence or 60

    def check(self, image_bytes):
        try:
            response = self.client.detect_moderation_labels(Image={'Bytes': image_bytes}, MinConfidence=self.min_confidence)
            found = []
            for label in response['ModerationLabels']:
                found.append({'name': label['Name'], 'parent': label.get('ParentName', ''), 'confidence': label['Confidence']})
            return {'success': True, 'rejected': len(response['ModerationLabels']) > 0, 'labels': found}
        except Exception as e:
            return {'success': False, 'error': str(e)}
