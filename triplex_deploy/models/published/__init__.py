"""Checkpoints of the published TRIPLEX code, 2024 and 2025."""
