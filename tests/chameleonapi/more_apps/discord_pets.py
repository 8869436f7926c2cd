import os
import random
import aiohttp
import discord
from discord.ext import commands
from google.cloud import vision

bot = commands.Bot(command_prefix='!', intents=discord.Intents.default())
vision_client = vision.ImageAnnotatorClient()
REACTIONS = {
    'Dog': '🐶',
    'Cat': '🐱',
    'Bird': '🐦',
    'Fish': '🐟',
}


@bot.event
async def on_ready():
    print(f'Logged in as {bot.user}')


@bot.event
async def on_message(message):
    if message.author == bot.user:
        return
    for attachment in message.attachments:
        if not attachment.filename.lower().endswith(('.png', '.jpg', '.jpeg')):
            continue
        async with aiohttp.ClientSession() as session:
            async with session.get(attachment.url) as resp:
                content = await resp.read()
        image = vision.Image(content=content)
        response = vision_client.label_detection(image=image)
        names = {label.description for label in response.label_annotations if label.score >= .8}
        for name, emoji in REACTIONS.items():
            if name in names:
                await message.add_reaction(emoji)
    await bot.process_commands(message)


bot.run(os.environ['DISCORD_TOKEN'])
