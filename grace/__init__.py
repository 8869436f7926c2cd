"""GRACE: loss-resilient real-time video through neural codecs (NSDI 2024)."""
