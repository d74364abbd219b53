"""Rules on schemes judged on standard problems: evaluations and seconds against error.

Other wings print and draw the results.
"""
