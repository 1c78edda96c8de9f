"""Trainable networks, one file each, and the loop they share. Know arrays and torch, not jobs or files."""
