"""nuScenes: tables, index, labels, motion, map, and the dataset made of them."""
