"""Code for the figures on photographs: a ResNet-18 for the trainer, and the page."""
