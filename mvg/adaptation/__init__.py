"""Adaptation of trained networks to a few labelled cases: methods, episodes, training and the command."""

from mvg.adaptation.methods import Adaptation

__all__ = ["Adaptation"]
