"""Encoders of images.

Interface
---------
`VisionConfig` says which (`config.py`: cnn, impala, resnet18/34/50, vit; pooling, CoordConv, what a byte becomes).

    encoder, fingerprint = build_encoder(config, (64, 64, 3), generator, condition_size=0)   # encoder.py
    features = encoder(images)             # (B, H, W, C) uint8, or (B, K, H, W, C) of K frames -> (B, encoder.features)
    features = encoder(images, condition)  # FiLM, where condition_size > 0: (B, condition_size)
    maps = encoder.maps(images)            # before pooling: (B, C', h, w) = (B, *encoder.map_shape)
    save_weights(encoder, path)            # weights.py: one safetensors file with settings and a probe
    load_weights(encoder, path)            # -> Fingerprint; never downloads; the learner does it for `weights: path`

Images are bytes, channels last, until they are on the device; the encoder scales them. `state_dict` has `trunk.*` and
`pool.*`: what pre-training hands on is the trunk, and the pool where it is of the same form. There is no bottleneck in
it: heads put what they need behind `features`, as the learner does (`observation.py`).

Several cameras, proprioception, and what actor and critic see: `observation.py`. Random shifts and the like:
`augmentation.py`.
"""
