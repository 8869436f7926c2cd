import tkinter as tk
from tkinter import filedialog
from google.cloud import vision
def main():
    win = tk.Tk()
    out = tk.StringVar()
    def pick():
        path = filedialog.askopenfilename()
        if not path:
            return
        with open(path, 'rb') as f:
            labels = vision.ImageAnnotatorClient().label_detection(image=vision.Image(content=f.read())).label_annotations
        hits = sum(1 for l in labels if l.description in ('Tree', 'Forest', 'Plant'))
        if hits:
            out.set('nature')
        else:
            out.set('not nature')
    tk.Button(win, text='Open', command=pick).pack()
    tk.Label(win, textvariable=out).pack()
    win.mainloop()
main()
