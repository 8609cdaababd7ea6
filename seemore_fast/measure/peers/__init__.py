"""Ours against what people run today: the comparison, the contenders, memory, training steps."""
