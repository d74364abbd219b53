"""Bodies, what moves them and what they conserve, as pure functions of arrays.

No step-size rule, network, configuration or file format of a run belongs here.
"""
