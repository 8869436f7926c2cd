import config

def suggest(ingredients):
    if any(i in config.MEAT for i in ingredients):
        return "meat"
    if any(i in config.FISH for i in ingredients):
        return "pescatarian"
    if len(ingredients) > 0:
        return "vegetarian"
    return None
