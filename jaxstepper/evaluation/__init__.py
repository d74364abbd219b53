"""Rules judged on standard problems: force evaluations against energy error.

How the results are printed or drawn is not decided here.
"""
