"""Predict many slides: what to predict, where results go, who does the work, and how to resume."""
