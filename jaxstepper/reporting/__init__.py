"""What users are told while work goes on: notes, bars, lines and W&B.

Reporting looks at training, and never changes it.
"""
