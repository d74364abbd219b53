"""Figures, scenes and movies of training, rollouts and evaluations.

matplotlib is imported here and nowhere else, and only when something is drawn.
"""
