import tkinter as tk
from tkinter import filedialog, messagebox
from google.cloud import vision
def classify(path):
    client = vision.ImageAnnotatorClient()
    with open(path, 'rb') as f:
        resp = client.label_detection(image=vision.Image(content=f.read()))
    for l in resp.label_annotations:
        d = l.description.lower()
        if 'dog' in d: return 'dog'
        if 'cat' in d: return 'cat'
    return None
def choose():
    path = filedialog.askopenfilename()
    if not path: return
    r = classify(path)
    if r == 'dog': messagebox.showinfo('Result', 'A dog')
    elif r == 'cat': messagebox.showinfo('Result', 'A cat')
    else: messagebox.showwarning('Result', 'Neither')
root = tk.Tk()
tk.Button(root, text='Open', command=choose).pack()
root.mainloop()
