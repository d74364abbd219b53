"""The objective that trains through all the steps of a window of time."""
