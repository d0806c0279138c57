"""The segmentation model and its checkpoints."""
