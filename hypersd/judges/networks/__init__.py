"""Networks that judges and metrics look through. Not judges themselves."""
