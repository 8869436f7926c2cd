RULES = (
    ("round", {"Apple", "Orange", "Ball", "Wheel"}),
    ("clothes", {"Shirt", "T-shirt", "Sweater"}),
    ("sharp", {"Tin can", "Glass bottle"}),
)
