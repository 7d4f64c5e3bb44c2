"""Hyper-parameter search for New-LLM, a language model that carries a fixed-size context vector."""

__version__ = "0.1.0"
