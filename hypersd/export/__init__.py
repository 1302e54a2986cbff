"""What was trained, in the forms that other programs read."""
