"""Tuning an integer network against its float network after quantization. Needs torch.

Importing this package does not import torch; `deployq.training.distill` does.
"""
