//! Fuse an infrared and a visible picture into one, in three lines: the ISFM network with weights inside
