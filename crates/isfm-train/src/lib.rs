//! Training for the ISFM image-fusion network: data, schedule, optimiser, resumable checkpoints
