"""The mathematics: pure tensor functions. No networks, no files, no randomness of its own."""
