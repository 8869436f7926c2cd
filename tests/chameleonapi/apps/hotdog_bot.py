# Telegram bot: is it a hot dog?
import logging
import os
from io import BytesIO
from telegram.ext import Updater, MessageHandler, CommandHandler, Filters
from google.cloud import vision

logging.basicConfig(level=logging.INFO)
logger = logging.getLogger(__name__)

client = vision.ImageAnnotatorClient()


def start(update, context):
    update.message.reply_text("Send me a picture and I tell you if it's a hot dog!")


def is_hotdog(content):
    image = vision.Image(content=content)
    response = client.label_detection(image=image, max_results=15)
    descriptions = [l.description.lower() for l in response.label_annotations]
    logger.info("labels: %s", descriptions)
    return any('hot dog' in d or 'sausage' in d for d in descriptions)


def photo(update, context):
    f = context.bot.get_file(update.message.photo[-1].file_id)
    buf = BytesIO()
    f.download(out=buf)
    if is_hotdog(buf.getvalue()):
        update.message.reply_text("Hot dog! \U0001F32D")
    else:
        update.message.reply_text("Not hot dog.")


def main():
    updater = Updater(os.environ["TELEGRAM_TOKEN"], use_context=True)
    dp = updater.dispatcher
    dp.add_handler(CommandHandler("start", start))
    dp.add_handler(MessageHandler(Filters.photo, photo))
    updater.start_polling()
    updater.idle()


if __name__ == "__main__":
    main()
