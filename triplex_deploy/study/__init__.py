"""Data sets x models x folds x seeds as a grid that resumes, and the tables made of it."""
