"""Simulators to record."""
