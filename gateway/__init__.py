"""Postern: an API gateway and reverse-proxy sidecar for learning platforms."""

__version__ = "0.1.0"
