"""Self-supervised methods: each file wires views, backbone, heads and objective, and tells the whole method."""
