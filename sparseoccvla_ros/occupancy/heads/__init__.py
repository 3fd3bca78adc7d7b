"""What is read off the images and the decoder: voxels and traffic lights."""
