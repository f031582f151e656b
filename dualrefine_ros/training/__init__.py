"""Offline training of the network."""
