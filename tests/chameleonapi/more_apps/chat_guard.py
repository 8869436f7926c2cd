import boto3, os
rekognition = boto3.client('rekognition')
bot_token = os.environ.get('TOKEN')
SEVERE = {'Explicit Nudity', 'Graphic Violence Or Gore'}
MILD = {'Suggestive', 'Alcohol', 'Gambling', 'Rude Gestures'}
def verdict(image_bytes):
    labels = rekognition.detect_moderation_labels(Image={'Bytes': image_bytes})['ModerationLabels']
    names = {l['Name'] for l in labels} | {l['ParentName'] for l in labels if l['ParentName']}
    if names & SEVERE:
        return 'ban'
    if names & MILD:
        return 'warn'
    return 'allow'
def on_photo(update, context):
    f = context.bot.get_file(update.message.photo[-1].file_id)
    v = verdict(bytes(f.download_as_bytearray()))
    if v == 'ban':
        context.bot.kick_chat_member(update.message.chat_id, update.message.from_user.id)
    elif v == 'warn':
        update.message.reply_text('Careful.')
