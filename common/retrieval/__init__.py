"""Dense retrieval over chunks: cutting documents, embedding, exact nearest neighbours, recall against gold evidence.

passages.py    documents into passages of a given number of tokens
embedding.py   text to unit vectors; the default needs no download
index.py       exact L2 search with faiss, and a numpy oracle
retriever.py   all of it behind `fit` and `search`; recall@k
"""
