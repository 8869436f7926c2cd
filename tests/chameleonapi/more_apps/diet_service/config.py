import os
MAX_RESULTS = int(os.getenv("MAX_RESULTS", "10"))
THRESHOLD = 0.7
MEAT = ["beef", "pork", "chicken", "steak"]
FISH = ["fish", "salmon", "shrimp"]
VEGGIE = ["carrot", "broccoli", "tomato", "lettuce"]
INGREDIENTS = MEAT + FISH + VEGGIE
