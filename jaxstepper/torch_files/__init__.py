"""Checkpoint files of the torch simulator, read without running code from them, and written.

The only wing that imports torch.
"""
