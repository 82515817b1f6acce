"""Distributed multi-modal dataset reinforcement: see README.md for the tour."""
