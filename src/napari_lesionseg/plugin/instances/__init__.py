"""Edit and measure single lesions."""
