"""Rules judged on standard problems: force evaluations against energy error.

Other wings print and draw the results.
"""
