"""nuScenes: tables, index, labels, ego motion, maps, and the dataset built from them."""
