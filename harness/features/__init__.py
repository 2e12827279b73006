"""Features of images: extracted once, cached by content."""
