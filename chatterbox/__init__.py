"""Chatterbox / Eloquent: token streaming in which every packet repeats what was not acknowledged. See README.md."""
