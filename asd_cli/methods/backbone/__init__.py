"""Frozen image networks whose features describe pixels; from timm, which is imported only when one is built."""
