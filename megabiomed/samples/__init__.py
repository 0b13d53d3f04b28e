"""Questions and answers as training samples."""
