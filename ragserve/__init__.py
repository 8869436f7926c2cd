"""RAGServe (METIS): a configuration for every query of a RAG system, chosen in view of the server's free memory."""
