"""CacheBlend: answer from reused KV caches of text chunks, recomputing only the tokens that need it.

Yao et al., "CacheBlend: Fast Large Language Model Serving for RAG with Cached Knowledge Fusion", EuroSys 2025. What to import
to bring a method or a workload of your own: `cacheblend.api`. To use it on your own texts: `cacheblend.generate.BlendedModel`.
"""
