"""Corpora: text in, memory-mapped windows of ids out."""
