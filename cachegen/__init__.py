"""CacheGen: KV caches as compact bitstreams, streamed under a deadline (SIGCOMM 2024)."""
