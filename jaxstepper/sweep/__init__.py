"""Searches over settings: trials, the study that keeps them, and several seeds side by side."""
