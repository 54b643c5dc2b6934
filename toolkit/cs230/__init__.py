"""Compatibility with code written for the CS230 project template of 2018."""
