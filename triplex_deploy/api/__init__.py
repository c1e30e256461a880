"""Offer every command as one function of Python; ``triplex_deploy`` exports them."""
