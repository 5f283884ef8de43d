"""Pictures, masks and the folders they live in: arrays and files, no network and no screen."""
