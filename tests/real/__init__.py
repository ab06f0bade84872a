"""Pairs made of the metadata of real models, with small random weights."""
