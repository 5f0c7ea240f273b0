"""What is drawn of a set of images: data factors, splits, their manifests."""
