import streamlit as st
from google.cloud import vision
from google.oauth2 import service_account

st.title("Is it a musical instrument?")
creds = service_account.Credentials.from_service_account_info(st.secrets["gcp"])
client = vision.ImageAnnotatorClient(credentials=creds)
uploaded = st.file_uploader("Choose a picture", type=["jpg", "png"])

if uploaded is not None:
    st.image(uploaded)
    labels = client.label_detection(image=vision.Image(content=uploaded.getvalue())).label_annotations
    df = [{"label": l.description, "score": round(l.score * 100, 1)} for l in labels]
    st.table(df)
    instruments = "Guitar Piano Violin Drum Trumpet Flute Saxophone".split()
    hit = False
    for row in df:
        hit = hit or row["label"] in instruments
    if hit:
        st.success("Yes, that makes music")
        st.balloons()
    else:
        st.error("No instrument here")
