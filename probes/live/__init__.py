"""Watching an unchanged training run: what its own steps train, read off their own gradients."""
