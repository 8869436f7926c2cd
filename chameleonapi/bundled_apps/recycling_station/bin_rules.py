BIN_OF = {
    "recycle": ["plastic bottle", "glass bottle", "tin can", "paper", "cardboard", "carton", "envelope"],
    "compost": ["apple", "orange", "banana", "tomato", "bean", "leaf", "flower"],
    "donate": ["shirt", "jacket", "t-shirt", "sweater", "ball", "chair"],
}
