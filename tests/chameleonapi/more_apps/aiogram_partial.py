import asyncio, functools
from aiogram import Bot, Dispatcher, executor, types
from google.cloud import vision
bot = Bot('t'); dp = Dispatcher(bot)
cl = vision.ImageAnnotatorClient()
def sync(content):
    return cl.label_detection(image=vision.Image(content=content)).label_annotations
@dp.message_handler(content_types=['photo'])
async def on_photo(message: types.Message):
    buf = await message.photo[-1].download(destination_file='x.jpg')
    with open('x.jpg', 'rb') as f:
        loop = asyncio.get_event_loop()
        anns = await loop.run_in_executor(None, functools.partial(sync, f.read()))
    tags = [a.description for a in anns if a.score > 0.75]
    if {'Cat', 'Kitten'} & {*tags}:
        await message.answer('meow')
    elif {'Dog', 'Puppy'} & {*tags}:
        await message.answer('woof')
executor.start_polling(dp)
