"""What users are told while work goes on: notes, bars, lines, the metrics file and W&B.

Reporting looks at training, and never changes it.
"""
