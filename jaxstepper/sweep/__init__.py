"""Searches over settings: trials, the study that stores them, and several seeds side by side."""
