"""Replay through the engine, metrics and plots."""
