"""Ops Console: the platform, one package per subject, and the project that puts it together."""

__version__ = "0.1.0"
