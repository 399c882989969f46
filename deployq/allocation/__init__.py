"""Bits per layer: what each costs in flash and accuracy, and the best choice within a budget."""
