"""Home automation platform: the target comes from the user's configuration."""
import voluptuous as vol
import boto3

CONF_TARGET = 'target'
CONFIG = vol.Schema({vol.Optional(CONF_TARGET): str})


def setup_platform(hass, config, add_devices, discovery_info=None):
    client = boto3.client('rekognition', region_name=config.get('region_name'))
    add_devices([Entity(client, config.get(CONF_TARGET))])


class Entity(object):
    def __init__(self, client, target):
        self._client = client
        self._target = target
        self.state = 0

    def process_image(self, image):
        response = self._client.detect_labels(Image={'Bytes': image})
        count = 0
        for label in response['Labels']:
            if label['Name'] == self._target:
                count = 1
        self.state = count
