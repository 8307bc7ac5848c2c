"""Damaged and unsound input through every command: nothing but one clear sentence may come of it.

``make fuzz`` runs it for an hour. An input is drawn from a seed and its number alone, so each that
was mishandled can be made again: ``make fuzz OPTIONS="--seed S --input N"``.
"""
