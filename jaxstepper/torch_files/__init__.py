"""Reads checkpoint files of the torch simulator without running code from them, and writes them.

Nothing else imports torch.
"""
