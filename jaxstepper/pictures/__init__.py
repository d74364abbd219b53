"""Figures, scenes and movies of training, rollouts and evaluations.

Nothing else imports matplotlib, and only drawing does.
"""
