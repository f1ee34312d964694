"""Frozen weights in fewer bits than float32."""
