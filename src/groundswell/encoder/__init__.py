"""From imagettes to vectors: preprocessing, encoder, model directory, embedding table."""
