"""What a step read, and the loss of each of its documents: `megabiomed explain`."""
