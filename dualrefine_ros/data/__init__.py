"""Readers of recorded driving: each yields Frames."""
