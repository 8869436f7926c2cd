"""Serving language models: one engine protocol, a simulator that agrees with a real engine, and two real engines.

api.py            Call, Completion, Handle, Engine: all that a controller imports
cost.py           the time of one engine iteration, and presets
simulator.py      SimEngine: continuous batching in virtual time, iteration by iteration
calibration.py    fits the cost model to a real model on this machine
in_process.py     TransformersEngine: transformers' continuous batching, here
http_engine.py    HttpEngine: any OpenAI-compatible completions server
server.py         such a server for a local model
"""
