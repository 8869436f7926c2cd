# which words go to which bin
RECYCLE = ["plastic", "bottle", "can", "aluminum", "paper", "cardboard", "glass"]
COMPOST = ["fruit", "vegetable", "food", "leaf", "plant"]
DONATE = ["clothing", "shirt", "jeans", "toy", "shoe"]
SERVO = {"recycle": 18, "compost": 23, "donate": 24, "trash": 25}
